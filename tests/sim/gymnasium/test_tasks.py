"""Tasks of any environment: attributes and keyword arguments, drawn from ranges."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import MetarlError, SettingsError, SimulationError
from metarl.sim import (
    Choice,
    GymTasks,
    Integers,
    Latency,
    LogUniform,
    SensorNoise,
    Uniform,
    check_family,
    check_vector_env,
    make_vec,
)
from metarl.tasks.base import SPLITS
from tests.sim.gymnasium.environments import Slide
from tests.sim.gymnasium.odd import odd

GRAVITY = {"g": Uniform(5, 15)}


class Seen(GymTasks):
    """Observes the place and the task instead of the place and the steps, and ends elsewhere."""

    @property
    def observation_space(self):
        return spaces.Box(-1.0, 1.0, (3,), np.float32)

    def observe(self, state, tasks):
        place = state["observation"][:, :1]
        return torch.cat([place, tasks["speed"][:, None], 0 * place], 1)

    def reward(self, before, actions, after, tasks):
        return -after["observation"][:, 0].abs()


def test_a_subclass_may_observe_and_reward_something_else():
    family = Seen(Slide, {"speed": Uniform(-0.2, 0.2)}, horizon=6)
    check_family(family)
    for workers in (0, 1):
        env = make_vec(family, 2, device="cpu", workers=workers)
        env.set_tasks({"speed": torch.tensor([0.1, -0.1])})
        env.reset(seed=0)
        observations, rewards, *_ = env.step(torch.zeros(2, 1))
        env.close()
        assert torch.equal(observations[:, 1], torch.tensor([0.1, -0.1]))
        assert torch.equal(rewards, -observations[:, 0].abs())


class Steep(Slide):
    """A slope that has to be named."""

    def __init__(self, slope, factor):
        super().__init__(factor * slope)


def sampled(family, count=2000, seed=0):
    return family.sample(count, torch.Generator().manual_seed(seed)).values


def test_values_are_those_of_the_ranges_and_splits_share_none():
    parameters = {"m": LogUniform(0.5, 2), "g": Uniform(5, 15)}
    family = GymTasks("Pendulum-v1", parameters)
    values = [sampled(family.split(part), seed=i) for i, part in enumerate(SPLITS)]
    for tasks in values:
        assert 0.5 <= tasks["m"].min() < 0.51 and 1.97 < tasks["m"].max() <= 2
        assert tasks["m"].log2().mean().abs() < 0.05  # half of them below 1
        assert tasks["g"].min() >= 5 and tasks["g"].max() <= 15
        assert tasks["g"].mean() == pytest.approx(10, abs=0.2)
    masses = torch.cat([tasks["m"] for tasks in values])
    assert len(masses.unique()) > 5900
    train, _, test = (set(tasks["m"].tolist()) for tasks in values)
    assert not train & test
    # The same draws, and yet none of the same masses:
    assert (sampled(family)["m"] != sampled(family.split("test"))["m"]).all()
    told = family.task_vector(values[0])
    assert told.shape == (2000, 2) and told.abs().max() <= 1
    assert family.card().disjoint


def test_every_environment_that_is_built_is_closed():
    class Counted(Slide):
        opened = 0

        def __init__(self, slope=0.0):
            super().__init__(slope)
            Counted.opened += 1

        def close(self):
            Counted.opened -= 1

    family = GymTasks(Counted, {"slope": Uniform(0, 1)}, horizon=6)
    assert Counted.opened == 1  # the probe
    env = make_vec(family, 3, device="cpu")
    for seed in (1, 2):
        env.set_tasks(sampled(family, 3, seed))
        env.reset()
        assert Counted.opened == 4
    env.close()
    assert Counted.opened == 1


def test_attributes_are_set_and_keyword_arguments_build_again():
    parameters = {"slope": Uniform(0, 1), "speed": Uniform(-0.2, 0.2)}
    family = GymTasks(Slide, parameters, horizon=6)
    told = str(family.card())
    assert "speed ~ U(-0.2, 0.2), an attribute" in told
    assert "slope ~ U(0, 1), a keyword argument: the environment is built again" in told
    check_family(family)
    env = make_vec(family, 2, device="cpu", autoreset="disabled")
    check_vector_env(env)
    tasks = {"slope": torch.tensor([0.25, 0.5]), "speed": torch.tensor([0.1, 0.2])}
    env.set_tasks(tasks)
    env.reset()
    first = [e.unwrapped for e in env._host._envs]
    assert [(e._slope, e.speed) for e in first] == [
        (0.25, pytest.approx(0.1)),
        (0.5, pytest.approx(0.2)),
    ]
    env.set_tasks({**tasks, "slope": torch.tensor([0.25, 0.75])})
    env.reset()
    second = [e.unwrapped for e in env._host._envs]
    assert second[0] is first[0] and second[1] is not first[1]
    assert second[1]._slope == 0.75


@pytest.mark.parametrize("build", [lambda slope: Slide(slope), partial(Steep, factor=2.0)])
def test_arguments_without_a_default_may_be_parameters(build):
    family = GymTasks(build, {"slope": Uniform(0, 1)}, horizon=6)
    check_family(family)
    env = make_vec(family, 2, device="cpu")
    env.set_tasks({"slope": torch.tensor([0.25, 0.5])})
    env.reset()
    slopes = torch.tensor([e.unwrapped._slope for e in env._host._envs])
    assert slopes[1] == 2 * slopes[0] > 0


@pytest.mark.parametrize(
    ("name", "parameters", "action"),
    [
        ("Pendulum-v1", GRAVITY, "1 number in [-2, 2], clipped to it; policies act in -1..1"),
        ("CartPole-v1", {"gravity": Uniform(5, 15)}, "Discrete(2)"),
    ],
)
def test_cards_say_what_happens_to_actions(name, parameters, action):
    family = GymTasks(name, parameters)
    (fact,) = [fact for fact in family.card().facts if fact.what == "action"]
    assert fact.value == action


def test_keyword_arguments_of_registered_environments_and_settings():
    family = GymTasks(
        "FrozenLake-v1", {"is_slippery": Choice(False, True)}, settings={"map_name": "8x8"}
    )
    assert family.observation_space.shape == (64,) and family.horizon == 100
    check_family(family)
    assert not family.card().disjoint
    assert "map_name='8x8'" in str(family.card())
    assert "is_slippery ~ one of False, True" in str(family.card())
    values = sampled(family)["is_slippery"]
    assert values.dtype == torch.int64 and values.float().mean() == pytest.approx(0.5, abs=0.05)
    assert family.task_vector({"is_slippery": torch.tensor([0, 1])}).tolist() == [[1, 0], [0, 1]]
    slippery = family.apply_task(family.probe, {"is_slippery": torch.tensor(1).numpy()})
    assert len(slippery.unwrapped.P[0][0]) == 3  # it may slip to three sides


def test_names_are_the_environments_with_its_parameters():
    assert GymTasks("Pendulum-v1", GRAVITY).name == "Pendulum(g)-v1"
    assert GymTasks(Slide, {"speed": Uniform(0, 1)}, horizon=3).name == "Slide(speed)-v1"
    assert GymTasks("Pendulum-v1", GRAVITY, name="Moons-v2").name == "Moons-v2"
    assert GymTasks("Pendulum-v1", GRAVITY).card().source == "gymnasium environment Pendulum-v1"
    slide = GymTasks(partial(Slide, slope=0.1), {"speed": Uniform(0, 1)}, horizon=3)
    assert slide.card().source == "gymnasium environment Slide of tests.sim.gymnasium.environments"


class Weighed(Slide):
    """Has properties that cannot be set."""

    def __init__(self, grade=0.0):
        super().__init__()
        self._mass, self._grade = 1.0, grade

    @property
    def mass(self):
        """Of an attribute."""
        return 2 * self._mass

    @property
    def grade(self):
        """Of an argument."""
        return self._grade

    @property
    def constant(self):
        """Of nothing."""
        return 1.0


def test_a_property_that_cannot_be_set_is_a_keyword_argument_or_refused():
    family = GymTasks(Weighed, {"grade": Uniform(0.2, 0.4)}, horizon=3)
    env = make_vec(family, 3, device="cpu")
    env.reset(seed=0)
    envs = env._host._envs
    assert [e.grade for e in envs] == pytest.approx(env.get_tasks()["grade"].tolist())
    message = r"'mass' of Weighed is a property without a setter\. It reads _mass: name that"
    with pytest.raises(SettingsError, match=message):
        GymTasks(Weighed, {"mass": Uniform(0, 1)}, horizon=3)
    with pytest.raises(SettingsError, match=r"without a setter.* Give the environment an"):
        GymTasks(Weighed, {"constant": Uniform(0, 1)}, horizon=3)
    assert GymTasks("Ant-v5", {"healthy_reward": Uniform(0, 1)}).attributes == frozenset()
    with pytest.raises(SettingsError, match="'is_healthy' of AntEnv is a property"):
        GymTasks("Ant-v5", {"is_healthy": Uniform(0, 1)})


class Motor:
    """An object that an environment drives."""

    gain = 1.0


class Driven(Slide):
    """Hands on the attributes of its motor."""

    def __init__(self):
        super().__init__()
        self.motor = Motor()

    def __getattr__(self, name):
        """Returns the motor's."""
        return getattr(vars(self)["motor"], name)


class Set(Driven):
    """Hands assignments on, too."""

    def __setattr__(self, name, value):
        """Sets the motor's gain."""
        if name == "gain":
            self.motor.gain = value
        else:
            super().__setattr__(name, value)


def test_attributes_of_another_object_are_refused_unless_they_can_be_set():
    gain = {"gain": Uniform(0.5, 2)}
    with pytest.raises(SettingsError, match="'gain' of 'Driven' is that of another object"):
        GymTasks(Driven, gain, horizon=3)
    env = make_vec(GymTasks(Set, gain, horizon=3), 2, device="cpu")
    env.reset(seed=0)
    gains = [e.motor.gain for e in env._host._envs]
    assert gains == pytest.approx(env.get_tasks()["gain"].tolist())


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([1.7, 2.0], "Expected whole numbers as the task value 'speed', got"),
        ([-1, 0], "Expected whole numbers from 0 to 2, the places of values in one of 0.1, 0.2"),
        ([3, 0], r"from 0 to 2, .* got \[3, 0\]"),
    ],
)
def test_the_task_value_of_a_choice_is_its_place(places, message):
    env = make_vec(GymTasks(Slide, {"speed": Choice(0.1, 0.2, 0.3)}, horizon=3), 2, device="cpu")
    env.set_tasks({"speed": torch.tensor([1.0, 2.0])})
    env.reset(seed=0)
    assert [e.speed for e in env._host._envs] == [0.2, 0.3]
    with pytest.raises(MetarlError, match=message):
        env.set_tasks({"speed": torch.tensor(places)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GymTasks("Pendulum-v1", {}), "Expected parameters of 'Pendulum-v1'.*GymTaskPool"),
        (lambda: GymTasks("Pendulum-v1", {"g": 3}), "'g' to be drawn from a Range such as Uni"),
        (
            lambda: GymTasks("Pendulum-v1", {"gg": Uniform(0, 1)}),
            "'Pendulum-v1' does not take the parameters gg, .*unexpected keyword argument 'gg'.*"
            "Did you mean 'g'",
        ),
        (
            lambda: GymTasks(odd(gain=1.0), {"Gain": Uniform(0, 1)}, horizon=3),
            "Did you mean 'gain'. It has gain, k",
        ),
        (
            lambda: GymTasks(
                lambda: gymnasium.wrappers.StickyAction(Slide(), 0.5),
                {"sped": Uniform(0, 1)},
                horizon=3,
            ),
            "Did you mean 'speed'.*repeat_action_probability, .*speed, ",
        ),
        (
            lambda: GymTasks("Pendulum-v2", GRAVITY),
            "The environment 'Pendulum-v2' cannot be built with no settings: VersionNotFound",
        ),
        (
            lambda: GymTasks("Pendulum", GRAVITY, horizon=3),
            r"with its version \(Pendulum-v1\), got 'Pendulum'",
        ),
        (
            lambda: GymTasks("Pendulum-v1", GRAVITY, settings={"gravity": 3}),
            "cannot be built with {'gravity': 3}: TypeError",
        ),
        (
            lambda: GymTasks(dict, GRAVITY, horizon=3),
            "'dict' to build a gymnasium.Env of .* got dict",
        ),
        (
            lambda: GymTasks(lambda: gymnasium.make_vec("CartPole-v1", 2), GRAVITY, horizon=3),
            r"a gymnasium.Env of one world, got CartPoleVectorEnv\. The package shimmy",
        ),
        (lambda: GymTasks(Steep, {"slope": Uniform(0, 1)}, horizon=3), "argument: 'factor'"),
        (lambda: GymTasks(Slide, {"speed": Uniform(0, 1)}, part="dev", horizon=3), "Unknown split"),
        (
            lambda: GymTasks(Still, {"speed": Uniform(0, 1)}, horizon=3),
            "a property without a setter",
        ),
        (lambda: Uniform(3, 1), "the upper one above the lower one"),
        (lambda: Uniform(0, float("inf")), "Expected finite bounds"),
        (lambda: Uniform(100, 100.5), "by 1% or more"),
        (lambda: LogUniform(0, 1), "Expected bounds above 0"),
        (lambda: Uniform(0, 1e38), "at most 1e"),
        (lambda: Uniform(0, np.nan), "Expected finite bounds"),
        *(
            (lambda kind=kind, bound=bound: kind(bound, bound), f"bounds of {kind.__name__}, got")
            for kind in (Uniform, LogUniform, Integers, Latency, SensorNoise)
            for bound in ("1", np.ones(2), [1], True)
        ),
        (
            lambda: GymTasks("Pendulum-v1", GRAVITY, settings={"max_episode_steps": 50}),
            "as `horizon`, which replaces the time limit of 'Pendulum-v1'",
        ),
        (lambda: Choice(1), "at least 2 values .* got 1"),
    ],
)
def test_mistakes_are_told(build, message):
    with pytest.raises(SettingsError, match=message):
        build()


class Still(Slide):
    """A speed that cannot be set."""

    speed = property(lambda self: 0.0, None)

    def __init__(self):
        self.stepped = 0


def test_tasks_whose_spaces_have_other_sizes_are_told():
    lakes = GymTasks("FrozenLake-v1", {"map_name": Choice("4x4", "8x8")}, horizon=5)
    message = "map_name 1, at its reset, (?s:.*)the observation space Discrete.16., "
    with pytest.raises(SimulationError, match=message):
        make_vec(lakes, 8, device="cpu").reset(seed=0)


def test_an_environment_that_draws_from_elsewhere_is_found():
    family = GymTasks(Careless, {"speed": Uniform(-0.2, 0.2)}, horizon=6)
    with pytest.raises(ValueError, match=r"of the reset .*super\(\).reset\(seed=seed\)"):
        check_family(family)
    family = GymTasks(Careless, {"speed": Uniform(-0.2, 0.2)}, horizon=6, worlds=1)
    with pytest.raises(ValueError, match="`reset` gives other values for the same arguments"):
        check_family(family)


@pytest.mark.parametrize("wrapper", ["NormalizeObservation", "NormalizeReward"])
def test_running_statistics_of_a_wrapper_are_found(wrapper):
    """They depend on the episodes before, and each world has its own."""
    wrap = getattr(gymnasium.wrappers, wrapper)
    family = GymTasks(lambda: wrap(Slide()), {"speed": Uniform(-1, 1)}, horizon=6, name="W-v1")
    with pytest.raises(ValueError, match=r"leaves something to the next.* statistics of wrappers"):
        check_family(family)


class Careless(Slide):
    """Its starts do not depend on the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)
