"""Environments that change their task or their spaces: restored, or refused with the reason."""

import pickle
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import SimulationError, TaskError
from metarl.sim import Choice, GymTaskPool, GymTasks, Uniform, check_family, make_vec
from metarl.sim.gymnasium.own_values import own_value
from tests.sim.gymnasium.odd import F32, PAIR, odd


def drawn_at_reset(draw):
    """An environment whose reset draws the goal that a task sets."""

    class Drawn(odd(spaces.Box(-9, 9, (2,), F32))):
        goal = 0.0

        def reset(self, *, seed=None, options=None):
            gymnasium.Env.reset(self, seed=seed)
            if draw or self.goal is None:
                self.goal = self.np_random.uniform(-1, 1)
            return np.zeros(2, F32), {}

        def step(self, action):
            return np.zeros(2, F32), -abs(float(action[0]) - self.goal), False, False, {}

    return Drawn


def test_a_reset_that_replaces_the_value_of_the_task_is_found():
    parameters = {"goal": Uniform(-1, 1)}
    check_family(GymTasks(drawn_at_reset(False), parameters, horizon=4))
    with pytest.raises(TaskError, match="`reset` gives the attribute a value of its own"):
        check_family(GymTasks(drawn_at_reset(True), parameters, horizon=4))


class Tank(odd(spaces.Box(-99, 99, (2,), F32))):
    """Its episodes use up the fuel that a task gives it, or one of another name."""

    fuel = 5.0

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        return np.array([self.fuel, 0], F32), {}

    def step(self, action):
        self.fuel -= 1
        return np.array([self.fuel, 0], F32), self.fuel, False, False, {}


def build_tank(load=5.0):
    tank = Tank()
    tank.fuel = load
    return tank


def test_what_an_episode_used_up_of_a_task_is_there_again_in_the_next():
    family = GymTasks(Tank, {"fuel": Uniform(5, 9)}, horizon=4)
    check_family(family)
    env = make_vec(family, 3, device="cpu", autoreset="disabled")
    full = env.get_tasks()["fuel"]
    for _ in range(2):
        assert torch.equal(env.reset()[0][:, 0], full)
        for number in range(4):
            seen = env.step(torch.zeros(3, 1))[0]
            assert torch.allclose(seen[:, 0], full - 1 - number)


def test_what_an_episode_leaves_to_the_next_of_the_same_task_is_found():
    with pytest.raises(TaskError, match="an episode leaves something to the next"):
        check_family(GymTasks(build_tank, {"load": Uniform(5, 9)}, horizon=4))


def built_for(**choices):
    """A function that builds environments whose spaces depend on the keyword `task`."""

    def build(task=0):
        env = odd(**{name: spaces[task] for name, spaces in choices.items()})()
        env.k = float(task)
        return env

    return build


SAME_SIZES = {
    "actions that start elsewhere": {"acted": (spaces.Discrete(3), spaces.Discrete(3, start=1))},
    "actions in another order": {
        "acted": (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]))
    },
    "actions in other bounds": {
        "acted": (spaces.Box(-1, 1, (1,), F32), spaces.Box(-2, 2, (1,), F32))
    },
    "observations of other names": {
        "observed": (PAIR, spaces.Dict(c=spaces.Discrete(2), d=spaces.Discrete(2)))
    },
    "observations of another shape": {
        "observed": (spaces.Box(-1, 1, (2, 3), F32), spaces.Box(-1, 1, (3, 2), F32))
    },
    "images in place of numbers": {
        "observed": (spaces.Box(0, 255, (8, 8), np.uint8), spaces.Box(0, 9, (8, 8), np.uint8))
    },
}


@pytest.mark.parametrize("name", SAME_SIZES)
def test_tasks_whose_spaces_mean_something_else_are_refused(name):
    family = GymTasks(built_for(**SAME_SIZES[name]), {"task": Choice(0, 1)}, horizon=4)
    with pytest.raises(
        SimulationError, match=r"Expected all tasks to have the (action|observation) space"
    ):
        make_vec(family, 8, device="cpu").reset(seed=0)


def test_bounds_of_observations_may_differ_between_tasks():
    sizes = {"observed": (spaces.Box(-1, 1, (2,), F32), spaces.Box(-2, 2, (2,), F32))}
    family = GymTasks(built_for(**sizes), {"task": Choice(0, 1)}, horizon=4)
    observations, _ = make_vec(family, 8, device="cpu").reset(seed=0)
    assert observations.shape == (8, 2)


def test_bounds_of_observations_are_those_of_a_new_environment():
    """Policies take their units from them; earlier calls do not change them."""
    kind = odd(
        observation_space=property(lambda self: spaces.Box(-self.limit, self.limit, (2,), F32)),
        seen=lambda env: np.full(2, env.limit * env.np_random.uniform(-1, 1)), limit=3.0,
    )  # fmt: skip
    family = GymTasks(kind, {"limit": Uniform(0.2, 2)}, horizon=4)
    check_family(family.split("test"))
    family.reset(family.sample(3, torch.Generator()).values, torch.rand(3, 1))
    for other in (family, family.split("validation"), pickle.loads(pickle.dumps(family))):
        assert other.observation_space.high.tolist() == [3, 3]


def test_bounds_of_actions_that_follow_an_attribute_are_refused():
    kind = odd(
        action_space=property(lambda self: spaces.Box(-self.limit, self.limit, (1,), F32)),
        limit=1.0,
    )
    family = GymTasks(kind, {"limit": Uniform(0.5, 2)}, horizon=4)
    with pytest.raises(SimulationError, match="Declare the widest bounds"):
        make_vec(family, 8, device="cpu").reset(seed=0)


class Walk(odd()):
    """Uses up the places of its task, in a list, an array and a data class."""

    places: Any = ()
    weights: Any = None

    def step(self, action):
        reward = self.places.pop() if self.places else 0.0
        if self.weights is not None:
            reward += float(self.weights.sum())
            self.weights *= 0.5
        return self.look(), reward, False, False, {}


class Route(Walk):
    """Gets its places by `set_task` and keeps them for its episodes."""

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        self.places = list(self.task["places"])
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.task["used"] += 1
        observation, reward, *rest = super().step(action)
        return observation, reward + float(self.task["used"] > 8), *rest


def returns_of(family, tasks, worlds=6, episodes=2):
    env = make_vec(family, worlds, device="cpu", autoreset="disabled")
    env.set_tasks({name: torch.tensor([value] * worlds) for name, value in tasks.items()})
    found = []
    for _ in range(episodes):
        env.reset()
        found.append(sum(env.step(torch.zeros(worlds, 1))[1] for _ in range(family.horizon)))
    return torch.stack(found)


def test_what_one_environment_uses_up_of_a_task_is_there_for_all_others():
    places, weights = Choice([1.0, 2.0], [3.0, 4.0]), Choice(np.ones(2), np.full(2, 3.0))
    family = GymTasks(Walk, {"places": places, "weights": weights}, horizon=3)
    check_family(family)
    assert (returns_of(family, {"places": 1, "weights": 0}) == 7 + 2 * 1.75).all()
    assert places.values == ([1.0, 2.0], [3.0, 4.0]) and weights.values[0].tolist() == [1, 1]


def test_what_one_environment_changes_of_a_pool_is_there_for_all_others():
    task = {"places": [3.0, 4.0], "used": 0}
    pools = {part: [task] for part in ("train", "validation", "test")}
    family = GymTaskPool(Route, pools, horizon=4)
    tasks = {n: v[0].tolist() for n, v in family.sample(1, torch.Generator()).values.items()}
    assert (returns_of(family, tasks) == 7).all()
    assert task == {"places": [3.0, 4.0], "used": 0}


class Goal(NamedTuple):
    """A part of a task."""

    place: Any


@dataclass(frozen=True)
class Trip:
    """A task with a handle."""

    goals: Any
    handle: Any


def test_only_plain_parts_of_a_task_are_copied():
    handle = threading.Lock()
    trip = Trip([Goal(np.ones(2)), {"a": {1}, "b": deque([bytearray(b"1")])}], handle)
    own = own_value(trip)
    assert own.handle is handle and own_value(handle) is handle and own_value(Trip) is Trip
    own.goals[0].place[0] = 5
    own.goals[1]["a"].add(2)
    own.goals[1]["b"][0].append(2)
    assert isinstance(own.goals[0], Goal) and trip.goals[0].place.tolist() == [1, 1]
    assert trip.goals[1] == {"a": {1}, "b": deque([bytearray(b"1")])}
    terrain = np.zeros((400, 400))
    assert own_value({"terrain": terrain})["terrain"] is terrain
    tensor = torch.ones(2)
    own_value((tensor, 1))[0].zero_()
    assert tensor.tolist() == [1, 1]
