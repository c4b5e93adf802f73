"""Classes and groups with few examples: left out, or taken with weights."""

from dataclasses import replace

import pytest
import torch

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks import FewShotData, check_task_distribution
from metarl.tasks.streams import Streams
from metarl.tasks.unequal import draw_rows, places

COUNTS = [9, 2, 5, 3, 1, 8, 12, 4]


def few_shot(**settings):
    """Examples that tell their class, and their number above 0."""
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    x = torch.stack((labels, torch.arange(len(labels)) + 1), 1).float()
    return FewShotData(x, labels, **{"way": 3, "shots": 4, "queries": 3, **settings})


def sample(tasks, count=200, seed=0):
    return tasks.sample(count, torch.Generator().manual_seed(seed))


def test_small_classes_are_refused_by_name():
    with pytest.raises(SettingsError, match=r"'4' of the train split has 1\..*'drop'.*'take'"):
        few_shot()


def test_small_classes_are_dropped():
    tasks = few_shot(small_classes="drop")
    assert tasks.names == ("0", "5", "6") and tasks.num_classes == 3
    assert tasks.left_out == ("1", "2", "3", "4", "7")
    batch = sample(tasks)
    assert batch.support.weights is None
    assert set(batch.info["classes"].unique().tolist()) == {0, 5, 6}
    assert set(batch.info["labels"].unique().tolist()) == {0, 1, 2}
    with pytest.raises(SettingsError, match=r"at most 3, .* with enough examples \(5 left out\)"):
        few_shot(small_classes="drop", way=4)
    with pytest.raises(TaskError, match="All classes of the train split have too few images"):
        few_shot(small_classes="drop", shots=40)


def test_a_least_number_of_images_can_be_set():
    assert few_shot(min_images=7).names == ("0", "5", "6")
    assert few_shot(min_images=4, small_classes="take").names == ("0", "2", "5", "6", "7")
    with pytest.raises(SettingsError, match="'7' of the train split has 4"):
        few_shot(min_images=4)
    with pytest.raises(SettingsError, match="`min_images` of at least 2"):
        few_shot(min_images=1, small_classes="take")


def test_small_classes_are_taken_with_what_they_have():
    tasks = few_shot(small_classes="take")
    check_task_distribution(tasks, require_splits=False)
    assert tasks.left_out == ("4",) and tasks.has_padding
    batch = sample(tasks)
    counts = torch.tensor(COUNTS)[batch.info["classes"]]
    expected = {"support": (counts - 1).clamp(max=4), "query": None}
    expected["query"] = (counts - expected["support"]).clamp(max=3)
    for name, size in (("support", 4), ("query", 3)):
        part = getattr(batch, name)
        weights = part.weights.view(200, 3, size)
        assert torch.equal(weights.sum(2), expected[name].float())
        assert torch.equal(part.weights == 0, part.inputs[:, :, 1] == 0)
        assert (
            not part.inputs[part.weights == 0].any() and not part.targets[part.weights == 0].any()
        )
        real = part.weights > 0
        classes = batch.info["classes"].gather(1, part.targets)
        assert torch.equal(part.inputs[:, :, 0][real].long(), classes[real])
    rows = torch.cat((batch.support.inputs, batch.query.inputs), 1)[:, :, 1]
    for row in rows:
        real = row[row > 0]
        assert len(real.unique()) == len(real)


def test_where_all_classes_are_large_enough_nothing_changes():
    a, b = (sample(few_shot(min_images=7, small_classes=s)) for s in ("refuse", "take"))
    assert torch.equal(a.support.inputs, b.support.inputs) and b.support.weights is None


def test_large_classes_are_drawn_as_among_themselves():
    """The rows of a class with enough examples are those of the same draw without padding."""
    tasks = few_shot(small_classes="take", way=7)
    batch = sample(tasks, 50)
    support = batch.support.inputs.view(50, 7, 4, 2)
    numbers = support[:, :, :, 1][batch.info["classes"] == 6]
    assert ((numbers > 0).all(1) & (numbers.sort(1).values.diff(dim=1) > 0).all(1)).all()
    drawn = numbers.flatten().long().bincount()
    assert (drawn[-12:] > 0).all()


def test_every_task_has_its_own_number_of_shots():
    tasks = few_shot(small_classes="drop", fewest_shots=1)
    check_task_distribution(tasks, require_splits=False)
    batch = sample(tasks, 400)
    shots = batch.support.weights.view(400, 3, 4).sum(2)
    assert (shots == shots[:, :1]).all()
    drawn = shots[:, 0].long().bincount(minlength=5)
    assert drawn[0] == 0 and (drawn[1:] > 60).all()
    assert (batch.query.weights == 1).all()
    mixed = sample(few_shot(small_classes="take", fewest_shots=2))
    known = (torch.tensor(COUNTS)[mixed.info["classes"]] - 1).clamp(max=4)
    shots = mixed.support.weights.view(200, 3, 4).sum(2)
    assert ((shots == known) | (shots >= 2)).all() and (shots <= known).all()


@pytest.mark.parametrize("fewest", [0, 5])
def test_bad_numbers_of_shots(fewest):
    with pytest.raises(SettingsError, match=r"`fewest_shots` from 1 to the 4 shots"):
        few_shot(small_classes="drop", fewest_shots=fewest)


def test_classes_with_descriptions_may_have_no_shot():
    described = {k: [float(k), 1.0] for k in range(len(COUNTS))}
    tasks = few_shot(small_classes="drop", fewest_shots=0, descriptions=described)
    assert (sample(tasks).support.weights.sum(1) == 0).any()


def test_unknown_settings_and_combinations():
    with pytest.raises(SettingsError, match="Did you mean 'drop'"):
        few_shot(small_classes="dropp")
    with pytest.raises(SettingsError, match="drawers"):
        replace(few_shot(small_classes="drop"), small_classes="take", grouping="drawers")
    with pytest.raises(SettingsError, match="as many examples of every class"):
        Streams(few_shot(small_classes="take"))
    with pytest.raises(SettingsError, match=r"needs images \[C, H, W\], got examples \(2,\)"):
        from metarl.tasks.distortions import Distortion

        replace(few_shot(small_classes="drop"), distortion=Distortion(shift=0.1))


def noisy(inputs, generator):
    """Adds noise to the number of each example."""
    noise = torch.rand(inputs.shape[:2], generator=generator, device=inputs.device)
    return inputs + torch.stack((0 * noise, noise), 2)


def test_training_inputs_are_augmented_and_padding_stays_empty():
    plain = few_shot(small_classes="take", splits={"train": [0, 1, 2, 3, 5], "test": [6, 7]}, way=2)
    tasks = replace(plain, augment_support=noisy)
    check_task_distribution(tasks, require_splits=False)
    a, b = sample(plain), sample(tasks)
    assert torch.equal(a.query.inputs, b.query.inputs)
    change = b.support.inputs - a.support.inputs
    assert (change[:, :, 0] == 0).all()
    assert torch.equal(change[:, :, 1] > 0, a.support.weights > 0)
    both = sample(replace(tasks, augment_query=noisy))
    assert ((both.query.inputs - a.query.inputs)[:, :, 1] > 0).any()
    assert torch.equal(sample(tasks.split("test")).support.inputs,
                       sample(plain.split("test")).support.inputs)  # fmt: skip


@pytest.mark.parametrize(
    "augment",
    [lambda x, g: x[:, 1:], lambda x, g: x.double(), lambda x, g: x.numpy()],
)
def test_augmentations_that_return_something_else(augment):
    tasks = few_shot(small_classes="drop", augment_query=augment)
    with pytest.raises(ShapeError, match="an augmentation to return inputs of the shape and type"):
        sample(tasks)


@pytest.mark.parametrize("augment", [lambda x: x, lambda x, g: x @ x, "flip"])
def test_augmentations_that_do_not_run(augment):
    tasks = few_shot(small_classes="drop", augment_query=augment)
    with pytest.raises(SettingsError, match=r"raises \w+Error: .* augment\(inputs, generator\)"):
        sample(tasks)


def test_rows_of_large_counts_are_uniform_and_distinct(generator):
    counts = torch.tensor([[100_000], [7], [30], [5], [100_000]])
    drawn = draw_rows(counts, 100_000, 5, generator)
    assert drawn.shape == (5, 5) and (drawn[1] < 7).all()
    many = draw_rows(torch.full((20_000, 1), 12), 1 << 17, 3, generator)
    assert (many.sort(1).values.diff(dim=1) > 0).all() and many.max() < 12
    share = many.flatten().bincount(minlength=12).double() / 60_000 * 12
    assert ((share - 1).abs() < 0.05).all()
    first = many[:, 0].bincount(minlength=12).double() / 20_000 * 12
    assert ((first - 1).abs() < 0.12).all()


def test_many_rows_of_large_counts_are_distinct(generator):
    drawn = draw_rows(torch.tensor([[70_000]]), 70_000, 20_000, generator)
    assert len(drawn.unique()) == 20_000 and drawn.max() < 70_000


def test_places_divide_what_there_is():
    drawn = torch.tensor([[3, 0, 2, 1, 9, 9], [1, 0, 9, 9, 9, 9], [5, 4, 3, 2, 1, 0]])
    rows, real = places(drawn, torch.tensor([[4], [2], [6]]), 3, None)
    assert rows.tolist() == [[3, 0, 2, 1, 0, 0], [1, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0]]
    assert real.int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1] * 6]
    _, real = places(drawn, torch.tensor([[4], [2], [6]]), 3, torch.tensor([[1], [1], [2]]))
    assert real.int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 1, 1]]
