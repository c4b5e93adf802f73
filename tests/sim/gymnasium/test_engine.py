"""The gymnasium engine in one process: any spaces, seeds, ends, faults and going on to the bit."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.sim import (
    GymTasks,
    GymVectorEnv,
    LogUniform,
    Uniform,
    WorldNoise,
    check_family,
    check_vector_env,
    make_vec,
)
from tests.sim.families import Drift
from tests.sim.gymnasium.environments import Faulty, Slide, Spaces
from tests.sim.gymnasium.odd import ended, odd

SPEED = {"speed": Uniform(-0.2, 0.2)}
SLIDES = GymTasks(Slide, SPEED, horizon=6)
PENDULA = GymTasks("Pendulum-v1", {"g": Uniform(5, 15), "m": LogUniform(0.5, 2)}, horizon=8)


def vec(family=SLIDES, worlds=4, **settings):
    settings = {"device": "cpu", "autoreset": "disabled", **settings}
    return make_vec(family, worlds, **settings)


def environments(env):
    """The environments that the worlds are."""
    return [e.unwrapped for e in env._host._envs]


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_the_contracts_are_kept(autoreset, observe_task):
    for family in (SLIDES, PENDULA):
        check_vector_env(vec(family, autoreset=autoreset, observe_task=observe_task))
    check_family(SLIDES.split("test"))


def test_worlds_are_what_gymnasium_makes_to_the_bit():
    env = vec(PENDULA, 3)
    noise = WorldNoise(torch.tensor([[0.25], [0.5], [0.75]]), torch.empty(3, 8, 0))
    env.follow(noise)
    actions = torch.empty(8, 3, 1).uniform_(-3, 3, generator=torch.Generator().manual_seed(0))
    seen = [env.reset()[0], *(env.step(a) for a in actions)]
    tasks = env.get_tasks()
    for world in range(3):
        alone = gymnasium.make("Pendulum-v1")
        alone.unwrapped.g, alone.unwrapped.m = (tasks[n][world].item() for n in "gm")
        observation, _ = alone.reset(seed=(world + 1) * 2**22)
        assert torch.equal(seen[0][world], torch.from_numpy(observation))
        for action, (observed, reward, *_) in zip(actions, seen[1:], strict=True):
            observation, paid, *_ = alone.step(action[world].clamp(-2, 2).numpy())
            assert torch.equal(observed[world], torch.from_numpy(observation))
            assert reward[world] == np.float32(paid)


def test_worlds_that_have_ended_are_not_stepped_on():
    env = vec(worlds=8)
    env.reset()
    push = torch.ones(8, 1)
    results = [env.step(push) for _ in range(6)]
    ends = torch.stack([r[2] for r in results]).long().argmax(0)
    assert results[-1][2].all() and (ends < 5).all()  # all terminate before the horizon
    assert [e.stepped for e in environments(env)] == (ends + 1).tolist()
    assert torch.equal(results[-1][0][:, 1], ends + 1.0)
    assert (results[-1][1] == 0).all()


def test_worlds_past_the_horizon_are_not_stepped_on():
    env = vec(GymTasks(Slide, {"_slope": Uniform(-0.01, 0.01)}, horizon=2))
    env.reset()
    for _ in range(3):
        *_, truncated, _ = env.step(torch.zeros(4, 1))
    assert truncated.all()
    assert [e.stepped for e in environments(env)] == [2] * 4


@pytest.mark.parametrize("info", [{"TimeLimit.truncated": True}, {"TimeLimit.truncated": False}])
def test_an_end_that_info_calls_a_time_limit_is_truncated(info):
    cut_off = info["TimeLimit.truncated"]
    old = odd(step=ended(terminated=lambda env: env.t == 3, info=lambda env: info))
    env = make_vec(GymTasks(old, {"k": Uniform(0, 1)}, horizon=6), 2, autoreset="disabled")
    env.reset(seed=0)
    for _ in range(3):
        *_, terminated, truncated, _ = env.step(torch.zeros(2, 1))
    assert terminated.tolist() == [not cut_off] * 2 and truncated.tolist() == [cut_off] * 2


def test_an_episode_that_the_environment_cuts_off_is_truncated_and_not_stepped_on():
    env = vec(GymTasks(partial(Faulty, "cut"), {"speed": Uniform(0.15, 0.2)}, horizon=6))
    env.reset()
    first, second, third = (env.step(torch.zeros(4, 1)) for _ in range(3))
    assert not first[3].any() and second[3].all() and third[3].all()
    assert not third[2].any()
    assert [e.stepped for e in environments(env)] == [2] * 4


def test_a_task_takes_effect_when_its_world_starts_next():
    env = vec(worlds=2)
    env.set_tasks({"speed": torch.tensor([0.1, 0.2])})
    env.reset()
    env.set_tasks({"speed": torch.tensor([-0.1, -0.2])})
    assert [e.speed for e in environments(env)] == pytest.approx([0.1, 0.2])
    env.reset(options={"reset_mask": np.array([True, False])})
    assert [e.speed for e in environments(env)] == pytest.approx([-0.1, 0.2])
    env.reset()
    assert [e.speed for e in environments(env)] == pytest.approx([-0.1, -0.2])


# Spaces

NESTED = spaces.Dict(
    {"place": spaces.Box(-9, 9, (2, 2)), "gear": spaces.Tuple((spaces.Discrete(3),))}
)


X = {"x": Uniform(0, 3)}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(0, 255, (2, 3), np.uint8), [2] * 6),
        (spaces.Discrete(4), [0, 0, 1, 0]),
        (NESTED, [0, 0, 1, 2.5, 2.5, 2.5, 2.5]),
    ],
)
def test_observations_are_flattened(space, expected):
    family = GymTasks(partial(Spaces, space, spaces.Box(-1, 2, (2, 2), np.float64)), X, horizon=3)
    check_vector_env(vec(family))
    env = vec(family, 1)
    env.set_tasks({"x": torch.tensor([2.5])})
    assert env.reset()[0].tolist() == [expected]
    assert env.step(torch.zeros(1, 4))[0].tolist() == [expected]


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3), np.array([False, False]), r"of Discrete\(3\), got array\(\[False"),
        (spaces.Discrete(3), 3, r"of Discrete\(3\), got 3"),
        (spaces.MultiBinary(2), [0, 2], r"of MultiBinary\(2\), got \[0, 2\]"),
        (NESTED, {"place": np.zeros((2, 2))}, r"of the parts gear, place, got \{'place'"),
        (NESTED, {"place": np.zeros((2, 2)), "gear": (3,)}, r"of Discrete\(3\), got 3"),
        (NESTED, {"place": np.zeros(4), "gear": (0,)}, r"of shape \(2, 2\).*got \(4,\)"),
        (NESTED, {"place": np.zeros((2, 2)), "geer": (0,)}, "of the parts gear, place, got"),
    ],
    ids=range(7),
)
def test_observations_of_other_spaces_are_refused(space, value, message, monkeypatch):
    env = vec(GymTasks(partial(Spaces, space, spaces.Discrete(2)), X, horizon=3), 1)
    env.set_tasks({"x": torch.tensor([0.0])})
    monkeypatch.setattr(Spaces, "observed", lambda self: value)
    with pytest.raises(SimulationError, match=message):
        env.reset()


def test_actions_are_clipped_and_shaped_as_the_environment_has_them():
    box = spaces.Box(np.array([[-1, -2]]), np.array([[1, np.inf]]), dtype=np.float64)
    family = GymTasks(partial(Spaces, spaces.Discrete(2), box), X, horizon=3)
    env = vec(family, 1)
    env.reset()
    env.step(torch.tensor([[-3.0, -3.0]]))
    env.step(torch.tensor([[3.0, 3.0]]))
    first, second = environments(env)[0].got
    assert first.tolist() == [[-1.0, -2.0]] and second.tolist() == [[1.0, 3.0]]
    assert first in box


def test_whole_numbers_start_where_the_space_does():
    space = spaces.Discrete(3, start=5)
    family = GymTasks(partial(Spaces, spaces.Discrete(2), space), X, horizon=3)
    assert family.action_space == spaces.Discrete(3)
    env = vec(family, 1)
    env.reset()
    for action in range(3):
        env.step(torch.tensor([action]))
    assert environments(env)[0].got == [5, 6, 7]


@pytest.mark.parametrize(
    ("observed", "chosen", "message"),
    [
        (spaces.Graph(spaces.Discrete(2), None), spaces.Discrete(2), "observations is Graph"),
        (spaces.Sequence(NESTED), spaces.Discrete(2), "a Sequence, which no policy reads"),
        (spaces.Dict(a=NESTED, b=spaces.Text(5)), spaces.Discrete(2), "part 'b' of the obs.*Text"),
        (NESTED, spaces.Text(3), "the actions is Text"),
    ],
)
def test_other_spaces_are_refused(observed, chosen, message):
    with pytest.raises(SettingsError, match=message):
        GymTasks(partial(Spaces, observed, chosen), X, horizon=3)


# Horizons


def test_the_horizon_is_the_environments_limit_or_governs():
    assert GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}).horizon == 200
    longer = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=300)
    env = vec(longer, 1)
    env.reset()
    results = [env.step(torch.zeros(1, 1)) for _ in range(250)]
    assert not any(r[2] or r[3] for r in results)
    assert GymTasks(lambda: TimeLimit(Slide(), 9), SPEED).horizon == 9


@pytest.mark.parametrize(
    ("env", "horizon", "message"),
    [
        (Slide, 0, "Neither the family nor 'Slide' limits episodes: expected `horizon`"),
        (lambda: TimeLimit(Slide(), 9), 10, "ends episodes after 9 steps, before the horizon of"),
        (Slide, -1, "`horizon` of at least 0"),
    ],
)
def test_horizons_that_cannot_be(env, horizon, message):
    with pytest.raises(SettingsError, match=message):
        GymTasks(env, SPEED, horizon=horizon)


# Faults


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"failed when it was stepped\.(?s:.*)RuntimeError: the gearbox broke"),
        ("exit", r"failed when it was stepped\.(?s:.*)SystemExit: 3"),
        ("four", "Expected `step` to return observation, reward, terminated, .* got 4 values"),
        ("reward", r"Expected one number as reward, got the shape \(1,\)"),
        ("shape", r"Expected an observation of shape \(2,\), .*got \(1,\)"),
    ],
)
def test_a_fault_is_told_with_world_task_and_traceback(fault, message):
    env = vec(GymTasks(partial(Faulty, fault), SPEED, horizon=6), 3)
    env.set_tasks({"speed": torch.tensor([0.0, 0.0, 0.2])})
    env.reset()
    env.step(torch.zeros(3, 1))
    expected = rf"^World 2 of Faulty\(speed\)-v1, with the task speed 0\.2, (?s:.*){message}"
    with pytest.raises(SimulationError, match=expected):
        env.step(torch.zeros(3, 1))
    with pytest.raises(SimulationError, match="are closed; `reset` builds new ones"):
        env.step(torch.zeros(3, 1))
    env.set_tasks({"speed": torch.zeros(3)})
    env.reset()
    env.step(torch.zeros(3, 1))


RETURNED = (np.zeros(2, np.float32), 0.0, False, False)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.array(["1", "2"]), r"of real numbers, got \(2,\) of <U1"),
        (0, np.array([1j, 2]), r"of real numbers, got \(2,\) of complex128"),
        (0, [None, 1.0], r"of real numbers, got \(2,\) of object"),
        (1, "1", "Expected one number as reward, got '1'"),
        (1, None, "Expected one number as reward, got None"),
        (1, 1j, "Expected one number as reward, got 1j"),
        (2, "False", "Expected one truth value as terminated, got 'False'"),
        (2, None, "Expected one truth value as terminated, got None"),
        (2, float("nan"), "Expected one truth value as terminated, got nan"),
        (3, np.array([True]), r"Expected one truth value as truncated, got the shape \(1,\)"),
    ],
)
def test_what_numpy_would_convert_in_silence_is_a_fault(place, value, message, monkeypatch):
    def step(self, action):
        return (*RETURNED[:place], value, *RETURNED[place + 1 :], {})

    env = vec(worlds=2)
    env.reset()
    monkeypatch.setattr(Slide, "step", step)
    with pytest.raises(SimulationError, match=message):
        env.step(torch.zeros(2, 1))


@pytest.mark.parametrize("truth", [True, np.True_, 1, np.array(True), torch.tensor(True)])
def test_truth_values_of_other_types(truth, monkeypatch):
    env = vec(worlds=2)
    env.reset()
    monkeypatch.setattr(Slide, "step", lambda self, action: (RETURNED[0], 0.5, truth, False, {}))
    _, reward, terminated, truncated, _ = env.step(torch.zeros(2, 1))
    assert terminated.tolist() == [True, True] and truncated.tolist() == [False, False]
    assert reward.tolist() == [0.5, 0.5]


def test_a_fault_of_an_episode_that_is_played_again_is_told_with_its_step():
    env, other = vec(worlds=2), vec(GymTasks(partial(Faulty, "raise"), SPEED, horizon=6), 2)
    env.set_tasks({"speed": torch.tensor([0.0, 0.2])})
    env.reset()
    for _ in range(4):
        env.step(torch.zeros(2, 1))
    with pytest.raises(SimulationError, match=r"World 1 of .*, in step 1, "):
        other.load_state_dict(env.state_dict())


def test_what_is_not_a_number_is_told_as_of_other_engines():
    env = vec(GymTasks(partial(Faulty, "nan"), SPEED, horizon=6), 2)
    env.set_tasks({"speed": torch.tensor([0.0, 0.2])})
    env.reset()
    for _ in range(2):
        observation, *_ = env.step(torch.zeros(2, 1))
    told = r"World 1 has the observation \[nan, nan\] in step 1 .* the task speed 0\.2"
    with pytest.raises(SimulationError, match=told):
        env.step(observation[:, :1])  # an action of it: the reason is told, not what follows


def test_actions_that_are_not_finite_never_reach_an_environment():
    env = vec(worlds=2)
    env.reset()
    with pytest.raises(SimulationError, match=r"World 1 was given the action \[nan\]"):
        env.step(torch.tensor([[0.0], [torch.nan]]))
    assert [e.stepped for e in environments(env)] == [0, 0]


def test_states_of_others_are_refused():
    env = vec(worlds=2)
    env.reset()
    other = vec(worlds=3)
    other.reset()
    for values in ({}, other.state_dict()):
        with pytest.raises(ShapeError, match="on the gymnasium engine for 2 worlds"):
            env.load_state_dict(values)


def test_arguments_are_checked():
    with pytest.raises(SettingsError, match="Expected a GymFamily, got Drift"):
        GymVectorEnv(Drift(), 2)
    with pytest.raises(SettingsError, match=r"`workers` in \[0, 1024\], got -1"):
        vec(workers=-1)
    with pytest.raises(SettingsError, match="`time_limit` above 0"):
        GymTasks(Slide, SPEED, horizon=6, time_limit=0)
