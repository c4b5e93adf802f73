"""Faulty gymnasium environments, stepped by the vector environment and played by checkers."""

import math
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import strategies as st

from metarl.sim import GymTasks, Uniform, make_vec
from metarl.sim.check_family import check_family
from tests.fuzz.outcomes import explore

HORIZON, WORLDS = 4, 2
ERRORS = [
    RuntimeError("broke"), ValueError(""), KeyError("key"), AssertionError("no"), StopIteration(),
    MemoryError(), RecursionError("deep"), OSError(5, "gone"), ZeroDivisionError(),
    NotImplementedError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), Exception("x" * 900),
    ExceptionGroup("both", [ValueError("a")]),
]  # fmt: skip
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
OBSERVED = [
    BOX, spaces.Box(-1, 1, (2,), np.float64), spaces.Box(0, 255, (2, 3), np.uint8),
    spaces.Discrete(3), spaces.Discrete(3, start=-1), spaces.MultiBinary(2),
    spaces.MultiDiscrete([2, 3]), spaces.Text(3), spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}),
    spaces.Tuple((BOX, BOX)), spaces.Sequence(BOX), spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, ()),
    spaces.Dict({}), spaces.Graph(BOX, None), None, "Box",
]  # fmt: skip
ACTED = [
    spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float64), spaces.Discrete(2),
    spaces.Discrete(3, start=5), spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, ()),
    spaces.Box(0, 5, (2,), np.int64), spaces.Box(-1, 1, (0,)), spaces.MultiBinary(2),
    spaces.Dict({"a": BOX}), None, 3,
]  # fmt: skip
PLACES = [
    "reset",
    "step",
    "close",
    "build",
    "spaces",
    "observed",
    "reward",
    "ends",
    "result",
    "info",
    "none",
]
OBSERVATIONS = [
    np.zeros(2, np.float64), np.zeros(3, np.float32), np.zeros((2, 1)), np.zeros((1, 2)),
    np.zeros(2, np.int64), np.array(["1", "2"]), np.array([None, None]), np.array([1j, 2]),
    np.zeros(2, bool), np.array([math.nan, 0.0]), np.array([math.inf, 0.0]), np.array([1e300, 0.0]),
    np.array([1e38, 1e38]), [0.0, 0.0], (0.0, 0.0), [0, [1]], None, 0.0, 5, "ab", {"a": 1}, {},
    torch.zeros(2), np.float32(1), np.ma.masked_array([1.0, 2.0], [True, False]),
    np.zeros(10**6, np.float32),
]  # fmt: skip
REWARDS = [
    math.nan, math.inf, -math.inf, 1e300, 1e38, None, "1", "much", True, np.float64(0.5),
    np.float32(0.25), np.array(1.0), np.array([1.0]), np.array([1.0, 2.0]), 10**400, 10**30, 1j,
    [0.5], torch.tensor(0.5), torch.tensor([0.5]), {}, object(),
]  # fmt: skip
ENDS = [
    True,
    np.True_,
    None,
    0,
    1,
    2,
    "False",
    "",
    math.nan,
    np.array(True),
    np.array([True]),
    np.array([True, False]),
    [],
    {},
    torch.tensor(True),
]
RESULTS = ["four", "six", "none", "list", "reset alone", "reset three", "generator"]


def again(error):
    """Returns a new error: a raised one keeps its traceback."""
    return type(error)(*error.args)


class Faulty(gymnasium.Env):
    """An environment that goes wrong somewhere, from its n-th step on.

    Its numbers are `x`, so that a result can be compared with what it returned.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    x = 0.0

    def __init__(self, place, value, when, observed, acted):
        if place == "build" and when == 0:
            raise again(value)
        self.observation_space, self.action_space = observed, acted
        self.place, self.value, self.when = place, value, when
        self.steps, self.returned = 0, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if self.place == "reset" and self.when == 0:
            raise again(self.value)
        result = self.observed(), self.info()
        if self.place == "result" and self.when == 0:
            return {"reset alone": result[0], "reset three": (*result, 1), "none": None}.get(
                self.value, result
            )
        return result

    def step(self, action):
        self.steps += 1
        late = self.steps >= self.when
        if late and self.place == "step":
            raise again(self.value)
        reward = self.value if late and self.place == "reward" else 0.25 * self.steps
        ends = self.value if late and self.place == "ends" else False
        result = (self.observed(), reward, ends, False, self.info())
        if late and self.place == "result":
            return {
                "four": result[:4],
                "six": (*result, 1),
                "none": None,
                "list": list(result),
                "generator": iter(result),
            }.get(self.value, result)
        return result

    def observed(self):
        if self.place == "observed" and self.steps >= self.when:
            return self.value
        space = self.observation_space
        return np.full(2, self.x + self.steps, np.float32) if space is BOX else space.sample()

    def info(self):
        return self.value if self.place == "info" and self.steps >= self.when else {}

    def close(self):
        if self.place == "close":
            raise again(self.value)


@st.composite
def environments(draw):
    """The arguments of `Faulty`."""
    place = draw(st.sampled_from(PLACES))
    values = {
        "observed": OBSERVATIONS,
        "reward": REWARDS,
        "ends": ENDS,
        "result": RESULTS,
        "info": [None, 3, [], "x"],
    }
    observed, acted = BOX, ACTED[0]
    if place == "spaces" or draw(st.integers(0, 4)) == 0:
        observed, acted = draw(st.sampled_from(OBSERVED)), draw(st.sampled_from(ACTED))
    value = values.get(place, ERRORS)
    return place, draw(st.sampled_from(value)), draw(st.integers(0, 3)), observed, acted


def play(vec, family):
    """Plays an episode of the vector environment; yields its step results."""
    vec.set_tasks({"x": torch.tensor([0.25, 0.75])})
    yield vec.reset()[0], None, None, None
    low = torch.zeros(WORLDS, *(family.action_space.shape or ()))
    action = low if isinstance(family.action_space, spaces.Box) else low.long()
    for _ in range(HORIZON):
        yield vec.step(action)[:4]


def check_episode(case):
    """Plays an episode; what is not refused must be what the environment returned."""
    place, value, when, observed, _ = case
    family = GymTasks(partial(Faulty, *case), {"x": Uniform(0, 1)}, horizon=HORIZON)
    vec = make_vec(family, WORLDS, device="cpu", autoreset="disabled")
    try:
        steps = list(play(vec, family))
        vec.check()
    finally:
        vec.close()
    over = torch.zeros(WORLDS, dtype=torch.bool)
    for number, (observation, reward, terminated, truncated) in enumerate(steps):
        assert observation.isfinite().all()
        if observed is BOX and place != "observed" and not over.any():
            expected = torch.tensor([0.25, 0.75]).unsqueeze(1).expand(2, 2) + number
            torch.testing.assert_close(observation, expected)
        if place == "observed" and number >= when and not over.any():
            assert isinstance(observed, spaces.Box) or value in observed
            assert np.asarray(value).dtype.kind in "biuf"
            shown = np.asarray(spaces.flatten(observed, value), np.float32).ravel()
            torch.testing.assert_close(observation, torch.as_tensor(shown).expand(2, -1))
        if number == 0:
            continue
        assert reward.isfinite().all() and reward.dtype == torch.float32
        if not over.any():
            late = place == "reward" and number >= when
            assert torch.allclose(reward, torch.full((2,), float(value) if late else 0.25 * number))
        else:
            assert not reward.any()
        assert torch.equal(
            truncated, (truncated & over) | (torch.tensor(number == HORIZON) & ~terminated)
        )
        if place == "ends" and number >= when:
            assert np.asarray(value).dtype.kind in "biu"
            assert terminated.tolist() == [bool(value)] * 2
        elif place != "ends":
            assert not terminated.any()
        over = torch.stack((over, terminated, truncated)).any(0)


@pytest.mark.parametrize("inputs", [100, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::Warning")
def test_faulty_environments(inputs, outcomes):
    def check(case):
        with outcomes.one():
            check_episode(case)

    explore(environments(), inputs, check)


@pytest.mark.parametrize("inputs", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::Warning")
def test_the_checker_reports_faulty_environments(inputs, outcomes):
    def check(case):
        with outcomes.one():
            family = GymTasks(partial(Faulty, *case), {"x": Uniform(0, 1)}, horizon=HORIZON)
            check_family(family)
            place, _, when, *_ = case
            assert not (place == "step" and when < HORIZON), "an error in a step is not reported"

    explore(environments(), inputs, check)
