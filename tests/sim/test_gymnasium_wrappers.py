"""Gymnasium's vector wrappers around worlds: those that docs/other_libraries.md says work, do."""

import re
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector

from metarl.sim import GymTasks, Uniform, check_vector_env, make_vec
from metarl.sim.numpy_vector_env import NumpyVectorEnv
from tests.sim.families import Cart, Drift
from tests.sim.gymnasium.environments import Slide

try:
    from gymnasium.wrappers.vector import array_conversion
except gymnasium.error.DependencyNotInstalled as error:  # it needs numpy 2.1
    pytest.skip(str(error), allow_module_level=True)

WORLDS, HORIZON = 3, 4
PAGE = Path(__file__).resolve().parents[2] / "docs" / "other_libraries.md"
ROWS = re.findall(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \|", PAGE.read_text("utf-8"), re.MULTILINE)
TABLE = {name: (tensors == "yes", arrays == "yes") for name, tensors, arrays in ROWS}

MAKE = {
    "ArrayConversion": lambda env: array_conversion.ArrayConversion(env, *_kinds(env)),
    "VectorizeTransformObservation": lambda env: vector.VectorizeTransformObservation(
        env, gymnasium.wrappers.TransformObservation, func=lambda o: 2 * o, observation_space=None
    ),
    "VectorizeTransformAction": lambda env: vector.VectorizeTransformAction(
        env,
        gymnasium.wrappers.TransformAction,
        func=lambda a: np.multiply(a, 0.5),
        action_space=None,
    ),
    "VectorizeTransformReward": lambda env: vector.VectorizeTransformReward(
        env, gymnasium.wrappers.TransformReward, func=lambda r: 2 * r
    ),
    "TransformObservation": lambda env: vector.TransformObservation(env, lambda o: 2 * o),
    "FilterObservation": lambda env: vector.FilterObservation(env, ["a"]),
    "ResizeObservation": lambda env: vector.ResizeObservation(env, (2, 2)),
    "ReshapeObservation": lambda env: vector.ReshapeObservation(env, (3, 1)),
    "RescaleObservation": lambda env: vector.RescaleObservation(env, 0, 1),
    "DtypeObservation": lambda env: vector.DtypeObservation(env, np.float64),
    "TransformAction": lambda env: vector.TransformAction(env, lambda a: a),
    "RescaleAction": lambda env: vector.RescaleAction(env, -1, 1),
    "TransformReward": lambda env: vector.TransformReward(env, lambda r: 2 * r),
    "ClipReward": lambda env: vector.ClipReward(env, -0.1, 0.1),
    "RecordVideo": lambda env: vector.RecordVideo(env, "nowhere"),
}
"""Wrappers that need arguments."""


def _kinds(env):
    return (np, torch) if isinstance(env, NumpyVectorEnv) else (torch, np)


def pendula(numpy, autoreset="next_step"):
    """Worlds with bounded observations of three numbers."""
    family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=HORIZON)
    env = make_vec(family, WORLDS, device="cpu", autoreset=autoreset)
    return NumpyVectorEnv(env) if numpy else env


def wrapped(name, numpy):
    env = pendula(numpy)
    return MAKE[name](env) if name in MAKE else getattr(vector, name)(env)


def play(env, numpy):
    """Plays over the end of an episode; returns the results of the steps."""
    observation, _ = env.reset(seed=0)
    numpy = isinstance(observation, np.ndarray) if "torch" in str(type(env)) else numpy
    results = []
    for _ in range(HORIZON + 2):
        arrays = isinstance(observation, np.ndarray)
        action = np.full((WORLDS, 1), 0.5, np.float32) if arrays else torch.full((WORLDS, 1), 0.5)
        results.append(env.step(action))
        observation = results[-1][0]
    return results


def test_the_table_has_all_wrappers():
    assert sorted(TABLE) == sorted(vector.__all__)


@pytest.mark.parametrize("numpy", [False, True], ids=["tensors", "arrays"])
@pytest.mark.parametrize("name", sorted(vector.__all__))
def test_what_the_table_says(name, numpy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "overflow encountered in cast")  # of DtypeObservation
        if TABLE[name][numpy]:
            kind = torch.Tensor if numpy == (name in ("ArrayConversion", "NumpyToTorch")) else None
            for observation, reward, *_ in play(wrapped(name, numpy), numpy):
                assert len(observation) == len(reward) == WORLDS
                if numpy:
                    assert isinstance(reward, kind or np.ndarray)
        else:
            with pytest.raises(Exception):  # noqa: B017 - they raise anything
                results = play(wrapped(name, numpy), numpy)
                # A mixture of tensors and arrays is of no use.
                assert len({type(value) for value in results[0][:2]}) == 1


def test_statistics_are_those_of_the_episodes():
    plain = play(pendula(True), True)
    env = vector.RecordEpisodeStatistics(pendula(True))
    results = play(env, True)
    total = np.sum([r for _, r, *_ in plain[:HORIZON]], axis=0)
    episode = results[HORIZON - 1][4]["episode"]
    np.testing.assert_allclose(episode["r"], total, rtol=1e-6)
    assert episode["l"].tolist() == [HORIZON] * WORLDS
    assert "episode" not in results[HORIZON][4]  # the step that resets is of no episode


def test_normalised_observations_and_clipped_rewards_are_right():
    plain = play(pendula(True), True)
    env = vector.NormalizeObservation(pendula(True))
    play(env, True)
    first, _ = pendula(True).reset(seed=0)
    seen = np.concatenate([first, *(o for o, *_ in plain)])
    np.testing.assert_allclose(env.obs_rms.mean, seen.mean(0), atol=1e-3)
    np.testing.assert_allclose(env.obs_rms.var, seen.var(0), atol=1e-3)
    clipped = play(vector.ClipReward(pendula(True), -0.1, 0.1), True)
    for (_, reward, *_), (_, other, *_) in zip(plain, clipped, strict=True):
        np.testing.assert_array_equal(other, reward.clip(-0.1, 0.1))


def test_rescaled_actions_are_those_of_the_environment():
    half = play(vector.RescaleAction(pendula(True), -1, 1), True)  # 0.5 of 2
    env = pendula(True)
    env.reset(seed=0)
    observation, *_ = env.step(np.full((WORLDS, 1), 1.0, np.float32))
    np.testing.assert_allclose(half[0][0], observation, rtol=1e-6)


def test_arrays_are_the_tensors_values():
    arrays, tensors = play(pendula(True), True), play(pendula(False), False)
    for a, t in zip(arrays, tensors, strict=True):
        for x, y in zip(a[:4], t[:4], strict=True):
            assert isinstance(x, np.ndarray) and isinstance(y, torch.Tensor)
            np.testing.assert_array_equal(x, y.numpy())
            assert x.dtype == y.numpy().dtype
    env = gymnasium.make_vec("metarl/Navigation2D-v1", WORLDS, horizon=2, autoreset="same_step")
    env.reset(seed=0)
    *_, info = env.step(np.zeros((WORLDS, 2), np.float32))
    assert {name: type(value) for name, value in info.items()} == {
        "final_obs": np.ndarray, "_final_obs": np.ndarray,
    }  # fmt: skip


@pytest.mark.parametrize("actions", [np.zeros, torch.zeros])
def test_gymnasiums_wrappers_go_around_what_its_function_makes(actions):
    far = {"horizon": 2, "task": {"goal": [1, 1]}}
    env = gymnasium.make_vec("metarl/Navigation2D-v1", WORLDS, **far)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env = vector.RecordEpisodeStatistics(vector.NormalizeObservation(env))
    env.reset(seed=0)
    env.step(actions((WORLDS, 2)))
    observation, reward, *_, info = env.step(actions((WORLDS, 2)))
    assert isinstance(observation, np.ndarray) and isinstance(reward, np.ndarray)
    assert info["episode"]["l"].tolist() == [2] * WORLDS
    np.testing.assert_allclose(info["episode"]["r"], 2 * reward)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_gymnasiums_names_of_autoreset_are_taken(mode):
    env = make_vec(Drift(), WORLDS, autoreset=mode)
    assert env.metadata["autoreset_mode"] is mode


FAMILIES = {
    "torch": Drift(), "mujoco": Cart(),
    "gymnasium": GymTasks(Slide, {"speed": Uniform(-0.2, 0.2)}, horizon=6),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_next_step_resets_as_gymnasium_does(name):
    """Episode by episode, the observations and rewards are those of worlds that reset at once."""
    settings = {"device": "cpu", "seed": 1}
    env = make_vec(FAMILIES[name], WORLDS, autoreset="next_step", **settings)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    check_vector_env(env)
    env.reset(seed=3)
    pending = torch.zeros(WORLDS, dtype=torch.bool)
    elapsed, ends = torch.zeros(WORLDS, dtype=torch.int64), 0
    for _ in range(20):
        observation, reward, terminated, truncated, info = env.step(torch.ones(WORLDS, 1))
        elapsed = torch.where(pending, 0, elapsed + 1)
        assert info == {}
        assert torch.equal(reward == 0, pending)
        assert not ((terminated | truncated) & pending).any()
        assert torch.equal(truncated, elapsed >= FAMILIES[name].horizon)
        if name != "mujoco":  # the second number counts the steps of the episode
            assert torch.equal(observation[:, 1].long(), elapsed)
        states = [env.snapshot(world)[2] for world in range(WORLDS)]
        assert states == elapsed.tolist()
        pending = terminated | truncated
        ends += int(pending.sum())
    assert ends > 2 * WORLDS


def test_a_saved_state_knows_which_worlds_the_next_step_resets():
    env = make_vec(Drift(), WORLDS, device="cpu", autoreset="next_step")
    env.reset(seed=0)
    done = torch.zeros(WORLDS, dtype=torch.bool)
    while not done.any():
        _, _, terminated, truncated, _ = env.step(torch.ones(WORLDS, 1))
        done = terminated | truncated
    other = make_vec(Drift(), WORLDS, device="cpu", autoreset="next_step")
    other.load_state_dict(env.state_dict())
    first, second = (e.step(torch.ones(WORLDS, 1)) for e in (env, other))
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))
    assert torch.equal(first[1] == 0, done)


def test_metrics_are_arrays_too():
    class Reporting(Slide):
        def step(self, action):
            *values, _ = super().step(action)
            return *values, {"moved": self.steps}

    family = GymTasks(
        Reporting,
        {"speed": Uniform(0, 0.1)},
        horizon=HORIZON,
        name="R-v1",
        metrics={"moved": "last"},
    )
    env = NumpyVectorEnv(make_vec(family, WORLDS, device="cpu", autoreset="next_step"))
    env.reset(seed=0)
    info = env.step(np.zeros((WORLDS, 1), np.float32))[-1]
    assert isinstance(info["metrics"]["moved"], np.ndarray)
    rows = vector.DictInfoToList(env).step(np.zeros((WORLDS, 1), np.float32))[-1]
    assert [row["metrics"]["moved"] for row in rows] == [2.0] * WORLDS
