"""Options, environments, steps and rates that suit an adapter of a policy, or are refused."""

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.cart_pole import CartPole
from metarl_envs.navigation import Navigation2D

import metarl
from metarl.deploy.loading import _check_rate, adapter_of
from metarl.deploy.robot.changed_env import changed_env
from metarl.deploy.robot.safety import RollBack
from metarl.errors import CheckpointError, SettingsError, ShapeError, SimulationError
from metarl.sim import GymTasks, Uniform
from tests.deploy.adapters.test_control_adapter import point
from tests.deploy.conftest import make_policy_learner


@pytest.mark.parametrize("run", ["point_run", "memory_run"])
def test_another_default_type_is_refused(run, request):
    _, folder = request.getfixturevalue(run)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(
            SettingsError, match=r"Policies compute .* default type is torch\.float64"
        ):
            metarl.load(folder)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollback": "permutation"}, "`rollback` to be a RollBack"),
        ({"safety": {"high": 0.1}}, "`safety` to be a Safety"),
        ({"seed": 1.5}, "an integer `seed`"),
        ({"explore": "no"}, "`explore` to be"),
        ({"rate": "50"}, "`rate` above 0"),
        ({"rate": float("nan")}, "`rate` above 0"),
    ],
)
def test_options_of_other_types_are_refused(options, message, point_run):
    with pytest.raises(SettingsError, match=message):
        metarl.load(point_run[1], **options)


def test_a_class_is_no_environment(point_run):
    with pytest.raises(SettingsError, match="got the class Cart"):
        metarl.load(point_run[1]).evaluate(Cart, 1)


class Cart(gymnasium.Env):
    """Float64 observations of two numbers, and bounds that tests choose."""

    observation_space: gymnasium.spaces.Box

    def __init__(self, size=2, high=1.0, dtype=np.float64, actions=2):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), dtype)
        self.action_space = gymnasium.spaces.Box(-high, high, (actions,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}

    def step(self, action):
        assert action in self.action_space
        return np.zeros(self.observation_space.shape), 1.0, False, False, {}


def test_other_dtypes_and_autoreset_suit_it(point_run):
    adapter = metarl.load(point_run[1])
    env = gymnasium.wrappers.Autoreset(gymnasium.wrappers.TimeLimit(Cart(), 4))
    with pytest.warns(
        RuntimeWarning, match="All steps have the reward 1, .* as long: nothing says"
    ):
        curve = adapter.run(env, 3, 3)
    assert curve.returns == [4.0] * 3 and curve.versions[-1] == 1
    assert adapter.run(Cart(), 1, 0).lengths == [6]  # without a limit: the horizon of training


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Cart(size=3), "Expected observations of 2 numbers"),
        (Cart(actions=3), "Expected 2 action entries"),
        (Cart(high=2.0), "RescaleAction"),
        (gymnasium.make("CartPole-v1"), "Expected observations of 2 numbers"),
    ],
)
def test_other_spaces_are_refused(env, message, point_run):
    with pytest.raises(SettingsError, match=message):
        metarl.load(point_run[1]).run(env, 1)


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [
        ("reset", np.zeros(2), "Expected `reset` to return"),
        ("reset", None, "Expected `reset` to return"),
        ("step", (np.zeros(2), 1.0, False, {}), "got 4 values"),
        ("step", (np.zeros(2), None, False, False, {}), "one number as reward"),
        ("step", (np.zeros(2), 1.0, "no", False, {}), "one truth value as terminated"),
    ],
)
def test_results_that_are_not_those_of_gymnasium_are_named(method, result, message, point_run):
    kind = type("Odd", (Cart,), {method: lambda self, *_, **__: result})
    with pytest.raises(SimulationError, match=message):
        metarl.load(point_run[1]).run(kind(), 1)


def test_arrays_of_other_libraries_are_read(point_run):
    class Other:
        """Such as an eager tensor, whose dtype is none of NumPy."""

        shape, dtype = (2,), "float32"

        def __array__(self, dtype=None, copy=None):
            return np.array([0.1, -0.2], np.float32)

    adapter = metarl.load(point_run[1], explore=False)
    np.testing.assert_array_equal(adapter.act(Other()), adapter.act(np.array([0.1, -0.2])))


@pytest.mark.parametrize("observation", [np.zeros(3), np.zeros((1, 2)), "left", None, [0.0]])
def test_observations_of_other_shapes_are_refused(observation, point_run):
    with pytest.raises(ShapeError, match="as in training"):
        metarl.load(point_run[1]).act(observation)


def test_other_tensors_are_no_adapted_weights(point_run):
    (weights,) = (point_run[1] / "checkpoints").glob("*2/weights.safetensors")
    with pytest.raises(CheckpointError, match=r"which `save` wrote.*holds other tensors"):
        metarl.load(point_run[1], adapted=weights)


@pytest.mark.parametrize(
    ("reward", "terminated", "message"),
    [
        (np.array([1.0]), False, r"one number as reward, got the shape \(1,\)"),
        (None, False, "one number as reward, got None"),
        ("good", False, "one number as reward, got 'good'"),
        (float("nan"), False, "a finite reward"),
        (1.0, "False", "one truth value as terminated, got 'False'"),
        (1.0, np.array([True, False]), "one truth value as terminated"),
        (1.0, None, "one truth value as terminated, got None"),
    ],
)
def test_steps_that_are_none_are_refused(reward, terminated, message, point_run):
    adapter = metarl.load(point_run[1])
    action = adapter.act([0.0, 0.0])
    with pytest.raises(SimulationError, match=message):
        adapter.observe([0.0, 0.0], action, reward, terminated, False)
    assert adapter.environment_steps == 0
    adapter.observe([0.0, 0.0], action, torch.tensor(1.0), np.bool_(False), 1)
    assert adapter.environment_steps == 1


def test_an_observation_comes_first(point_run):
    with pytest.raises(SimulationError, match="before the first"):
        metarl.load(point_run[1]).observe(np.zeros(2), np.zeros(2), 0.0, False, False)
    adapter = metarl.load(point_run[1])
    adapter.act(np.zeros(2))
    with pytest.raises(SimulationError, match="finite reward"):
        adapter.observe(np.zeros(2), None, float("nan"), False, False)


def test_other_units_warn_with_numbers(point_run):
    adapter = metarl.load(point_run[1])
    adapter.act(np.zeros(2))
    with pytest.warns(RuntimeWarning, match=r"entry 1: 57 to 57, in training -?[\d.]+ to"):
        adapter.observe(np.array([0.0, 57.0]), None, 0.0, False, False)


def test_another_rate_is_refused(point_run):
    with pytest.raises(SettingsError, match="knows its rate"):
        metarl.load(point_run[1], rate=50.0)
    learner = make_policy_learner(Navigation2D(horizon=3))
    adapter = adapter_of(learner)
    assert adapter.rate is None


def test_methods_of_the_other_kind_say_so(point_run, sine_run):
    with pytest.raises(SettingsError, match="supervised tasks"):
        metarl.load(point_run[1]).predict(np.zeros(2))
    with pytest.raises(SettingsError, match="control tasks"):
        metarl.load(sine_run[1]).act(np.zeros(1))
    with pytest.raises(SettingsError, match="Unknown option of a SupervisedAdapter 'explore'"):
        metarl.load(sine_run[1], explore=False)
    with pytest.raises(SettingsError, match="Did you mean 'explore'"):
        metarl.load(point_run[1], explor=False)


def test_a_policy_with_a_memory_has_no_roll_back(memory_run):
    with pytest.raises(SettingsError, match="no rollback of a policy with a memory"):
        metarl.load(memory_run[1], rollback=RollBack())


def test_the_rate_of_training_is_kept():
    adapter = adapter_of(make_policy_learner(CartPole(horizon=5)))
    assert adapter.rate == pytest.approx(50)
    _check_rate(adapter, 50.2)
    with pytest.raises(SettingsError, match=r"Expected 50 control steps.*got rate=25"):
        _check_rate(adapter, 25.0)
    env = changed_env("CartPole-v1", {"tau": 0.04})
    with pytest.warns(RuntimeWarning, match="makes 25 steps per second, training made 50"):
        curve = adapter.run(env, 1, 0, max_steps=3)
    assert curve.seconds == pytest.approx(0.12)
    assert isinstance(adapter.act(np.zeros(4)), int)
    with pytest.raises(SettingsError, match="Expected actions of Discrete"):
        adapter.spaces.check(CartPole().observation_space, gymnasium.spaces.Discrete(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -3}, "max_steps"),
        ({"adapt_every": -1}, "adapt_every"),
        ({"explore": False}, "explore=True to adapt"),
    ],
)
def test_unusable_runs_are_refused_before_a_step(options, message, point_run):
    adapter = metarl.load(point_run[1])
    with pytest.raises(SettingsError, match=message):
        adapter.run(point(), 3, **{"adapt_every": 3, **options})
    assert adapter.environment_steps == 0


def test_the_rate_of_an_environment_is_the_one_it_is_trained_at():
    family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)})
    assert family.step_seconds == 0.05  # its films have 30 pictures per second
    adapter = adapter_of(make_policy_learner(family, trajectories=2))
    assert adapter.rate == pytest.approx(20)
    adapter.run(gymnasium.make("Pendulum-v1", max_episode_steps=2), 1, 0)  # without a warning
