"""`check_family` on gymnasium families: randomness, leftovers, sharing, and parameters."""

import re
from functools import cached_property

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metarl.errors import SettingsError, SimulationError, TaskError
from metarl.sim import Choice, GymTaskPool, GymTasks, Uniform, check_family, make_vec
from tests.sim.gymnasium.environments import Slide
from tests.sim.gymnasium.odd import F32, odd

SPEED = {"speed": Uniform(-0.2, 0.2)}


def problems(family):
    with pytest.raises(TaskError) as error:
        check_family(family)
    return str(error.value)


class OwnDice(Slide):
    """Draws in `step` from another generator, seeded by the operating system."""

    dice = np.random.default_rng()

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.dice.uniform()), *rest


class GlobalDice(Slide):
    """Seeds NumPy's global generator in `reset` and draws from it in `step`."""

    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return super().reset(seed=seed)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(np.random.uniform()), *rest


class OwnGenerator(Slide):
    """Draws from a generator that no reset seeds."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.generator.uniform(-0.5, 0.5)
        return self.observed(), {}


class Worn(Slide):
    """Wears out: an episode leaves its number to the next."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * 0.5**self.episodes, *rest


class Late(Slide):
    """Derives a number from its first task, at its first reset."""

    def reset(self, *, seed=None, options=None):
        if not hasattr(self, "gain"):
            self.gain = 2 * self.speed
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.gain, *rest


class Cached(Slide):
    """Derives a number from its first task when it is read."""

    @cached_property
    def gain(self):
        return 2 * self.speed

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.gain, *rest


class Crowded(Slide):
    """Keeps its place where all environments of its class do."""

    shared = {}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.shared["speed"] = self.speed
        return result

    def step(self, action):
        self.speed = self.shared["speed"]
        return super().step(action)


@pytest.mark.parametrize(
    ("place", "message"),
    [(0, "the observation of step 3 is infinite"), (1, "the reward of step 3 is infinite")],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_late_in_an_episode(place, message, value):
    class Breaks(Slide):
        def step(self, action):
            result = list(super().step(action))
            if self.steps == 3:
                result[place] = result[place] * np.float32(value)
            return tuple(result)

    assert message in problems(GymTasks(Breaks, SPEED, horizon=8, name="X-v1"))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (OwnDice, "give the reward of step 1 other values in another environment: draw all random"),
        (GlobalDice, "environments share something that changes: the reward of step "),
        (Late, "derived from its first task: the reward of step 1 of a later task differs"),
        (Cached, "derived from its first task: the reward of step 1 of a later task differs"),
        (Worn, "an episode leaves something to the next: the reward of step 1 differs"),
        (OwnGenerator, "such as random generators other than `self.np_random`"),
        (Crowded, "environments share something that changes: the observation of step "),
    ],
)
def test_an_episode_depends_on_its_task_its_seed_and_its_actions_only(env, message):
    assert message in problems(GymTasks(env, SPEED, horizon=8))
    if env is not Crowded:  # its speed is an attribute, which its tasks do not set
        assert message in problems(GymTaskPool(env, tasks=30, horizon=8))


# Parameters


class Goal(Slide):
    """Is rewarded at the goal only, which no episode of the checks reaches."""

    def __init__(self, far=50.0):
        super().__init__()
        self.goal, self._far = 50.0, far

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.place > max(self.goal, self._far)), *rest


class Idle(Slide):
    """Has an attribute and a keyword argument that it does not use."""

    grip = 1.0

    def __init__(self, weight=1.0, **rest):
        super().__init__()
        self.rest = rest


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("grip", "the parameter 'grip' changes nothing: no episode reads the attribute"),
        ("weight", "'weight' changes nothing: environments that are built with other values"),
        ("gripp", "'gripp' changes nothing: environments that are built .*kwargs` swallow it"),
    ],
)
def test_a_parameter_that_changes_nothing(parameter, message):
    text = problems(GymTasks(Idle, {**SPEED, parameter: Uniform(0.5, 2)}, horizon=8))
    assert re.search(message, text) and text.count("\n- ") == 1


class Common(Slide):
    """Reads an attribute of its class."""

    pull = 1.0

    def step(self, action):
        return super().step(type(self).pull * action)


def test_an_attribute_that_is_read_from_the_class_changes_nothing():
    text = problems(GymTasks(Common, {"pull": Uniform(0.5, 2)}, horizon=8))
    assert "'pull' changes nothing: episodes read the attribute of the class" in text


def test_a_parameter_of_rare_rewards_is_no_mistake():
    check_family(GymTasks(Goal, {"goal": Uniform(40, 60), "far": Uniform(40, 60)}, horizon=8))
    assert "goal" not in vars(Goal)


class Finish(Slide):
    """Has numbers that count at the finish only, which no episode of the checks reaches."""

    bonus, finish, penalty = 1.0, 50.0, 1.0

    @property
    def prize(self):
        return next(self.bonus for _ in range(2))

    def judge(self):
        return self.prize if self.place > self.finish else 0.0

    def step(self, action):
        observation, _, *rest = super().step(action)
        if self.place < -50:
            return observation, -self.penalty, *rest
        return observation, self.judge(), *rest

    def render(self):
        return self.shade


class Painted(Finish):
    """Reads its shade in pictures only."""

    shade = 1.0


@pytest.mark.parametrize("name", ["bonus", "finish", "penalty"])
def test_a_parameter_that_counts_at_a_rare_place_is_no_mistake(name):
    check_family(GymTasks(Finish, {name: Uniform(40, 60)}, horizon=8))


def test_a_parameter_of_pictures_changes_nothing():
    text = problems(GymTasks(Painted, {"shade": Uniform(0, 1)}, horizon=8))
    assert "no episode reads the attribute" in text


def test_a_parameter_that_only_a_constructor_reads_is_told_what_to_do():
    layouts = Choice(["SFFF", "FHFG"], ["SFFF", "HHFG"])
    text = problems(GymTasks("FrozenLake-v1", {"desc": layouts}, horizon=8))
    assert "no episode reads the attribute" in text
    assert "lambda other: make(desc=other)" in text
    check_family(
        GymTasks(
            lambda other=None: gymnasium.make("FrozenLake-v1", desc=other or ["SFFF", "FHFG"]),
            {"other": layouts}, horizon=8, name="Lake-v1",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("env", "name", "values"),
    [
        ("MountainCar-v0", "goal_velocity", Uniform(0, 0.05)),
        ("Blackjack-v1", "natural", Choice(False, True)),
    ],
)
def test_attributes_of_gymnasiums_environments_that_count_rarely(env, name, values):
    check_family(GymTasks(env, {name: values}, horizon=8))


class Pole(gymnasium.Env):
    """A weight that its constructor computes from its length, or its `reset` does."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    density = 2.0

    def __init__(self, derives_in_reset=False):
        self.length = 0.5
        self.derives_in_reset = derives_in_reset
        self.weight = self.density * self.length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.derives_in_reset:
            self.weight = self.density * self.length
        self.place = float(self.np_random.normal())
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place += float(action[0]) / self.weight - 0.1 * self.length
        return np.array([self.place], np.float32), -abs(self.place), False, False, {}


@pytest.mark.parametrize("name", ["length", "density"])
def test_numbers_that_a_constructor_derived(name):
    text = problems(GymTasks(Pole, {name: Uniform(1, 2)}, horizon=8))
    assert f"setting '{name}' comes too late" in text and "(weight)" in text
    check_family(
        GymTasks(Pole, {name: Uniform(1, 2)}, horizon=8, settings={"derives_in_reset": True})
    )
    assert Pole.density == 2.0 and "length" not in vars(Pole)


class ArguedPole(Pole):
    """Its weight comes from the argument of the constructor, which the attribute keeps."""

    def __init__(self, length=0.5, mirrored=1.0):
        super().__init__()
        self.length, self.mirrored = length, -mirrored
        self.weight = self.density * length * mirrored


def test_numbers_that_a_constructor_derived_from_its_argument():
    text = problems(GymTasks(ArguedPole, {"length": Uniform(1, 2)}, horizon=8))
    assert "setting 'length' comes too late" in text and "(weight)" in text
    assert "lambda other: make(length=other)" in text
    check_family(
        GymTasks(lambda other=1: ArguedPole(length=other), {"other": Uniform(1, 2)}, horizon=8)
    )
    # An argument that is something else than the attribute says nothing about it.
    text = problems(GymTasks(ArguedPole, {"mirrored": Uniform(1, 2)}, horizon=8))
    assert "too late" not in text


@pytest.mark.parametrize(
    ("name", "derived"),
    [("length", "polemass_length"), ("masspole", "polemass_length, total_mass"), ("gravity", "")],
)
def test_the_numbers_of_cartpole(name, derived):
    family = GymTasks("CartPole-v1", {name: Uniform(0.2, 2.0)}, horizon=20)
    if derived:
        assert f"derived other numbers from it ({derived})" in problems(family)
    else:
        check_family(family)
    env = gymnasium.make("CartPole-v1").unwrapped
    assert (env.length, env.masspole, env.gravity) == (0.5, 0.1, 9.8)
    assert name not in vars(type(env))


# Wrappers


class Weak(gymnasium.ActionWrapper):
    """Scales actions."""

    def __init__(self, env, strength=1.0):
        super().__init__(env)
        self.strength = strength

    def action(self, action):
        return np.clip(self.strength * action, -1, 1)


class Shadow(gymnasium.ActionWrapper):
    """Has a speed too."""

    def __init__(self, env):
        super().__init__(env)
        self.speed = env.unwrapped.speed

    def action(self, action):
        return action


def test_the_attribute_of_a_wrapper_is_a_parameter():
    family = GymTasks(lambda: Weak(Slide()), {"strength": Uniform(0.2, 2)}, horizon=8, name="W-v1")
    assert "strength ~ U(0.2, 2), an attribute of the wrapper Weak" in str(family.card())
    check_family(family)
    env = make_vec(family, 2, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    found = [layer.strength for layer in env._host._envs]
    assert found == env.get_tasks()["strength"].tolist()
    # Where the builder takes a keyword argument of this name, it is one.
    keyword = GymTasks(
        lambda strength=1.0: Weak(Slide(), strength), {"strength": Uniform(0.2, 2)}, horizon=8,
        name="W-v1",
    )  # fmt: skip
    assert "strength ~ U(0.2, 2), a keyword argument" in str(keyword.card())
    check_family(keyword)


def test_a_name_of_two_layers_is_refused():
    with pytest.raises(SettingsError, match=r"^Shadow and Slide of .* each have an attribute 'spe"):
        GymTasks(lambda: Shadow(Slide()), SPEED, horizon=8, name="S-v1")


# Shared objects


def test_one_object_for_several_worlds_is_refused():
    shared = Slide()
    family = GymTasks(lambda: shared, SPEED, horizon=8, name="S-v1")
    message = "has the same environment object as the one that the family inspects, a Slide"
    with pytest.raises(SimulationError, match=f"World 0 of S-v1, .*{message}"):
        make_vec(family, 2, device="cpu").reset(seed=0)
    assert message in problems(family)


def test_an_object_of_a_pool_for_several_worlds_is_refused():
    pool = [Slide() for _ in range(3)]
    built = iter(range(1000))
    family = GymTasks(lambda: pool[min(next(built), 2)], SPEED, horizon=8, name="S-v1")
    with pytest.raises(SimulationError, match=r"World 2 .* same environment object as world 1,"):
        make_vec(family, 3, device="cpu").reset(seed=0)


def test_choices_are_compared_too():
    text = problems(
        GymTasks(Idle, {**SPEED, "grip": Choice("steel", "rubber")}, horizon=8, name="I-v1")
    )
    assert "the parameter 'grip' changes nothing" in text


class Reports(Slide):
    """Reports whether it is far to the right."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "far": float(reward)}


def test_metrics_that_a_reset_has_not_yet_are_no_difference():
    check_family(GymTasks(Reports, SPEED, horizon=5, metrics={"far": "last"}))


@pytest.mark.parametrize(("place", "right"), [(500.0, False), (1.5, True)])
def test_observations_far_beyond_their_bounds(place, right):
    env = odd(seen=lambda env: np.array([0.0, place if env.t else 0.0], F32))
    family = GymTasks(env, {"k": Uniform(0, 1)}, horizon=4)
    if right:
        check_family(family)
    else:
        assert "entry 1 is up to 500 in size, and the space declares -1 to 1" in problems(family)
