"""What a family of tensors returns is checked as it runs, also where nobody called check_family."""

import pytest
import torch

from metarl.errors import ShapeError, TaskError
from metarl.sim import make_vec
from tests.sim.families import Drift

WORLDS = 3


def drift(**methods):
    return type("Changed", (Drift,), methods)()


def played(family, by_steps):
    env = make_vec(family, WORLDS, device="cpu", autoreset="disabled")

    def act(observation):
        return torch.ones(WORLDS, 1)

    return env.run_step_by_step(act) if by_steps else env.episode(act)


def in_place(self, state, actions, tasks, noise):
    state["place"] += 0.5 * actions[:, 0]
    return dict(state)


def in_dict(self, state, actions, tasks, noise):
    state["place"] = state["place"] + 0.5 * actions[:, 0]
    return dict(state)


def in_new_name(self, state, actions, tasks, noise):
    state["speed"] = 0.5 * actions[:, 0]
    return dict(state)


PLACE = "place"
MISTAKES = {
    "rewards of all pairs": (
        {"reward": lambda self, b, a, c, tasks: c[PLACE] - b[PLACE].unsqueeze(1)}, "`reward`"
    ),
    "a mean reward": (
        {"reward": lambda self, b, a, c, tasks: (c[PLACE] - b[PLACE]).mean()}, r"got \[\] float32"
    ),
    "whole rewards": (
        {"reward": lambda self, b, a, c, tasks: c["steps"]}, "float32, got .* int64"
    ),
    "rewards of numpy": (
        {"reward": lambda self, b, a, c, tasks: c[PLACE].numpy()}, "got a ndarray"
    ),
    "no reward": ({"reward": lambda self, b, a, c, tasks: None}, "got a NoneType"),
    "ends as numbers": (
        {"terminated": lambda self, state, tasks: (state[PLACE].abs() > 1).float()},
        "`terminated` .* bool, got .* float32",
    ),
    "cuts as numbers": (
        {"may_truncate": True, "truncated": lambda self, state, tasks: state["steps"]},
        "`truncated` .* bool, got .* int64",
    ),
    "observations in float64": (
        {"observe": lambda self, state, tasks: Drift.observe(self, state, tasks).double()},
        r"`observe` .* \[3, 2\] float32, .* got \[3, 2\] float64",
    ),
    "an entry more": (
        {"observe": lambda self, state, tasks: Drift.observe(self, state, tasks)[:, [0, 1, 1]]},
        r"got \[3, 3\] float32",
    ),
    "no dimension of entries": (
        {"observe": lambda self, state, tasks: state[PLACE]}, r"got \[3\] float32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("name", MISTAKES)
def test_results_of_other_shapes_and_types_are_refused(name, by_steps):
    methods, message = MISTAKES[name]
    with pytest.raises(ShapeError, match=rf"(?s){message}.*check_family"):
        played(drift(**methods), by_steps)


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("step", [in_place, in_dict, in_new_name])
def test_a_step_that_changes_its_state_is_refused(step, by_steps):
    """The rewards of differences would be 0, without a word."""
    with pytest.raises(TaskError, match="changes the state that it is given"):
        played(drift(step=step), by_steps)


def read_in_place(result):
    def method(self, *arguments):
        state = arguments[-2]  # before the tasks
        state[PLACE] -= 0.1
        return result(self, *arguments)

    return method


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("name", ["observe", "reward", "terminated", "truncated", "measure"])
def test_a_method_that_changes_what_it_reads_is_refused(name, by_steps):
    if name == "measure":
        methods = {
            "metrics": {PLACE: "mean"},
            name: read_in_place(lambda s, b, a, c, t: {PLACE: c[PLACE]}),
        }
    else:
        methods = {"may_truncate": True, name: read_in_place(getattr(Drift, name))}
    with pytest.raises(TaskError, match=f"`{name}`.* changes the state that it is given"):
        played(drift(**methods), by_steps)


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize(
    "measured",
    [None, {}, {"far": 1.0}, {"far": torch.ones(())}, {"far": torch.ones(WORLDS + 1)}],
)
def test_numbers_of_metrics_of_other_shapes_are_refused(measured, by_steps):
    family = drift(metrics={"far": "mean"}, measure=lambda *_: measured)
    with pytest.raises(ShapeError, match="the metric 'far', one number per world"):
        played(family, by_steps)


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_numbers_of_metrics_may_be_columns_of_any_type(dtype, by_steps):
    def measure(self, before, actions, after, tasks):
        return {"far": torch.ones(len(actions), 1, dtype=dtype)}

    env = make_vec(drift(metrics={"far": "mean"}, measure=measure), WORLDS, device="cpu",
                   autoreset="disabled")  # fmt: skip
    act = lambda _: torch.ones(WORLDS, 1)  # noqa: E731
    env.run_step_by_step(act) if by_steps else env.episode(act)
    assert env.episode_metrics()["far"].tolist() == [1] * WORLDS


def test_right_results_pass_in_any_mode():
    def column(self, before, actions, after, tasks):
        return (after[PLACE] - before[PLACE]).unsqueeze(1)

    expected = played(Drift(), False)
    with torch.inference_mode():
        found = played(drift(reward=column), True)
    assert torch.equal(found.rewards, expected.rewards)
    assert torch.equal(found.terminated, expected.terminated)
