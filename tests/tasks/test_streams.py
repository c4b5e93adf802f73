"""Streams: their order, their labels and their images."""

import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks import Glyphs
from metarl.tasks.streams import LabelCode, Streams, earlier_instances


@pytest.fixture
def episodes():
    return Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)


def test_every_class_comes_equally_often_in_a_random_order(episodes, generator):
    streams = Streams(episodes)
    assert (streams.length, streams.instances, streams.code) == (12, 4, LabelCode(1, 3))
    tasks = streams.sample(50, generator)
    assert tasks.support is tasks.query and tasks.num_tasks == 50
    labels = tasks.query.targets
    assert labels.shape == (50, 12) and labels.dtype == torch.int64
    assert all(row.bincount().tolist() == [4, 4, 4] for row in labels)
    assert (labels != labels[:1]).any(0).all(), "one order for all streams"
    assert tasks.query.inputs.shape == (50, 12, 1, 28, 28)


def test_labels_go_with_the_images_and_are_drawn_again(episodes):
    """Streams of one seed show the same images in the same order, with any labels."""
    one, other = (
        Streams(episodes, labels).sample(4, torch.Generator().manual_seed(1)).query
        for labels in ("one-hot", "strings")
    )
    images = episodes.sample(4, torch.Generator().manual_seed(1))
    for t in range(4):
        for k in range(3):
            drawn = torch.cat([p.inputs[t, p.targets[t] == k] for p in _parts(images)])
            known = {image.numpy().tobytes() for image in drawn}
            mine = [i for i in range(12) if one.inputs[t, i].numpy().tobytes() in known]
            assert len(mine) == 4 and len(one.targets[t, mine].unique()) == 1
    assert other.targets.max() < 3125 and other.targets.max() > 100
    assert (one.targets[:, 0] != one.targets[0, 0]).any()


def _parts(tasks):
    return tasks.support, tasks.query


def test_strings_differ_within_a_stream(episodes, generator):
    labels = Streams(episodes, "strings").sample(20, generator).query.targets
    assert all(len(row.unique()) == 3 for row in labels)


def test_a_label_is_spelled_place_by_place():
    code = LabelCode(5, 5)
    assert (code.size, code.width) == (3125, 25)
    letters = code.spell(torch.tensor([0, 7, 3124]))
    assert letters.tolist() == [[0, 0, 0, 0, 0], [2, 1, 0, 0, 0], [4, 4, 4, 4, 4]]
    assert len(code.spell(torch.arange(3125)).unique(dim=0)) == 3125
    assert LabelCode(1, 4).spell(torch.tensor([3])).tolist() == [[3]]


def test_earlier_instances_are_counted():
    labels = torch.tensor([[2, 0, 2, 2, 0], [1, 1, 1, 1, 1]])
    assert earlier_instances(labels).tolist() == [[0, 0, 1, 2, 1], [0, 1, 2, 3, 4]]


def test_splits_share_no_class(episodes, generator):
    streams = Streams(episodes)
    seen = [set(streams.split(s).sample(30, generator).info["classes"].flatten().tolist())
            for s in ("train", "test")]  # fmt: skip
    assert not seen[0] & seen[1]


def test_the_same_seed_gives_the_same_streams(episodes):
    one, same, other = (
        Streams(episodes).sample(3, torch.Generator().manual_seed(s)).query for s in (4, 4, 5)
    )
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.targets, same.targets)
    assert not torch.equal(one.targets, other.targets)


def test_what_cannot_be_is_refused(episodes, generator):
    with pytest.raises(SettingsError, match=r"'string'\. Did you mean 'strings'\?"):
        Streams(episodes, "string")
    with pytest.raises(SettingsError, match="at least 1 task, got 0"):
        Streams(episodes).sample(0, generator)
