"""Latency of exported policies in ONNX Runtime, on one core: an action, and an adaptation step.

    python -m benchmarks.export_latency

A Gaussian policy of two hidden layers of 100, the half cheetah's spaces, MAML's step. An action is
measured by `session.run` with NumPy arrays, and with the inputs bound once, as a program in C++ has
them; a step on 20 rollouts of 200 steps. The policy in torch is measured next to it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metarl.adaptation.algorithms import MAML
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.extras import import_extra
from metarl.models.base import task_params
from metarl.rl.plain_policy import plain_policy
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.sim.make import make_family

EPISODES, HORIZON = 20, 200


def main() -> None:
    """Prints the median, the 99th percentile and the maximum of each call."""
    torch.set_num_threads(1)
    family = make_family("HalfCheetahVelocity-v1")
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (100, 100), scale_actions=False)
    policy.units = None
    learner = PolicyLearner(MAML(policy, inner_lr=0.1), family)
    size = family.observation_space.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        export_adaptation(learner, Path(folder) / "out", horizon=HORIZON)
        found = OnnxAdaptation(Path(folder) / "out")
        session: Any = found._sessions["act"]
        rows = np.zeros((1, size), np.float32)
        feeds = {**found.theta, "observations": rows, "noise": np.zeros((1, 6), np.float32)}
        plain = plain_policy(policy, task_params(policy, 1), *_spaces(family))
        print(f"{size} observations, 6 actions, hidden layers 100 and 100, float32, one thread")
        report("act, torch module", lambda: plain(torch.from_numpy(rows)))
        report("act, session.run", lambda: session.run(["action"], feeds))
        report("act, inputs bound", bound(session, feeds))
        report("act, OnnxAdaptation.act", lambda: found.act(rows[0]))
        batch = _batch(size)
        step = f"step, {EPISODES} x {HORIZON}"
        report(step, lambda: (found.reset(), found.adapt(**batch)), 50)


def bound(session: Any, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Returns a call of a session whose inputs and outputs are bound once."""
    onnxruntime = import_extra("onnxruntime", "onnx")
    binding = session.io_binding()
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(v) for n, v in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def report(name: str, call: Callable[[], Any], count: int = 5000) -> None:
    """Measures a call and prints its latency in microseconds."""
    with torch.no_grad():
        for _ in range(max(5, count // 10)):
            call()
        times = np.empty(count)
        for i in range(count):
            before = time.perf_counter()
            call()
            times[i] = time.perf_counter() - before
    p50, p99, most = 1e6 * np.quantile(times, (0.5, 0.99, 1.0))
    print(f"{name:28} p50 {p50:9.1f} us   p99 {p99:9.1f} us   max {most:9.1f} us")


def _spaces(family: Any) -> tuple[Any, Any]:
    return family.observation_space, family.action_space


def _batch(size: int) -> dict[str, Any]:
    """Returns rollouts of random numbers, all of full length."""
    generator = np.random.default_rng(0)
    shape = (EPISODES, HORIZON)
    return {
        "observations": generator.standard_normal((EPISODES, HORIZON + 1, size), np.float32),
        "actions": generator.standard_normal((*shape, 6), np.float32),
        "rewards": generator.standard_normal(shape, np.float32),
        "lengths": np.full(EPISODES, HORIZON),
        "terminated": np.zeros(EPISODES, bool),
    }


if __name__ == "__main__":
    main()
