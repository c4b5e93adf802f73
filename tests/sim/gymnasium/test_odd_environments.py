"""Environments with unusual spaces, results and attributes: right, or refused with the reason."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.errors import SettingsError, SimulationError, TaskError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import Choice, GymTasks, Uniform, check_family
from tests.sim.gymnasium.odd import F32, PAIR, ended, odd

BOOL: Any = np.bool_  # not among the types that gymnasium annotates


STARTS = spaces.MultiDiscrete([3, 2], start=[1, 5])
NAMES = spaces.Dict({1: spaces.Discrete(2), 2: spaces.Box(-1, 1, (1,), F32)})
CHOICES = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))
NESTED = spaces.Dict(
    a=spaces.Dict(b=spaces.Dict(c=spaces.Box(-1, 1, (2, 2), F32)), d=spaces.Discrete(2)),
    e=spaces.Tuple((spaces.Discrete(3), spaces.Dict(f=spaces.MultiBinary(2)))),
)
MIXED = spaces.Dict(
    x=spaces.Dict(y=spaces.Box(0, 10, (2,), np.float64), z=spaces.Discrete(3, start=4)),
    w=spaces.Tuple((spaces.MultiBinary([2, 2]),)),
)
PICTURE = spaces.Box(0, 255, (9, 8), np.uint8)
RIGHT = {
    "float64": (odd(spaces.Box(-2, 2, (3,), np.float64), spaces.Box(-5, 5, (2,), np.float64)), 3),
    "whole numbers": (odd(spaces.Box(-7, 9, (3,), np.int64), spaces.Box(0, 10, (2,), np.int32)), 3),
    "bounds that float32 has not": (
        odd(acted=spaces.Box(np.array([-0.1, 0.7]), np.array([0.1, 0.9]), dtype=np.float64)), 2
    ),
    "truth values as actions": (odd(acted=spaces.Box(0, 1, (2,), BOOL)), 2),
    "a table of actions": (odd(acted=spaces.Box(-3, 5, (2, 3), F32)), 2),
    "an action with one value": (
        odd(acted=spaces.Box(np.array([1, -1], F32), np.array([1, 1], F32))), 2
    ),
    "bytes as actions": (odd(acted=spaces.Box(0, 255, (2,), np.uint8)), 2),
    "int8 as actions": (odd(acted=spaces.Box(-100, 27, (2,), np.int8)), 2),
    "a part of size 0": (
        odd(spaces.Dict(a=spaces.Box(-1, 1, (0,), F32), b=spaces.Box(-1, 1, (2,), F32))), 2
    ),
    "boxes without dimensions": (odd(spaces.Box(-1, 1, (), F32), spaces.Box(-1, 1, (), F32)), 1),
    "discrete from -1 and from 2": (
        odd(spaces.Discrete(3, start=-1), spaces.Discrete(4, start=2)), 3
    ),
    "a single choice": (odd(acted=spaces.Discrete(1)), 2),
    "choices with starts": (odd(STARTS, STARTS), 5),
    "a table of choices": (
        odd(spaces.MultiDiscrete([[3, 2], [2, 2]]), spaces.MultiDiscrete([[3, 2], [2, 2]])), 9
    ),
    "a table of switches": (odd(spaces.MultiBinary([2, 3]), spaces.MultiBinary([2, 3])), 6),
    "nested": (odd(NESTED, MIXED), 11),
    "numbers as names": (odd(NAMES), 3),
    "lists": (odd(seen=lambda env: [0.1, 0.2]), 2),
    "lists of whole numbers": (odd(spaces.Box(-3, 3, (2,), F32), seen=lambda env: [1, 2]), 2),
    "tensors": (odd(seen=lambda env: torch.tensor([0.1, 0.2])), 2),
    "float16": (odd(spaces.Box(-1, 1, (2,), np.float16)), 2),
    "truth values": (odd(spaces.Box(0, 1, (2,), BOOL)), 2),
    "a reward without dimensions": (odd(step=ended(reward=lambda env: np.array(env.k, F32))), 2),
    "a reward that is a tensor": (odd(step=ended(reward=lambda env: torch.tensor(env.k))), 2),
    "ends of NumPy": (odd(step=ended(lambda env: np.bool_(env.t > 2), np.array(False))), 2),
    "ends as numbers": (odd(step=ended(lambda env: int(env.t > 2), 0)), 2),
    "both ends at once": (odd(step=ended(lambda env: env.t > 2, lambda env: env.t > 2)), 2),
    "pictures of whole floats": (odd(PICTURE, seen=lambda env: np.full((9, 8), 9.0, F32)), 72),
    "no info": (odd(step=ended(info=lambda env: None), reset=lambda env: (env.look(), None)), 2),
}  # fmt: skip
REFUSED = {
    "no number": (odd(spaces.Box(-1, 1, (0,), F32)), "at least one number"),
    "no action": (odd(acted=spaces.Box(-1, 1, (0,), F32)), "at least one number"),
    "a text": (odd(spaces.Dict(t=spaces.Text(5))), "no policy reads"),
    "no space": (odd(observation_space=None), "no policy reads"),
    "no attribute for a space": (type("Bare", (gymnasium.Env,), {"k": 1.0}), "`observation_space`"),
    "a space of another package": (odd(action_space=object()), "package gym are others"),
    "choices without end": (odd(spaces.Discrete(2**40)), "at most 4,000,000 numbers and choices"),
    "actions without end": (odd(acted=spaces.Discrete(10**7)), "at most 4,000,000 numbers and"),
    "pictures of fractions": (
        odd(PICTURE, seen=lambda env: np.full((9, 8), 0.5, F32)), "divided by 255 once more"
    ),
    "pictures brighter than white": (
        odd(PICTURE, seen=lambda env: np.full((9, 8), 300)), "0..255.* got 300 to 300"
    ),
    "pictures darker than black": (
        odd(PICTURE, seen=lambda env: np.full((9, 8), -1.0, F32)), "0..255.* got -1 to -1"
    ),
    "masked": (
        odd(seen=lambda env: np.ma.masked_array(np.zeros(2, F32), [True, False])), "not finite|nan"
    ),
    "another shape": (odd(seen=lambda env: np.zeros((1, 2), F32)), r"shape \(2,\)"),
    "nan": (odd(seen=lambda env: np.array([np.nan, 0], F32)), "not finite|expected finite"),
    "a reward of shape [1]": (
        odd(step=ended(reward=lambda env: np.array([env.k]))), "number as reward"
    ),
    "no reward": (odd(step=lambda env: (env.look(), None, False, False, {})), "number as reward"),
    "an end of shape [1]": (odd(step=ended(lambda env: np.array([False]))), "as terminated"),
    "no end": (odd(step=ended(lambda env: None)), "as terminated"),
    "four values": (odd(step=lambda env: (env.look(), env.k, False, {})), "got 4 values"),
    "no values": (odd(step=lambda env: None), "to return observation, reward.*got None"),
    "an old reset": (odd(reset=lambda env: env.look()), "Expected `reset` to return"),
    "an old reset of a dict": (odd(PAIR, reset=lambda env: env.look()), "Expected `reset` to"),
    "an old reset of a tuple": (odd(CHOICES, reset=lambda env: (0, 1)), "Expected `reset` to"),
    "a reset of three": (odd(reset=lambda env: (env.look(), {}, 1)), "Expected `reset` to"),
    "a reset of none": (odd(reset=lambda env: None), "Expected `reset` to.*got None"),
    "other names": (odd(PAIR, seen=lambda env: {"a": 0, "c": 1}), "a dict of the parts a, b"),
    "a name more": (odd(PAIR, seen=lambda env: {"a": 0, "b": 1, "c": 1}), "of the parts a, b"),
    "an array for a dict": (odd(PAIR, seen=lambda env: np.zeros(2, F32)), "a dict of the parts"),
    "a dict for a tuple": (odd(CHOICES, seen=lambda env: {0: 0, 1: 1}), "a tuple of the parts"),
    "none for a tuple": (odd(CHOICES, seen=lambda env: None), "a tuple of the parts 0, 1"),
    "an environment": (odd()(), "a class or function that builds one, lambda: env"),
    "a list": ([odd()], "a class or function that builds one, got"),
    "an infinite reward": (odd(step=ended(reward=lambda env: float("inf"))), "inf|changes nothing"),
    "a vector environment": (lambda: gymnasium.vector.SyncVectorEnv([odd()]), "a gymnasium.Env"),
    "a reset without a seed": (
        type("Old", (odd(),), {"reset": lambda self: (0, {})}), "unexpected keyword"
    ),
}  # fmt: skip


def rollouts_of(family):
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (4,))
    learner = PolicyLearner(MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=2))
    inputs = learner.collect(family.sample(2, generator), generator, 0)
    learner.forward(inputs).losses.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
    return inputs.experience[0].rollouts


@pytest.mark.parametrize("name", RIGHT)
def test_odd_spaces_and_results_are_read(name):
    build, size = RIGHT[name]
    family = GymTasks(build, {"k": Uniform(0, 1)}, horizon=4)
    check_family(family)
    rollouts = rollouts_of(family)
    assert rollouts.observations.shape == (2, 2, 4, size)
    assert rollouts.observations.isfinite().all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name):
    build, text = REFUSED[name]
    with pytest.raises((SettingsError, TaskError), match=text):
        check_family(GymTasks(build, {"k": Uniform(0, 1)}, horizon=4))


@pytest.mark.parametrize(
    ("info", "value"),
    [
        (lambda env: {"success": 1.0} if env.t == 2 else {}, 1.0),
        (lambda env: {"success": np.array([env.t == 3])}, 1.0),
        (lambda env: {"success": np.bool_(False)}, 0.0),
        (lambda env: {"success": None if env.t > 1 else torch.tensor(2)}, 1.0),
    ],
)
def test_numbers_of_info_are_read_where_they_are(info, value):
    family = GymTasks(
        odd(step=ended(info=info)), {"k": Uniform(0, 1)}, horizon=4, metrics={"success": "any"}
    )
    check_family(family)
    assert (rollouts_of(family).metrics["success"] == value).all()


@pytest.mark.parametrize(
    "info",
    [
        lambda env: {}, lambda env: {"success": "yes"}, lambda env: {"success": {"rate": 1}},
        lambda env: {"success": float("inf")}, lambda env: {"success": [1, 0]},
        lambda env: {"success": -1e39},
    ],
)  # fmt: skip
def test_what_is_no_number_of_info_is_refused(info):
    family = GymTasks(
        odd(step=ended(info=info)), {"k": Uniform(0, 1)}, horizon=4, metrics={"success": "mean"}
    )
    with pytest.raises(SimulationError, match=r"Expected (one|a|a finite) number 'success'"):
        rollouts_of(family)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_number_that_is_never_one_is_shown(value):
    kind = odd(step=ended(info=lambda env: {"success": value}))
    family = GymTasks(kind, {"k": Uniform(0, 1)}, horizon=4, metrics={"success": "mean"})
    with pytest.raises(SimulationError, match=f"had none. Its last step has {value}"):
        rollouts_of(family)


@pytest.mark.parametrize("info", [lambda env: [("success", 1)], lambda env: "success"])
def test_an_info_that_is_no_dict_is_refused(info):
    kind = odd(step=ended(info=info))
    family = GymTasks(kind, {"k": Uniform(0, 1)}, horizon=4, metrics={"success": "mean"})
    with pytest.raises(SimulationError, match="Expected a dict `info` of a step, got"):
        rollouts_of(family)


def test_what_an_environment_returns_is_reported_without_a_traceback():
    family = GymTasks(odd(seen=lambda env: np.zeros(3)), {"k": Uniform(0, 1)}, horizon=4)
    with pytest.raises(SimulationError) as error:
        rollouts_of(family)
    assert "does not fit when it is reset. Expected an observation" in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b", "a\nb", " ", "success ", "x" * 100, "return", "", 3])
def test_names_of_metrics_that_files_and_tables_do_not_take_are_refused(name):
    with pytest.raises(SettingsError, match="Expected names of metrics of 1 to 60"):
        GymTasks(odd(), {"k": Uniform(0, 1)}, horizon=4, metrics={name: "mean"})


@pytest.mark.parametrize("rate", [None, 0, -5, "30", float("nan"), [1]])
def test_a_rate_of_pictures_that_is_no_rate_is_unknown(rate):
    family = GymTasks(odd(metadata={"render_fps": rate}), {"k": Uniform(0, 1)}, horizon=4)
    assert family.step_seconds is None
    none = GymTasks(odd(metadata=None), {"k": Uniform(0, 1)}, horizon=4)
    assert none.step_seconds is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("masses", np.ones(3)), ("options", {"g": 9.8}), ("title", "x"), ("flag", True),
        ("path", [1.0, 2.0]), ("paths", [[1.0, 2.0], [3.0]]), ("parts", (np.ones(2), 1)),
    ],
)  # fmt: skip
def test_a_number_does_not_replace_something_else(name, value):
    kind = odd(**{name: value})
    with pytest.raises(SettingsError, match=f"attribute '{name}'.*to be one number"):
        GymTasks(kind, {name: Uniform(0.5, 2)}, horizon=4)
    others = Choice(value, value)
    assert GymTasks(kind, {name: others}, horizon=4).attributes == {name}


@pytest.mark.parametrize("name", ["step", "reset", "np_random", "observation_space"])
def test_a_number_does_not_replace_what_an_environment_is_made_of(name):
    with pytest.raises(SettingsError):
        GymTasks(odd(), {name: Uniform(0.5, 2)}, horizon=4)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({3: Uniform(0, 1)}, "the name"),
        ({"__class__": Uniform(0, 1)}, "the name"),
        (["k"], "a dict"),
    ],
)
def test_parameters_of_other_types_are_refused(parameters, text):
    with pytest.raises(SettingsError, match=text):
        GymTasks(odd(), parameters, horizon=4)


def test_a_setter_that_refuses_a_value_is_heard():
    def refuse(self, value):
        raise ValueError("too large")

    kind = odd(gain=property(lambda self: 1.0, refuse))
    with pytest.raises(SettingsError, match="too large"):
        GymTasks(kind, {"gain": Uniform(0.5, 2)}, horizon=4)


WRAPPERS = {
    "Autoreset": lambda: gymnasium.wrappers.Autoreset(odd(step=ended(lambda env: env.t > 2))()),
    "FrameStack": lambda: gymnasium.wrappers.FrameStackObservation(odd()(), 3),
    "Rescale": lambda: gymnasium.wrappers.RescaleAction(
        odd(acted=spaces.Box(0, 9, (2,), F32))(), -1, 1
    ),
    "TimeAware": lambda: gymnasium.wrappers.TimeAwareObservation(
        gymnasium.wrappers.TimeLimit(odd()(), 50)
    ),
    "StickyAction": lambda: gymnasium.wrappers.StickyAction(odd()(), 0.5),
    "DelayObservation": lambda: gymnasium.wrappers.DelayObservation(odd()(), 2),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_may_be_inside(name):
    family = GymTasks(WRAPPERS[name], {"k": Uniform(0, 1)}, horizon=4, name="Wrapped-v1")
    check_family(family)
    steps = rollouts_of(family).steps()
    assert steps.tolist() == ([6, 6] if name == "Autoreset" else [8, 8])
