"""Episodes of batched simulators: the same as those of each world by itself."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from metarl.errors import SettingsError, SimulationError
from metarl.sim import BatchedVectorEnv, Latency, SensorNoise, Uniform, VectorEnvTasks, make_vec
from tests.sim.batched.simulators import (
    LIMIT,
    TIME_LIMIT,
    Points,
    carts,
    set_forces,
    set_gains,
    wrapped,
)

HORIZON = 9


def family(parameters=None, horizon=HORIZON, metrics=None, autoreset="", observed="", **options):
    return VectorEnvTasks(
        lambda: Points(**options), set_gains, parameters or {"gain": Uniform(0.5, 2)}, horizon,
        metrics=metrics or {}, autoreset=autoreset, observed=observed,
    )  # fmt: skip


def expected(x, gain, actions):
    """Returns observations, rewards, `terminated` and `truncated` of one world, in plain Python."""
    seen, rewards, terminated, truncated, over = [[x, x * gain]], [], [], [], (False, False)
    for step, action in enumerate(actions):
        if not any(over):
            x = x + gain * action
            rewards.append(-(x**2))
            over = (abs(x) > LIMIT, step + 1 >= TIME_LIMIT)
        else:
            rewards.append(0.0)
        seen.append([x, x * gain])
        terminated.append(over[0])
        truncated.append(over[1])
    return seen, rewards, terminated, truncated


@pytest.mark.parametrize("resets", ["same_step", "next_step"])
@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_an_episode_ends_where_the_simulator_ends_it(resets, numpy, parts):
    options = {"numpy": numpy, "parts": parts, "final": "final_observation"}
    points = family(resets=resets, observed="policy" if parts else "", **options)
    env = make_vec(points, 6, "cpu")
    assert isinstance(env, BatchedVectorEnv) and points.observation_space.shape == (2,)
    tasks = points.sample(6, torch.Generator().manual_seed(1)).values
    env.set_tasks(tasks)
    draws = torch.rand(HORIZON, 6, 1, generator=torch.Generator().manual_seed(2)) * 2.4 - 1
    ended = set()
    for episode in range(2):
        steps = iter(draws)
        played = env.episode(lambda seen: next(steps))  # noqa: B023
        for w in range(6):
            start = played.observations[w, 0, 0].item()
            actions = draws[:, w, 0].clamp(-1, 1).tolist()
            right = expected(start, tasks["gain"][w].item(), actions)
            found = (played.observations, played.rewards, played.terminated, played.truncated)
            for values, ours in zip(right, found, strict=True):
                torch.testing.assert_close(torch.tensor(values), ours[w])
            ended |= {"terminated" if right[2][-1] else "truncated"}
        assert points.simulator.env.resets_done == episode + 2  # the first one shows its arrays
    assert ended == {"terminated", "truncated"}


def test_without_the_last_observation_the_one_before_stands_for_it():
    played = make_vec(family(resets="same_step", final=""), 4, "cpu").episode(
        lambda seen: torch.full((4, 1), 0.1)
    )
    seen = played.observations
    torch.testing.assert_close(seen[:, TIME_LIMIT], seen[:, TIME_LIMIT - 1])
    assert not torch.equal(seen[:, TIME_LIMIT - 1], seen[:, TIME_LIMIT - 2])
    assert bool(played.truncated[:, TIME_LIMIT - 1 :].all())
    assert not played.truncated[:, TIME_LIMIT - 2].any()


def test_vector_environments_of_gymnasium_in_both_modes():
    found = []
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        poles = VectorEnvTasks(lambda m=mode: carts(m), set_forces, {"force": Uniform(5, 15)}, 99)
        env = make_vec(poles, 12, "cpu", seed=3)
        env.set_tasks(poles.sample(12, torch.Generator().manual_seed(0)).values)
        actions = torch.randint(0, 2, (99, 12), generator=torch.Generator().manual_seed(0))
        steps = iter(actions)
        found.append(env.episode(lambda seen: next(steps)))  # noqa: B023
        poles.simulator.env.close()
    torch.testing.assert_close(*found, rtol=0, atol=0)
    lengths = (found[0].rewards > 0).sum(1)
    assert 5 < lengths.min() < lengths.max() < 99
    last = found[0].observations[torch.arange(12), lengths]
    assert bool(((last[:, 0].abs() > 2.4) | (last[:, 2].abs() > 0.2094)).all())


def test_worlds_that_are_not_needed_repeat_the_first_ones():
    points = family()
    env = make_vec(points, 3, "cpu")
    env.reset()
    env.step(torch.tensor([[0.1], [0.2], [0.3]]))
    simulator = points.simulator.env
    tasks = env.get_tasks()["gain"]
    torch.testing.assert_close(simulator.gain, tasks[torch.arange(8) % 3])


def test_nothing_is_stepped_after_the_last_end():
    points = family(resets="same_step")
    env = make_vec(points, 8, "cpu")
    played = env.episode(lambda seen: torch.zeros(8, 1))
    assert played.truncated is not None and bool(played.truncated[:, -1].all())
    assert points.simulator.env.steps.unique().tolist() == [0]  # of the next episode
    assert bool((played.rewards[:, :TIME_LIMIT] != 0).all())
    assert not played.rewards[:, TIME_LIMIT:].any()


def test_metrics_are_those_of_info_and_of_the_end():
    points = family(metrics={"far": "last"}, resets="same_step")
    env = make_vec(points, 4, "cpu")
    env.reset()
    for step in range(1, TIME_LIMIT + 1):
        *_, info = env.step(torch.full((4, 1), 0.01))
        now = points.simulator.env.x.abs()[:4]
        if step == TIME_LIMIT:  # `info` is of the next episode, `final_info` of this one
            assert bool((info["metrics"]["far"] > 10).all())
        elif step % 2:
            torch.testing.assert_close(info["metrics"]["far"], now)
            kept = now.clone()
        else:  # the simulator masks it
            torch.testing.assert_close(info["metrics"]["far"], kept)


class InfoOfResets(Points):
    """Returns the `info` of the resets where worlds have ended; `final_info` has all worlds."""

    def step(self, actions):
        *result, _ = super().step(actions)
        far = self.reward.abs().sqrt()
        over = self.steps == 0
        return *result, {"final_info": {"far": far}} if over.any() else {"far": far}


def test_metrics_of_worlds_that_continue_where_others_end():
    points = VectorEnvTasks(
        lambda: InfoOfResets(3, "same_step"), set_gains, {"gain": Uniform(0.5, 2)}, HORIZON,
        metrics={"far": "mean"},
    )  # fmt: skip
    env = make_vec(points, 3, "cpu")
    played = env.episode(lambda seen: torch.tensor([[1.0], [0.3], [-0.1]]))
    lengths = (played.rewards != 0).sum(1)
    assert len(lengths.unique()) > 1
    far = played.rewards.abs().sqrt().sum(1) / lengths
    torch.testing.assert_close(env.episode_metrics()["far"], far)
    assert env.reported == ("final_info", "far")


def test_lists_of_the_ends_of_worlds_are_refused():
    class Listed(InfoOfResets):
        def step(self, actions):
            *result, info = super().step(actions)
            return *result, {name: [value] * 3 for name, value in info.items()}

    points = VectorEnvTasks(
        lambda: Listed(3, "same_step"), set_gains, {"gain": Uniform(0.5, 2)}, HORIZON
    )
    make_vec(points, 3, "cpu").episode(lambda seen: torch.zeros(3, 1))  # nothing reads them
    env = make_vec(dataclasses.replace(points, metrics={"other": "any"}), 3, "cpu")
    with pytest.raises(SimulationError, match=r"Expected `final_info` .* as a dict of arrays"):
        env.episode(lambda seen: torch.zeros(3, 1))


@pytest.mark.parametrize("numpy", [False, True])
def test_actions_of_a_box_of_integers_are_integers(numpy):
    given = []

    class Whole(Points):
        def step(self, actions):
            given.append(actions)
            return super().step(torch.as_tensor(actions).float().numpy())

    simulator = Whole(3, numpy=numpy)
    simulator.single_action_space = spaces.Box(-1, 1, (1,), np.int64)
    points = VectorEnvTasks(simulator, set_gains, {"gain": Uniform(0.5, 2)}, HORIZON)
    env = make_vec(points, 3, "cpu")
    env.reset()
    env.step(torch.tensor([[0.8], [-3.0], [0.3]]))
    assert given[0].tolist() == [[1], [-1], [0]]
    assert given[0].dtype == (np.int64 if numpy else torch.int64)


@pytest.mark.parametrize("horizon", [3, HORIZON])
def test_a_metric_that_no_step_reports_is_an_error(horizon):
    env = make_vec(family(metrics={"fare": "last"}, horizon=horizon), 4, "cpu")
    with pytest.raises(SimulationError, match=r"'fare' in `info`.* Did you mean 'far'.*far, _far"):
        env.episode(lambda seen: torch.zeros(4, 1))


def test_late_actions_and_noise_of_sensors():
    parameters = {"gain": Uniform(1, 2), "late": Latency(2), "noise": SensorNoise(0.1)}
    points = family(parameters)
    env = make_vec(points, 8, "cpu")
    seen, _ = env.reset()
    true = points.simulator.env.x.clone()
    assert 0 < (seen[:, 0] - true).abs().max() < 1
    for step in range(4):
        env.step(torch.ones(8, 1) * 0.1)
        moved = (points.simulator.env.x - true).abs() > 0.05
        assert bool(moved.all()) == (step >= 2) == bool(moved.any())


class Failing(Points):
    """Returns something else where it is asked to."""

    wrong = None

    def step(self, actions):
        result = super().step(actions)
        return result if self.wrong is None else self.wrong(result)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda r: r[:4], "observations, rewards, terminated, truncated and info"),
        (lambda r: (r[0][:1], *r[1:]), r"observations .* shape \[8, 2\].* got \[1, 2\]"),
        (lambda r: (r[0], r[1].mean(), *r[2:]), r"rewards .* shape \[8\].* got \[\]"),
        (lambda r: (r[0], ["a"] * 8, *r[2:]), "rewards .* as numbers"),
        (lambda r: (*r[:4], [{}] * 8), "Expected `info` .* as a dict of arrays"),
        (lambda r: 1 / 0, "`step` of 'Failing' raises ZeroDivisionError"),
    ],
)
def test_results_that_do_not_fit_are_refused(wrong, message):
    env = make_vec(VectorEnvTasks(Failing, set_gains, {"gain": Uniform(1, 2)}, 5), 4, "cpu")
    env.reset()
    env.step(torch.zeros(4, 1))
    env.family.simulator.env.wrong = wrong
    with pytest.raises(SimulationError, match=message):
        env.step(torch.zeros(4, 1))


def test_numbers_that_are_not_finite_are_reported_and_stay_in_their_world():
    env = make_vec(family(), 4, "cpu")
    env.reset()
    env.step(torch.tensor([[0.1], [torch.nan], [0.1], [0.1]]))
    assert env.family.simulator.env.x.isfinite().all()
    with pytest.raises(SimulationError, match="World 1"):
        env.check()


def test_one_simulator_serves_one_environment_at_a_time():
    points = family(horizon=3)
    first, second = make_vec(points, 4, "cpu"), make_vec(points.split("test"), 2, "cpu")
    first.reset()
    second.reset()
    with pytest.raises(SimulationError, match="exists once"):
        first.step(torch.zeros(4, 1))
    second.step(torch.zeros(2, 1))
    first.reset()
    first.step(torch.zeros(4, 1))


def test_what_a_simulator_cannot_do_is_refused():
    points = family()
    with pytest.raises(SettingsError, match='autoreset="disabled"'):
        make_vec(points, 4, "cpu", autoreset="same_step")
    with pytest.raises(SettingsError, match="at most 8 worlds"):
        make_vec(points, 9, "cpu")
    env = make_vec(points, 4, "cpu")
    env.reset()
    with pytest.raises(SettingsError, match="reset together"):
        env.reset(options={"reset_mask": torch.tensor([True, False, False, False])})
    env.reset(options={"reset_mask": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(SettingsError, match="cannot be saved"):
        env.state_dict()
    with pytest.raises(SettingsError, match="needs a simulator"):
        BatchedVectorEnv(None, 4)  # pyright: ignore[reportArgumentType]


def test_a_wrapper_without_attributes_is_looked_into():
    points = VectorEnvTasks(
        lambda: wrapped(Points(5)), lambda env, tasks: set_gains(env.unwrapped, tasks),
        {"gain": Uniform(1, 2)}, 5,
    )  # fmt: skip
    env = make_vec(points, 5, "cpu")
    assert env.episode(lambda seen: torch.zeros(5, 1)).rewards.shape == (5, 5)
