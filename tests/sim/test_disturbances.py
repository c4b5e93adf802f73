"""Late actions and noisy sensors, on every engine."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import SettingsError, TaskError
from metarl.sim import (
    Choice,
    ControlTasks,
    GymTasks,
    Latency,
    Ranges,
    SensorNoise,
    Uniform,
    WorldNoise,
    check_family,
    check_vector_env,
    make_vec,
)
from metarl.sim.sample_actions import sample_actions
from tests.sim.families import Cart, Drift


class Late:
    """Tasks differ in the steps by which actions are late, 0 to 2, too."""

    longest_latency = 2

    def sample(self, num_tasks, generator):
        late = torch.arange(num_tasks) % 3
        return ControlTasks({**super().sample(num_tasks, generator).values, "late": late})

    def latency(self, tasks):
        return tasks["late"]


@dataclass(frozen=True)
class LateDrift(Late, Drift):
    """Tensor functions."""


@dataclass(frozen=True)
class LateCart(Late, Cart):
    """A MuJoCo model."""


class Echo(gymnasium.Env):
    """Observes and earns the last action."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(1.0, 9.0, (1,), np.float32)
    shift = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return action - self.shift, float(action[0] - self.shift), False, False, {}


def echo(low=0, high=2, **others):
    late = Latency(low, high)
    return GymTasks(Echo, {"shift": Uniform(0, 1), "late": late, **others}, horizon=6)


def shifted(actions, late, idle):
    """Actions [H, W, A], each world's `late` steps later, with `idle` before them."""
    padded = torch.cat([torch.full_like(actions[:1], idle).expand(3, *actions.shape[1:]), actions])
    steps, worlds = torch.arange(len(actions)).unsqueeze(1), torch.arange(len(late))
    return padded[3 + steps - late, worlds]


def played(family, tasks, noise, actions):
    env = make_vec(family, len(noise.reset), device="cpu", autoreset="disabled")
    env.set_tasks({n: tasks[n] for n in env.get_tasks()})
    env.follow(noise)
    first = env.reset()[0]
    return torch.stack([first, *(env.step(a)[0] for a in actions)])


@pytest.mark.parametrize(
    ("late", "plain", "idle"),
    [
        (LateDrift(), Drift(), 0.0),
        (LateCart(), Cart(), 0.0),
        (echo(), GymTasks(Echo, {"shift": Uniform(0, 1)}, horizon=6), 1.0),
    ],
    ids=["torch", "mujoco", "gymnasium"],
)
def test_late_actions_are_the_same_actions_later(late, plain, idle):
    generator = torch.Generator().manual_seed(0)
    tasks = late.sample(6, generator).values
    noise = WorldNoise(
        torch.rand(6, late.reset_noise, generator=generator),
        torch.rand(6, late.horizon, late.step_noise, generator=generator),
    )
    actions = sample_actions(late.action_space, (min(5, late.horizon), 6), 1)
    found = played(late, tasks, noise, actions)
    expected = played(plain, tasks, noise, shifted(actions, tasks["late"], idle))
    assert len(tasks["late"].unique()) > 1
    assert torch.equal(found, expected)


def test_an_episode_starts_without_the_actions_of_the_one_before():
    env = make_vec(echo(2, 2), 2, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    for value in (5.0, 6.0, 7.0):
        observation, *_ = env.step(torch.full((2, 1), value))
    env.reset(options={"reset_mask": torch.tensor([True, False])})
    shift = env.get_tasks()["shift"]
    observation, *_ = env.step(torch.full((2, 1), 9.0))
    torch.testing.assert_close(observation[:, 0] + shift, torch.tensor([1.0, 6.0]))


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_the_contracts_hold(mode):
    noisy = echo(noise=SensorNoise(0.1, 0.5))
    for family in (LateDrift(), LateCart(), noisy):
        check_vector_env(make_vec(family, 5, device="cpu", autoreset=mode))


def test_discrete_actions_are_late_too():
    class Count(Echo):
        action_space = spaces.Discrete(5)

        def step(self, action):
            return np.array([action], np.float32), float(self.shift), False, False, {}

    family = GymTasks(Count, {"shift": Uniform(0, 1), "late": Latency(1)}, horizon=6)
    env = make_vec(family, 2, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    seen = [env.step(torch.tensor([a, a]))[0][0].item() for a in (3, 4, 2)]
    assert seen == [0, 3, 4]


@pytest.mark.parametrize(
    ("space", "idle"),
    [
        (spaces.Discrete(3, start=-1), 0),
        (spaces.Discrete(3, start=2), 2),
        (spaces.Discrete(3, start=-5), -3),
        (spaces.MultiDiscrete([3, 4], start=[-1, 1]), [0, 1]),
        (spaces.Tuple((spaces.Box(2, 5, (1,)), spaces.Discrete(5, start=-2))), [2, 0]),
    ],
)
def test_before_the_first_action_a_choice_is_the_number_nearest_to_zero(space, idle):
    class Chosen(Echo):
        action_space = space
        chosen = ()

        def step(self, action):
            type(self).chosen += tuple(
                np.hstack(action if isinstance(action, tuple) else (action,))
            )
            return np.zeros(1, np.float32), float(self.shift), False, False, {}

    family = GymTasks(Chosen, {"shift": Uniform(0, 1), "late": Latency(2)}, horizon=6)
    env = make_vec(family, 1, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    for seed in range(2):
        env.step(sample_actions(family.action_space, (1,), seed))
    assert list(Chosen.chosen) == np.ravel([idle, idle]).tolist()


def test_sensor_noise_has_its_deviation_and_changes_no_reward():
    family = GymTasks(Echo, {"shift": Uniform(0, 1), "noise": SensorNoise(0.2)}, horizon=6)
    env = make_vec(family, 4000, device="cpu", autoreset="disabled")
    first = env.reset(seed=0)[0]
    again = env.reset(seed=0)[0]
    assert torch.equal(first, again)
    observation, reward, *_ = env.step(torch.full((4000, 1), 2.0))
    noise = observation[:, 0] - reward
    for values in (first[:, 0], noise):
        assert abs(values.std() - 0.2) < 0.01
        assert abs(values.mean()) < 0.01
    assert abs(torch.corrcoef(torch.stack([first[:, 0], noise]))[0, 1]) < 0.06


def test_noise_is_on_the_entries_that_are_named_and_within_the_space():
    class Two(Echo):
        observation_space = spaces.Dict(
            near=spaces.Box(-1, 1, (2,), np.float32), kind=spaces.Discrete(2)
        )

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"near": np.ones(2, np.float32), "kind": 1}, {}

    noise = SensorNoise(0.3, entries=("near",))
    family = GymTasks(Two, {"shift": Uniform(0, 1), "noise": noise}, horizon=6)
    seen = make_vec(family, 50, device="cpu").reset(seed=0)[0]
    assert torch.equal(seen[:, 2:], torch.tensor([[0.0, 1.0]]).expand(50, 2))
    assert seen[:, :2].max() == 1 and seen[:, :2].std() > 0.05
    assert SensorNoise(0.3, entries="near") == noise and str(noise).endswith("on near")
    assert SensorNoise(0.3, entries=[np.int64(1)]) == SensorNoise(0.3, entries=1)
    for entries in (("kind",), ("far",), (9,)):
        with pytest.raises(SettingsError):
            GymTasks(Two, {"noise": SensorNoise(0.3, entries=entries)}, horizon=6)


@pytest.mark.parametrize("deviation", [0.0, 0.3])
def test_what_leaves_its_bounds_without_noise_does_so_with_it(deviation):
    class Beyond(Echo):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array([3, -2], np.float32), {}

    family = GymTasks(Beyond, {"noise": SensorNoise(deviation)}, horizon=6)
    seen = make_vec(family, 50, device="cpu").reset(seed=0)[0]
    assert seen.amax(0)[0] == 3 and seen.amin(0)[1] == -2
    assert seen[:, 0].min() == 3 if deviation == 0 else seen[:, 0].min() < 2.9


@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(0, 255, (8, 8), np.uint8)])
def test_noise_on_nothing_is_refused(space):
    class Seen(Echo):
        observation_space = space

    with pytest.raises(SettingsError, match="The observations are no numbers"):
        GymTasks(Seen, {"noise": SensorNoise(0.3)}, horizon=6)


def test_a_whole_episode_is_that_of_its_steps():
    family = LateDrift()
    envs = [make_vec(family, 6, device="cpu", autoreset="disabled", seed=3) for _ in range(2)]
    act = lambda seen: seen[:, :1] + 0.1  # noqa: E731
    whole, steps = envs[0].episode(act), envs[1].run_step_by_step(act)
    assert torch.equal(whole.observations, steps.observations)
    assert torch.equal(whole.rewards, steps.rewards)


def test_tests_may_have_latencies_of_their_own():
    family = GymTasks(
        Echo, {"shift": Uniform(0, 1), "late": Ranges(Latency(0, 1), test=Latency(2, 3))}, horizon=6
    )
    generator = torch.Generator().manual_seed(0)
    assert family.longest_latency == 3
    assert set(family.sample(50, generator).values["late"].tolist()) == {0, 1}
    assert set(family.split("test").sample(50, generator).values["late"].tolist()) == {2, 3}
    check_family(family)
    assert "late by 0 to 1 steps in training, actions late by 2 to 3" in str(family.card())


def test_the_card_says_whether_ranges_of_tests_are_apart():
    for test, disjoint in ((Uniform(1, 2), True), (Uniform(0.5, 2), False)):
        family = GymTasks(Echo, {"shift": Ranges(Uniform(0, 1), test=test)}, horizon=6)
        assert family.card().disjoint == disjoint
        drawn = family.split("test").sample(200, torch.Generator().manual_seed(0)).values["shift"]
        assert drawn.min() >= test.low and drawn.max() <= 2


def test_check_family_reads_what_is_measured():
    class Measured(Drift):
        metrics = {"far": "any"}  # noqa: RUF012

        def measure(self, before, actions, after, tasks):
            far = after["place"].abs()
            return {"far": torch.where(far > 0.4, far, torch.nan)}

    class Unnamed(Measured):
        def measure(self, before, actions, after, tasks):
            return {"near": after["place"]}

    class Whole(Measured):
        def measure(self, before, actions, after, tasks):
            return {"far": after["steps"]}

    check_family(Measured())
    for kind, text in ((Unnamed, "numbers of `metrics`"), (Whole, "float32")):
        with pytest.raises(TaskError, match=text):
            check_family(kind())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Latency(-1), lambda: Latency(3, 2), lambda: Latency(0.5), lambda: Latency(0, 1001),
        lambda: SensorNoise(-1), lambda: SensorNoise(2, 1), lambda: SensorNoise(float("nan")),
        lambda: Ranges(Uniform(0, 1), test=Latency(0, 1)), lambda: Ranges(Uniform(0, 1), 3),
        lambda: Ranges(Choice(1, 2), test=Choice(3, 4)),
        lambda: Ranges(SensorNoise(0, 1), test=SensorNoise(1, 2, entries=(0,))),
        lambda: SensorNoise(1, entries=(0.5,)), lambda: SensorNoise(1, entries=slice(2)),
        lambda: SensorNoise(1, entries=(True, False)),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make):
    with pytest.raises(SettingsError):
        make()


@pytest.mark.parametrize("late", [-1, 3])
def test_latencies_that_no_task_of_the_family_has_are_refused(late):
    env = make_vec(echo(0, 2), 2, device="cpu")
    with pytest.raises(TaskError, match=rf"0 to 2 steps, .* got \[0, {late}\]"):
        env.set_tasks({**env.get_tasks(), "late": torch.tensor([0, late])})


def test_steps_may_be_numbers_of_numpy():
    assert Latency(np.int64(1), np.uint8(3)) == Latency(1, 3)
    assert str(Latency(np.int64(2))) == str(Latency(2))


def test_check_family_finds_disturbances_that_do_not_fit():
    class TooLate(LateDrift):
        longest_latency = 1

    class Ignored(Drift):
        def sensor_deviation(self, tasks):
            return torch.ones(len(tasks["speed"]), 2)

    class Unnumbered(Ignored):
        noisy_sensors = True

    for kind, text in ((TooLate, "0 to `longest"), (Ignored, "no effect"), (Unnumbered, "numbers")):
        with pytest.raises(TaskError, match=text):
            check_family(kind())
