"""The rollouts and inner steps of an adaptation as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metarl.cuda_graphs import Driver, Graphed, is_capturing
from metarl.models.base import Params
from metarl.rl.experience import Experience
from metarl.rl.rollouts import RolloutNoise
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks
from metarl.sim.torch_engine import TorchVectorEnv

Path = tuple[tuple[Params, ...], tuple[Experience, ...]]
"""Parameters and experience after 0..K steps."""
CollectPath = Callable[
    [ControlTasks, Sequence[RolloutNoise], Params | None], Iterable[tuple[Params, Experience]]
]


class CapturedPath:
    """Adapts to tasks and collects the rollouts of every step, as a graph where it can be one.

    It can be one in worlds of tensor functions on a GPU. Values are checked as in `collect`: the
    graph computes whether one may be invalid, and only then is all of it repeated step by step, to
    raise the error. Where it cannot be captured, each batch of rollouts may still be a graph.

    Copies and pickles leave out the graph.

    Args:
        module: The module whose parameters and buffers `collect_path` reads.
        worlds: The worlds in which it collects.
        collect_path: Yields parameters and experience after 0..K steps, for K + 1 noises.
        driver: What captures; None for CUDA.
    """

    def __init__(
        self,
        module: nn.Module,
        worlds: Worlds,
        collect_path: CollectPath,
        driver: Driver | None = None,
    ) -> None:
        self._module = module
        self._worlds = worlds
        self._collect_path = collect_path
        self._driver = driver
        self._graphed: Graphed | None = None

    @property
    def refused(self) -> str | None:
        """Why there is no graph; None if there is one, or nothing was collected."""
        return None if self._graphed is None else self._graphed.refused

    def __call__(
        self, tasks: ControlTasks, noises: Sequence[RolloutNoise], start: Params | None
    ) -> Path:
        """Returns parameters and experience after 0..K steps, without derivatives.

        Args:
            tasks: T tasks.
            noises: The random numbers of K + 1 batches of rollouts.
            start: The parameters to start from, [T, *shape] per name; None for theta.

        Raises:
            SimulationError: See `rollouts.collect`.
        """
        if self.refused is None and self._can_capture(noises[0]):
            path, suspicious = self._graph()(tasks, tuple(noises), start)
            if not suspicious and self.refused is None:
                return path
        return _path(self._collect_path(tasks, noises, start))

    def _can_capture(self, noise: RolloutNoise) -> bool:
        return self._driver is not None or self._worlds.can_capture(noise)

    def _graph(self) -> Graphed:
        if self._graphed is None:
            what = "rollouts and inner steps"
            self._graphed = Graphed(what, self._module, [], self._play, self._driver)
        return self._graphed

    def _play(
        self,
        leaves: Sequence[Tensor],
        tasks: ControlTasks,
        noises: Sequence[RolloutNoise],
        start: Params | None,
    ) -> tuple[Path, Tensor]:
        del leaves  # nothing is differentiated
        assert is_capturing()
        suspicion, steps = list[Tensor](), []
        for step, noise in zip(self._collect_path(tasks, noises, start), noises, strict=True):
            env = self._worlds.get(noise)
            assert isinstance(env, TorchVectorEnv) and env.suspicion is not None
            suspicion.append(env.suspicion)
            steps.append(step)
        return _path(steps), torch.stack(suspicion).any()

    def __getstate__(self) -> dict[str, Any]:
        """Omits the graph, which holds memory of the GPU."""
        return {**self.__dict__, "_graphed": None}


def _path(steps: Iterable[tuple[Params, Experience]]) -> Path:
    params, experience = zip(*steps, strict=True)
    return params, experience
