"""Rollouts on a GPU as one CUDA graph: policy, dynamics, rewards and ends of a whole episode."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metarl.cuda_graphs import Driver, Graphed, graphs_allowed, is_capturing
from metarl.models.base import Params
from metarl.rl.policy import Policy
from metarl.rl.rollouts import RolloutNoise, Rollouts, collect
from metarl.sim.family import Tasks
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv


class CapturedRollouts:
    """`collect` in one environment of tensor functions, captured as a graph.

    Observations, rewards and actions are checked as in `collect`: the graph computes whether a
    value may be invalid, and only then are the rollouts repeated step by step, to raise the error.

    Args:
        env: The worlds.
        policy: The policy.
        driver: See `Graphed`.
    """

    def __init__(self, env: TorchVectorEnv, policy: Policy, driver: Driver | None = None) -> None:
        self._env = env
        self._policy = policy
        self._graphed = Graphed("rollouts", policy, [], self._play, driver)

    @property
    def refused(self) -> str | None:
        """Why rollouts cannot be captured; None if they are, or were not tried."""
        return self._graphed.refused

    def __call__(self, params: Params, tasks: Tasks, noise: RolloutNoise) -> Rollouts:
        """Runs one episode in every world; see `collect`.

        Raises:
            SimulationError: See `collect`.
        """
        rollouts, suspicious = self._graphed(params, tasks, noise)
        if suspicious:
            return collect(self._env, self._policy, params, tasks, noise)
        return rollouts

    def _play(
        self, leaves: Sequence[Tensor], params: Params, tasks: Tasks, noise: RolloutNoise
    ) -> tuple[Rollouts, Tensor]:
        del leaves  # nothing is differentiated
        rollouts = collect(self._env, self._policy, params, tasks, noise)
        suspicion = self._env.suspicion
        assert suspicion is not None
        return rollouts, suspicion


def can_capture(env: TensorVectorEnv) -> bool:
    """Returns whether rollouts can be captured: tensors on a GPU, unobserved, not captured yet."""
    return (
        isinstance(env, TorchVectorEnv)
        and not is_capturing()
        and env.device.type == "cuda"
        and env.observer is None
        and graphs_allowed()
    )
