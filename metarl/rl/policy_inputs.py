"""What a policy learner collects for one meta-iteration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from metarl.models.base import Params
from metarl.rl.experience import Experience
from metarl.rl.moments import Moments
from metarl.sim.family import ControlTasks
from metarl.trees import map_tensors


@dataclass(frozen=True)
class PolicyInputs:
    """The inputs of one meta-iteration; the task dimension leads every tensor.

    Attributes:
        tasks: The tasks.
        experience: Rollouts of the policies after 0, 1, ..., K adaptation steps.
        weights: Weight of the outer surrogate after 0..K steps, [T, K + 1].
        query_steps: The numbers of steps after which the surrogate counts.
        credit: Return of each task after adaptation, less the mean of the other tasks, per step of
            an episode, [T]; zeros without `exploration`. See `exploration_term`.
        environment_steps: Environment steps of all rollouts of each task, [T] int64.
        start: Initial parameters, [T, *shape] per name; None for theta.
        path: The parameters after 1..K adaptation steps that the rollouts were collected with,
            [T, *shape] per name, detached.
        moments: The moments of all rollouts together, [T] each, for the policy's units; None if
            they have no running statistics.
        unit_metrics: What training logs of the units, tag -> [T].
    """

    tasks: ControlTasks
    experience: tuple[Experience, ...]
    weights: Tensor
    query_steps: tuple[int, ...]
    credit: Tensor
    environment_steps: Tensor
    start: Params | None = None
    path: tuple[Params, ...] = ()
    moments: dict[str, Moments] | None = None
    unit_metrics: dict[str, Tensor] = field(default_factory=dict)

    def thinned(self, last: int | None, support: int | None = None) -> PolicyInputs:
        """Returns the inputs with fewer rollouts of each task.

        Args:
            last: The number of rollouts of the adapted policies; None: all.
            support: The number of rollouts of each adaptation step; None: all. With fewer, they
                give other adapted policies than `path`.
        """
        *adaptation, adapted = self.experience
        adaptation = [_first_rollouts(batch, support) for batch in adaptation]
        return replace(self, experience=(*adaptation, _first_rollouts(adapted, last)))


def _first_rollouts(batch: Experience, count: int | None) -> Experience:
    """Returns the first `count` rollouts of each task; the weights of a task still sum to 1."""
    if count is None:
        return batch
    batch = batch._replace(rollouts=batch.rollouts._replace(moments=None))
    batch = map_tensors(lambda t: t[:, :count], batch)
    return batch._replace(weights=batch.weights / batch.weights.sum((1, 2), keepdim=True))
