"""Trials on a GPU as one CUDA graph: memory, policy, dynamics and rewards of all episodes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metarl.cuda_graphs import Driver, Graphed
from metarl.rl.rollouts import RolloutNoise
from metarl.rl.trials.play import Trials, play
from metarl.rl.trials.trial_policy import TrialPolicy
from metarl.sim.family import Tasks
from metarl.sim.torch_engine import TorchVectorEnv


class CapturedTrials:
    """`play` in one environment of tensor functions, captured as a graph.

    Values are checked as in `play`: the graph computes whether one may be invalid, and only then
    are the trials repeated step by step, to raise the error.

    Args:
        env: The worlds.
        policy: The policy with a memory.
        keep_next: See `play`.
        driver: See `Graphed`.
    """

    def __init__(
        self,
        env: TorchVectorEnv,
        policy: TrialPolicy,
        keep_next: bool,
        driver: Driver | None = None,
    ) -> None:
        self._env = env
        self._policy = policy
        self._keep_next = keep_next
        self._graphed = Graphed("trials", policy, [], self._play, driver)

    @property
    def refused(self) -> str | None:
        """Why trials cannot be captured; None if they are, or were not tried."""
        return self._graphed.refused

    def __call__(self, tasks: Tasks, noise: RolloutNoise) -> Trials:
        """Plays one trial in every world; see `play`.

        Raises:
            SimulationError: See `play`.
        """
        trials, suspicious = self._graphed(tasks, noise)
        if suspicious:
            return self._played(tasks, noise)
        return trials

    def _play(
        self, leaves: Sequence[Tensor], tasks: Tasks, noise: RolloutNoise
    ) -> tuple[Trials, Tensor]:
        del leaves  # nothing is differentiated
        self._env.clear_checks()
        trials = self._played(tasks, noise)
        suspicion = self._env.suspicion
        assert suspicion is not None
        return trials, suspicion

    def _played(self, tasks: Tasks, noise: RolloutNoise) -> Trials:
        return play(self._env, self._policy, tasks, noise, self._policy.units, self._keep_next)
