"""Which characters are taken, and how test tasks differ from training tasks."""

from pathlib import Path

import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.distortions import Distortion
from tests.tasks.drawn_archives import write_minimal


def test_glyphs_where_no_data_is_named():
    tasks = CharacterSettings(way=7, shots=2, queries=3).train()
    assert tasks.alphabets[0].startswith("Glyph") or len(tasks.alphabets) > 10
    assert (tasks.way, tasks.shots, tasks.queries) == (7, 2, 3)


def test_a_scheme_without_omniglot_warns():
    with pytest.warns(RuntimeWarning, match="scheme lake is Omniglot's and changes nothing"):
        CharacterSettings(scheme="lake").train()


def test_omniglot_where_data_is_named(official_data, monkeypatch):
    by_argument = CharacterSettings(data_dir=official_data).train()
    monkeypatch.setenv("METARL_DATA", str(official_data))
    by_variable = CharacterSettings().train()
    for tasks in (by_argument, by_variable):
        assert tasks.num_classes == 4 * 136
        assert "Korean" in tasks.alphabets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"way": 500}, "way of at most"),
        ({"shots": 15, "queries": 10}, "need 25 examples per class"),
        ({"train_shots": 40}, "need 41 examples per class"),
        ({"way": 50, "train_way": 5, "grouping": "alphabets"}, "way of at most"),
        ({"grouping": "alphabets", "train_way": 60}, "classes of the largest alphabet"),
        ({"image_size": 4096}, "image_size"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_before_images_are_decoded(
    change, message, tmp_path, fresh_cache, monkeypatch
):
    def refuse(*args):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("metarl.tasks.omniglot.decode", refuse)
    write_minimal(tmp_path)
    with pytest.raises(SettingsError, match=message):
        CharacterSettings(data_dir=tmp_path, **change).train()


def test_validation_tasks_where_there_are_some(official_data):
    glyphs = CharacterSettings(train_shots=3)
    validation = glyphs.validation(glyphs.train())
    assert validation is not None and (validation.part, validation.shots) == ("validation", 1)
    minimal = CharacterSettings(data_dir=official_data)
    assert minimal.validation(minimal.train()) is None


def test_ink_and_paper_change_places(generator):
    ink, paper = (CharacterSettings(invert=invert) for invert in (True, False))
    for choose in (lambda s: s.train(), lambda s: s.test(s.train())):
        images = []
        for settings in (ink, paper):
            tasks = choose(settings).sample(2, generator.manual_seed(0))
            images.append(tasks.support.inputs)
        torch.testing.assert_close(images[1], 1 - images[0])
        assert images[0].mean() < 0.5, "most of an image is paper, 0"


def test_real_ink_and_paper_change_places(official_data):
    images = [
        CharacterSettings(official_data, invert=invert).train().pool.images
        for invert in (True, False)
    ]
    assert torch.equal(images[1], 255 - images[0])


def test_the_test_tasks_of_the_readme(official_data):
    settings = CharacterSettings(data_dir=official_data, train_shots=10)
    train = settings.train()
    test = settings.test(train)
    assert (train.shots, test.shots) == (10, 1)
    assert test.num_classes == 106, "unrotated characters of new alphabets"
    assert not set(test.alphabets) & set(train.alphabets)


def test_what_is_of_training_only():
    distortion = Distortion(shift=0.1)
    settings = CharacterSettings(
        way=4, train_way=30, rotations="reflected", test_grouping="drawers", distortion=distortion
    )
    train = settings.train()
    assert (train.way, train.grouping, train.distortion) == (30, "none", distortion)
    test, validation = settings.test(train), settings.validation(train)
    assert validation is not None and (test.part, test.rotations) == ("test", "none")
    for tasks in (test, validation):
        assert (tasks.way, tasks.grouping, tasks.distortion) == (4, "drawers", None)
    assert CharacterSettings().train().distortion is None


def test_images_of_another_size(official_data, generator):
    small = CharacterSettings(official_data, image_size=20).train().sample(1, generator)
    assert small.support.inputs.shape == (1, 5, 1, 20, 20)
    with pytest.raises(SettingsError, match="Glyphs have 28 pixels"):
        CharacterSettings(image_size=20).train()
    with pytest.raises(SettingsError, match="at least 1 pixel, got 0"):
        CharacterSettings(official_data, image_size=0).train()


def test_labels_tell_what_was_done_to_the_characters():
    assert CharacterSettings().label == "glyphs"
    settings = CharacterSettings(
        Path("data"), rotations="reflected", test_grouping="drawers", image_size=105,
        distortion=Distortion(stroke=0.5),
    )  # fmt: skip
    assert settings.label == (
        "Omniglot minimal-1, 105 pixels, trained on reflections, trained on distortions, "
        "within alphabets"
    )
