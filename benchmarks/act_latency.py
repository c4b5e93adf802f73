"""Time of `adapter.act` and of an adaptation step, on one core.

    python -m benchmarks.act_latency                  # about a minute
    python -m benchmarks.act_latency --acts 100000

An MLP of 2 x 100 with 17 observations, standardised by running statistics, and 6 actions, mapped to
bounds of 2: the sizes of the half cheetah. The adaptation step is that of MAML on 20 episodes of
200 steps.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.deploy.adapters.control_adapter import ControlAdapter
from metarl.deploy.adapters.recorded_family import RecordedFamily
from metarl.deploy.loading import adapter_of
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.recurrent_learner import RecurrentLearner, RL2Algorithm
from metarl.rl.trials.recurrent_policy import RecurrentPolicy

OBSERVATIONS, ACTIONS, EPISODES, HORIZON = 17, 6, 20, 200


def family() -> RecordedFamily:
    """Returns the spaces of the half cheetah, with bounds that a policy scales to."""
    return RecordedFamily(
        "Robot-v1", HORIZON, spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32),
        spaces.Box(-2.0, 2.0, (ACTIONS,), np.float32), 0.02,
    )  # fmt: skip


def gradient_adapter() -> ControlAdapter:
    """Returns the adapter of an MLP of 2 x 100."""
    policy = policy_for(family(), torch.Generator().manual_seed(0), (100, 100))
    learner = PolicyLearner(MAML(policy, inner_lr=0.1), family(), PolicyGradientSettings(EPISODES))
    adapter = adapter_of(learner)
    assert isinstance(adapter, ControlAdapter)
    return adapter


def recurrent_adapter() -> ControlAdapter:
    """Returns the adapter of a GRU of 128."""
    robot = family()
    policy = RecurrentPolicy(
        robot.observation_space, robot.action_space, torch.Generator().manual_seed(0), 128,
        options=PolicySettings(scale_actions=True, normalize_observations=False),
    )  # fmt: skip
    adapter = adapter_of(RecurrentLearner(policy, robot, RL2Algorithm(2, 128)))
    assert isinstance(adapter, ControlAdapter)
    return adapter


def act_times(adapter: ControlAdapter, acts: int, explore: bool = True) -> np.ndarray:
    """Returns the time of each `act`, in microseconds, [acts]."""
    rows = np.random.default_rng(0).normal(size=(1000, OBSERVATIONS)).astype(np.float32)
    times = np.empty(acts)
    for i in range(acts):
        started = time.perf_counter_ns()
        adapter.act(rows[i % 1000], explore)
        times[i] = time.perf_counter_ns() - started
    return times / 1e3


def play(adapter: ControlAdapter, episodes: int = EPISODES) -> None:
    """Lets an adapter observe random episodes."""
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for step in range(HORIZON):
            adapter.act(rng.normal(size=OBSERVATIONS))
            after = rng.normal(size=OBSERVATIONS)
            adapter.observe(after, None, float(rng.normal()), False, step == HORIZON - 1)


def background_times(adapter: ControlAdapter) -> np.ndarray:
    """Returns the times of `act` while an adaptation runs in the background, in microseconds."""
    play(adapter)
    future = adapter.adapt(background=True)
    rows = np.random.default_rng(0).normal(size=(1000, OBSERVATIONS)).astype(np.float32)
    times = []
    while not future.done():
        started = time.perf_counter_ns()
        adapter.act(rows[len(times) % 1000])
        times.append(time.perf_counter_ns() - started)
        time.sleep(0.001)  # a robot at 1 kHz
    return np.asarray(times) / 1e3


def report(acts: int) -> dict[str, np.ndarray]:
    """Prints the table, and returns the times by row."""
    torch.set_num_threads(1)
    found = {}
    adapter = gradient_adapter()
    act_times(adapter, 1000)
    found["MLP 2x100, sampled"] = act_times(adapter, acts)
    found["MLP 2x100, most likely"] = act_times(adapter, acts, False)
    found["the same, while adapting"] = background_times(adapter)
    recurrent = recurrent_adapter()
    act_times(recurrent, 100)
    found["GRU 128 (RL^2)"] = act_times(recurrent, acts // 4)
    print(f"act, microseconds, one core, torch {torch.__version__}")
    print(f"{'':28}{'p50':>9}{'p99':>9}{'max':>10}{'acts':>9}")
    for name, times in found.items():
        p50, p99 = np.percentile(times, (50, 99))
        print(f"{name:28}{p50:9.1f}{p99:9.1f}{times.max():10.1f}{len(times):9d}")
    steps = []
    for _ in range(5):
        adapter.reset()
        play(adapter)
        steps.append(adapter.adapt().seconds)
    print(f"an adaptation step on {EPISODES} x {HORIZON} transitions: {1e3 * min(steps):.1f} ms")
    return {**found, "adapt": np.asarray(steps)}


def main() -> None:
    """Parses the arguments and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", type=int, default=20_000)
    report(parser.parse_args().acts)


if __name__ == "__main__":
    main()
