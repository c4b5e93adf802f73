"""Random batches of tasks, given to learners of every kind."""

import contextlib
import dataclasses
import math

import pytest
import torch
from hypothesis import strategies as st

from metarl.tasks import Examples, TaskBatch
from tests.fuzz.outcomes import explore
from tests.test_all_algorithms import CASES, build, tasks_of

TYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
]  # fmt: skip
LEARNERS = {}


def learner_of(name, problem):
    """Returns an untrained learner; those of all inputs are the same object."""
    key = (name, problem)
    if key not in LEARNERS:
        LEARNERS[key] = build(name, problem)[0]
    return LEARNERS[key]


def as_strided(tensor):
    """Returns an equal tensor that is not contiguous."""
    return tensor.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]


def with_value(tensor, place, value):
    """Returns a copy with one element replaced, if there is one and it can hold the value."""
    changed = tensor.clone()
    if changed.numel():
        with contextlib.suppress(RuntimeError, OverflowError):  # a type that cannot hold it
            changed.view(-1)[place % changed.numel()] = value
    return changed


@st.composite
def changes(draw):
    """A change of a tensor, and whether the learner must compute the same with it."""
    kind = draw(
        st.sampled_from(["type", "size", "dims", "value", "label", "layout", "odd", "none"])
    )
    if kind == "type":
        dtype = draw(st.sampled_from(TYPES))
        return f"to {dtype}", lambda t: (t.real if t.is_complex() else t).to(dtype)
    if kind == "size":
        dim, size = draw(st.integers(0, 4)), draw(st.integers(0, 3))
        return (
            f"dim {dim} of {size}",
            lambda t: t.narrow(dim, 0, min(size, t.shape[dim])) if dim < t.dim() else t,
        )
    if kind == "dims":
        dim = draw(st.integers(0, 2))
        if draw(st.booleans()):
            return f"unsqueeze {dim}", lambda t: t.unsqueeze(min(dim, t.dim()))
        return f"select {dim}", lambda t: t.select(dim, 0) if dim < t.dim() and t.shape[dim] else t
    if kind == "value":
        value = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -3e38]))
        place = draw(st.integers(0, 10_000))
        return (
            f"{value} at {place}",
            lambda t: with_value(t, place, value) if t.is_floating_point() else t,
        )
    if kind == "label":
        value = draw(st.sampled_from([-100, -1, 3, 5, 2**40, -(2**63), 1]))
        place = draw(st.integers(0, 50))
        return (
            f"label {value}",
            lambda t: t if t.is_floating_point() else with_value(t, place, value),
        )
    if kind == "layout":
        return draw(
            st.sampled_from(
                [
                    ("strided", as_strided),
                    ("mT", lambda t: t.mT.contiguous().mT if t.dim() > 1 else t),
                    ("expanded", lambda t: t[:1].expand_as(t)),
                    ("grad", lambda t: t.clone().requires_grad_() if t.is_floating_point() else t),
                    ("parameter", lambda t: torch.nn.Parameter(t) if t.is_floating_point() else t),
                ]
            )
        )
    if kind == "odd":
        return draw(
            st.sampled_from(
                [
                    ("numpy", lambda t: t.numpy()),
                    ("list", lambda t: t.tolist()),
                    ("None", lambda t: None),
                    ("sparse", torch.Tensor.to_sparse),
                    ("meta", lambda t: t.to("meta")),
                ]
            )
        )
    return "same", lambda t: t


@st.composite
def batches(draw):
    name, problem = draw(st.sampled_from(CASES))
    tasks = tasks_of(problem).sample(3, torch.Generator().manual_seed(draw(st.integers(0, 3))))
    made = []
    for _ in range(draw(st.integers(1, 2))):
        what, change = draw(changes())
        where = draw(st.sampled_from(["inputs", "targets", "support", "query", "tasks"]))
        which = draw(st.sampled_from(["support", "query"]))
        made.append((what, where, which))
        tasks = changed(tasks, change, where, which)
    return name, problem, tasks, made


def is_plain(value):
    """Returns whether a value is a tensor that can be changed further."""
    is_tensor = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return is_tensor and not value.is_meta and not value.requires_grad


def changed(tasks, change, where, which):
    """Returns tasks with a tensor, both tensors of a set, or all tensors changed."""

    def of(examples, names):
        return Examples(
            *(
                change(t) if n in names and is_plain(t) else t
                for n, t in zip(Examples._fields, examples, strict=True)
            )
        )

    if where in ("inputs", "targets"):
        return dataclasses.replace(tasks, **{which: of(getattr(tasks, which), (where,))})
    sets = (where,) if where != "tasks" else ("support", "query")
    return dataclasses.replace(tasks, **{s: of(getattr(tasks, s), Examples._fields) for s in sets})


def results(learner, tasks):
    """Returns the losses [T], the metrics [3, T] of an evaluation, and predictions [T, N, *]."""
    losses = learner(learner.collect(tasks, torch.Generator().manual_seed(1), 0)).losses.detach()
    metrics = torch.stack(list(learner.evaluate(tasks, 2, torch.Generator().manual_seed(2))))
    *_, adapted = learner.adapt(tasks.support, 2, torch.Generator().manual_seed(2))
    return losses, metrics, learner.predict(adapted, tasks.query.inputs)


def draws(learner, tasks):
    """Returns whether a learner's results depend on random numbers."""
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    learner.collect(tasks, generator, 0)
    list(learner.adapt(tasks.support, 1, generator))
    return not torch.equal(before, generator.get_state())


def plain_metric(outputs, targets):
    """Returns the metric [T] in plain torch: NaN for tasks with numbers that are not finite."""
    if targets.is_floating_point():
        value = (outputs - targets).square().flatten(1).mean(1)
        good = (outputs.isfinite() & targets.isfinite()).flatten(1).all(1)
    else:
        value = (outputs.argmax(2) == targets).float().mean(1)
        good = outputs.max(2).values.isfinite().all(1)
    return torch.where(good, value, math.nan)


def restored(tasks):
    """Returns tasks of the same numbers in the usual types and layout."""

    def of(examples):
        targets = examples.targets
        targets = targets.clone() if targets.is_floating_point() else targets.long()
        return Examples(
            examples.inputs.clone(memory_format=torch.contiguous_format), targets.contiguous()
        )

    return TaskBatch(of(tasks.support), of(tasks.query), tasks.info)


def task(tasks, number):
    """Returns one task of a batch, as a batch."""

    def of(examples):
        return Examples(*(t[number : number + 1] for t in examples[:2]))

    info = {n: v[number : number + 1] for n, v in tasks.info.items()}
    return TaskBatch(of(tasks.support), of(tasks.query), info)


def check_batch(name, problem, tasks):
    learner = learner_of(name, problem)
    losses, metrics, outputs = results(learner, tasks)
    count = tasks.query.inputs.shape[0]
    assert losses.shape == (count,) and metrics.shape == (3, count)
    torch.testing.assert_close(
        metrics[-1], plain_metric(outputs, tasks.query.targets).to(metrics.dtype), equal_nan=True
    )
    for found, expected in zip(
        results(learner, restored(tasks)), (losses, metrics, outputs), strict=True
    ):
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-3, atol=1e-4)
    if all(t.double().abs().max() < 10 for e in (tasks.support, tasks.query) for t in e[:2]):
        assert losses.isfinite().all() and metrics.isfinite().all()
    if not draws(learner, tasks):  # the tasks do not see each other
        for number in range(count):
            alone = results(learner, task(tasks, number))
            for found, all_tasks in zip(alone, (losses, metrics, outputs), strict=True):
                expected = (
                    all_tasks[:, number : number + 1]
                    if found.dim() == 2
                    else all_tasks[number : number + 1]
                )
                torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("inputs", [60, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*sparse:UserWarning")
def test_random_batches(inputs, outcomes):
    def check(case):
        name, problem, tasks, _ = case
        with outcomes.one():
            check_batch(name, problem, tasks)

    explore(batches(), inputs, check)
