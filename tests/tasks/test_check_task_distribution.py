"""Every mistake that a task distribution can make, made by one that makes no other."""

import doctest
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metarl.errors import TaskError
from metarl.tasks import base
from metarl.tasks.base import SPLITS, Examples, TaskBatch, TaskDistribution, check_split
from metarl.tasks.check_task_distribution import check_task_distribution


class Lines:
    """Slopes drawn again each time: every split is the same distribution, yet shares no task."""

    def sample(self, num_tasks, generator):
        """Draws tasks y = slope * x."""
        slope = torch.randn(num_tasks, 1, 1, generator=generator)
        x, new_x = torch.randn(2, num_tasks, 4, 1, generator=generator)
        support, query = Examples(x, slope * x), Examples(new_x, slope * new_x)
        return TaskBatch(support, query, {"slope": slope})

    def split(self, name):
        """Refuses what is no split."""
        check_split(name)
        return self


class Table:
    """A finite set of tasks: `size` of them for each split, told by their number."""

    def __init__(self, size=100, info=True, ignore_split=False):
        self.size, self.info, self.ignore_split = size, info, ignore_split
        self.part = 0
        fixed = torch.Generator().manual_seed(9)
        self.slopes = torch.randn(3 * size, 1, 1, generator=fixed)
        self.inputs = torch.randn(3 * size, 8, 1, generator=fixed)

    def sample(self, num_tasks, generator):
        """Draws tasks of the table."""
        number = torch.randint(self.size, (num_tasks,), generator=generator)
        number += self.part * self.size
        x = self.inputs[number]
        y = self.slopes[number] * x
        info = {"number": number} if self.info else {}
        return TaskBatch(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]), info)

    def split(self, name):
        """Takes the part of the table that belongs to a split."""
        check_split(name)
        other = Table(self.size, self.info, self.ignore_split)
        other.part = 0 if self.ignore_split else SPLITS.index(name)
        return other


class Blobs(Lines):
    """Classification: clusters around random centres, 2 classes, 2 examples of each."""

    def sample(self, num_tasks, generator):
        """Draws tasks of two clusters."""
        centre = torch.randn(num_tasks, 1, 2, 3, generator=generator)
        x = centre + 0.1 * torch.randn(num_tasks, 4, 2, 3, generator=generator)
        x, y = x.flatten(1, 2), torch.arange(2).repeat(num_tasks, 4)
        return TaskBatch(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))


def changed(change, kind=Lines):
    """A distribution whose batches go through `change(tasks, generator)`."""

    class Changed(kind):
        def sample(self, num_tasks, generator):
            return change(super().sample(num_tasks, generator), generator)

    return Changed()


def with_support(tasks, inputs=None, targets=None):
    old = tasks.support
    new = Examples(
        old.inputs if inputs is None else inputs, old.targets if targets is None else targets
    )
    return replace(tasks, support=new)


def complaints(distribution, **settings):
    with pytest.raises(TaskError) as error:
        check_task_distribution(distribution, **settings)
    title, *lines = str(error.value).split("\n")
    assert title == f"{type(distribution).__name__} is not a usable task distribution:"
    return [line.removeprefix("- ") for line in lines]


@pytest.mark.parametrize(
    "distribution",
    [Lines(), Table(), Table(size=1000), Table(info=False), Blobs()],
    ids=["lines", "table", "large table", "table without info", "blobs"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_right_ones_are_accepted(distribution, seed):
    check_task_distribution(distribution, seed=seed)


def test_the_example_of_the_protocol_is_accepted():
    names = {**vars(base), "check_task_distribution": check_task_distribution}
    test = doctest.DocTestParser().get_doctest(
        TaskDistribution.__doc__ or "", names, "TaskDistribution", None, None
    )
    assert len(test.examples) == 2
    assert test.examples[0].source.count("\n") <= 12
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=lambda text: None).failed == 0
    assert runner.tries == 2


def transposed(tasks, generator):
    inputs, targets = (t.transpose(0, 1) for t in tasks.support[:2])
    return with_support(tasks, inputs, targets)


def not_finite(tasks, generator):
    inputs = tasks.support.inputs.clone()
    inputs[0, 0] = torch.nan
    return with_support(tasks, inputs)


def infinite_info(tasks, generator):
    return replace(tasks, info={"slope": tasks.info["slope"] / 0})


def global_torch(tasks, generator):
    torch.rand(1)
    return tasks


def global_numpy(tasks, generator):
    np.random.rand()
    return tasks


def global_python(tasks, generator):
    random.random()
    return tasks


def doubled(tasks, generator):
    inputs, targets = (t.double() for t in tasks.support[:2])
    return with_support(tasks, inputs, targets)


def repeated(tasks, generator):
    return replace(tasks, query=tasks.support)


def reordered(tasks, generator):
    inputs, targets = (t.flip(1)[:, :3] for t in tasks.support[:2])
    return replace(tasks, query=Examples(inputs, targets))


def one_task(tasks, generator):
    parts = (*tasks.support[:2], *tasks.query[:2], tasks.info["slope"])
    first = [t[:1].expand_as(t) for t in parts]
    return TaskBatch(Examples(*first[:2]), Examples(*first[2:4]), {"slope": first[4]})


def one_slope(tasks, generator):
    x, new_x = tasks.support.inputs, tasks.query.inputs
    slope = torch.full_like(tasks.info["slope"], 2.0)
    return TaskBatch(Examples(x, 2 * x), Examples(new_x, 2 * new_x), {"slope": slope})


ALL_TASKS = (
    ("transposed", transposed, "support.inputs must have the 1 tasks leading, got (4, 1, 1)"),
    (
        "one number per task",
        lambda t, g: with_support(t, t.support.inputs[:, 0], t.support.targets[:, 0]),
        "support.inputs must be [T, N, *input], got (1, 1)",
    ),
    (
        "fewer targets",
        lambda t, g: with_support(t, targets=t.support.targets[:, :3]),
        "support needs as many targets as inputs, [T, N, ...] each, got (1, 4, 1) and (1, 3, 1)",
    ),
    (
        "other inputs",
        lambda t, g: with_support(t, t.support.inputs.repeat(1, 1, 2)),
        "support and query inputs must have one shape per example",
    ),
    (
        "other targets",
        lambda t, g: with_support(t, targets=t.support.targets.repeat(1, 1, 2)),
        "support and query targets must have one shape per example",
    ),
    (
        "no examples",
        lambda t, g: with_support(t, t.support.inputs[:, :0], t.support.targets[:, :0]),
        "support has no examples",
    ),
    (
        "info not leading",
        lambda t, g: replace(t, info={"slope": t.info["slope"].sum()}),
        "info['slope'] must have the 1 tasks leading, got ()",
    ),
    (
        "arrays",
        lambda t, g: with_support(t, t.support.inputs.numpy()),
        "support.inputs must be a tensor, got ndarray",
    ),
    (
        "another device",
        lambda t, g: with_support(t, t.support.inputs.to("meta")),
        "support.inputs must be on the generator's device, cpu, got meta",
    ),
    (
        "bare tuple",
        lambda t, g: replace(t, support=tuple(t.support)),
        "support must be Examples(inputs, targets), got tuple",
    ),
    (
        "not a batch",
        lambda t, g: (t.support, t.query),
        "`sample` must return a TaskBatch, got tuple",
    ),
    (
        "whole numbers",
        lambda t, g: with_support(t, t.support.inputs.long()),
        "support and query inputs must have one type: float32, or int64 for indices such as those "
        "of characters",
    ),
    ("not a number", not_finite, "support.inputs holds values that are infinite or not a number"),
    (
        "infinite",
        infinite_info,
        "info['slope'] holds values that are infinite or not a number",
    ),
    (
        "torch's generator",
        global_torch,
        "it draws from a global random state; draw from the generator that is passed in",
    ),
    (
        "numpy's generator",
        global_numpy,
        "it draws from a global random state; draw from the generator that is passed in",
    ),
    (
        "Python's generator",
        global_python,
        "it draws from a global random state; draw from the generator that is passed in",
    ),
    ("query is support", repeated, "query must be held out, but it repeats the inputs of support"),
    ("query in support", reordered, "query must be held out, but it repeats the inputs of support"),
    ("one task", one_task, "all tasks of a batch are the same one"),
    ("one task, other inputs", one_slope, "all tasks of a batch are the same one"),
)


@pytest.mark.parametrize(
    ("change", "complaint"), [pytest.param(*c, id=name) for name, *c in ALL_TASKS]
)
def test_mistakes_in_tasks(change, complaint):
    assert complaint in complaints(changed(change))


def test_the_message_lists_all_mistakes_and_each_once():
    found = complaints(changed(lambda t, g: global_torch(not_finite(t, g), g)))
    assert len(found) == len(set(found)) == 2


def test_float64_is_named_without_the_mistakes_that_follow_from_it():
    assert complaints(changed(doubled)) == [
        "support.inputs must be float32, got torch.float64",
        "support.targets must be float32 or int64, got torch.float64",
        "support and query targets must have one type",
    ]


def relabelled(change):
    return changed(lambda t, g: replace(t, query=t.query._replace(targets=change(t))), Blobs)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda t: t.query.targets + 1,
            "query holds classes that the support of the same task lacks",
        ),
        (lambda t: t.query.targets - 1, "class labels must be 0 or more"),
        (
            lambda t: t.query.targets.unsqueeze(2),
            "query.targets are class labels and must be [T, N], got (1, 4, 1)",
        ),
        (lambda t: t.query.targets.float(), "support and query targets must have one type"),
        (
            lambda t: t.query.targets.int(),
            "query.targets must be float32 or int64, got torch.int32",
        ),
    ],
    ids=["missing class", "negative", "shape", "types differ", "int32"],
)
def test_mistakes_in_class_labels(change, complaint):
    assert complaint in complaints(relabelled(change))


def test_a_seed_of_ones_own():
    class Stubborn(Lines):
        def sample(self, num_tasks, generator):
            return super().sample(num_tasks, torch.Generator().manual_seed(1))

    found = complaints(Stubborn())
    assert "a generator that has moved on gives the same tasks; draw from it" in found


def test_a_state_of_ones_own():
    class Counting(Lines):
        calls = 0

        def sample(self, num_tasks, generator):
            self.calls += 1
            return super().sample(num_tasks, torch.Generator().manual_seed(self.calls))

    assert complaints(Counting()) == [
        "the same generator state gives other tasks; draw from the generator only"
    ]


def test_info_that_comes_and_goes_is_other_tasks():
    class Forgetful(Lines):
        calls = 0

        def sample(self, num_tasks, generator):
            self.calls += 1
            tasks = super().sample(num_tasks, generator)
            return tasks if self.calls % 2 else replace(tasks, info={})

    assert any("gives other tasks" in c for c in complaints(Forgetful()))


@pytest.mark.parametrize("size", [10, 50_000], ids="of {} tasks".format)
def test_a_finite_distribution_that_ignores_its_split_is_found(size):
    found = complaints(Table(size, ignore_split=True))
    assert found == [
        f"splits {a!r} and {b!r} share tasks; make them disjoint"
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test"))
    ]


def test_it_is_found_without_info_too_where_support_sets_repeat():
    assert len(complaints(Table(10, info=False, ignore_split=True))) == 3


def test_classes_are_compared_one_by_one():
    def with_classes(tasks, generator):
        classes = torch.rand(tasks.num_tasks, 40, generator=generator).topk(5).indices
        return replace(tasks, info={"classes": classes})

    found = complaints(changed(with_classes, Blobs))
    assert "splits 'train' and 'test' share tasks; make them disjoint" in found


def test_a_split_that_takes_any_name():
    class Anything(Lines):
        def split(self, name):
            return self

    assert complaints(Anything()) == ["split must refuse a name that is no split"]


class TrainOnly(Lines):
    """Has no tasks for the other splits."""

    def split(self, name):
        """Refuses them."""
        if check_split(name) != "train":
            raise TaskError(f"no tasks for {name}")
        return self


def test_missing_splits_are_named_or_passed_over():
    assert complaints(TrainOnly()) == [
        "split('validation') cannot be sampled: no tasks for validation",
        "split('test') cannot be sampled: no tasks for test",
    ]
    check_task_distribution(TrainOnly(), require_splits=False)


class OfADict(Lines):
    """Looks its splits up, and lacks one."""

    def split(self, name):
        """Raises KeyError."""
        return {"train": self, "test": self}[name]


class Asserting(Lines):
    """Asserts that a split is one."""

    def split(self, name):
        """Raises AssertionError."""
        assert name in ("train", "validation", "test")
        return self


class WithoutName(Lines):
    """Has a split without an argument."""

    def split(self):
        """Raises TypeError where it is called as it should be."""
        return self


def test_a_split_that_raises_whatever_is_reported():
    check_task_distribution(Asserting())
    (problem,) = complaints(OfADict())
    assert problem.startswith("split('validation') cannot be sampled: it raises KeyError: ")
    assert "must return the tasks of each of train, validation, test" in problem
    problems = complaints(WithoutName(), require_splits=False)
    assert len(problems) == 3 and all("it raises TypeError" in p for p in problems)


def test_a_sample_that_raises_whatever_is_reported():
    def sample(num_tasks, generator):
        return {}["slopes"]

    (problem,) = complaints(SimpleNamespace(sample=sample, split=Lines().split))
    assert problem.startswith("it raises KeyError: 'slopes' (") and "line" in problem


@pytest.mark.parametrize("missing", ["sample", "split"])
def test_a_missing_method_is_named(missing):
    methods = {"sample": Lines().sample, "split": Lines().split}
    del methods[missing]
    assert complaints(SimpleNamespace(**methods)) == [f"it lacks the method `{missing}`"]
    assert complaints(SimpleNamespace(**methods, **{missing: 3})) == [
        f"it lacks the method `{missing}`"
    ]
