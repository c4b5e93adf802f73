import functools

import pytest
import torch

from metarl.errors import SettingsError, TaskError
from metarl.tasks import glyphs as glyphs_module
from metarl.tasks.glyphs import Glyphs

few_glyphs = functools.partial(Glyphs, alphabets=10, characters=8, drawings=20)


@pytest.fixture(scope="module")
def glyphs():
    return few_glyphs()


def test_format_is_that_of_omniglot(glyphs, generator):
    images = glyphs.pool.images
    assert images.shape == (10 * 8 * 20, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert glyphs.pool.names[9] == "Glyphs02/character02"
    batch = glyphs.sample(4, generator)
    assert batch.query.inputs.shape == (4, 75, 1, 28, 28)


def test_ink_is_about_as_rare_as_in_omniglot_and_inside(glyphs):
    ink = glyphs.pool.images.float().div(255).squeeze(1)
    assert 0.05 < ink.mean() < 0.12  # 0.08 there
    assert (ink.flatten(1).amax(1) > 0.7).all()
    assert ink[:, [0, -1]].mean() < 0.03 * ink.amax()
    assert (ink.sum((1, 2)) > 8).all()


def test_splits_are_by_alphabet(glyphs):
    alphabets = [set(glyphs.split(part).alphabets) for part in ("train", "validation", "test")]
    assert [len(names) for names in alphabets] == [6, 1, 3]
    assert len(set.union(*alphabets)) == 10


def test_a_seed_fixes_the_characters():
    first = few_glyphs(alphabets=2, seed=1).pool.images
    glyphs_module._pool.cache_clear()
    assert torch.equal(few_glyphs(alphabets=2, seed=1).pool.images, first)
    assert not torch.equal(few_glyphs(alphabets=2, seed=2).pool.images, first)


def test_drawings_of_a_character_differ_but_less_than_characters(glyphs):
    """Neighbours in pixel space are mostly of the same character, and never the same image."""
    images = torch.nn.functional.avg_pool2d(glyphs.pool.images.float() / 255, 3, 2).flatten(1)
    distances = torch.cdist(images, images).fill_diagonal_(torch.inf)
    assert distances.min() > 0.1
    character = torch.arange(80).repeat_interleave(20)
    same = character[distances.argmin(1)] == character
    assert 0.3 < same.float().mean() < 0.95  # 1/80 by chance


def test_drawing_does_not_touch_the_global_generator(glyphs):
    state = torch.get_rng_state()
    few_glyphs(alphabets=3, seed=9)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_numbers():
    with pytest.raises(SettingsError, match="at least 1 alphabet, character and drawing, got 5, 0"):
        Glyphs(alphabets=5, characters=0)
    with pytest.raises(SettingsError, match="has 4"):
        Glyphs(way=2, shots=1, queries=4, alphabets=2, characters=3, drawings=4)
    with pytest.raises(TaskError, match="validation split has no classes"):
        Glyphs(way=2, queries=1, alphabets=2, characters=3, drawings=4).split("validation")


def test_other_default_types_draw_the_same_glyphs():
    def drawn():
        return glyphs_module.draw(2, 3, 2, torch.Generator().manual_seed(0))

    expected = drawn()
    torch.set_default_dtype(torch.float64)
    try:
        images = drawn()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(images, expected)
