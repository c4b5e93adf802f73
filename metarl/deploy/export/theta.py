"""The initial theta and state of an exported adaptation, and their names in its graphs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.adaptation.update_rules import UpdateRule
from metarl.deploy.export.capture import ROUGH_TOLERANCE, Graph, Port, graph_of
from metarl.deploy.export.state import Flat
from metarl.models.base import Params

THETA, STATE, NEW = "theta.", "state.", "new."


@dataclass(frozen=True)
class Start:
    """What an adaptation starts from.

    Attributes:
        theta: The parameters that adapt, [*shape] per name.
        state: The state of the update rule, or of a recurrent policy.
    """

    theta: Flat
    state: Flat

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors: theta, then the state."""
        return [*self.theta.values(), *self.state.values()]

    def named(self) -> Flat:
        """Returns all tensors by their names in the graphs."""
        theta = {THETA + n: t for n, t in self.theta.items()}
        return {**theta, **{STATE + n: t for n, t in self.state.items()}}

    def ports(self, state: str = "state of the update rule") -> list[Port]:
        """Returns an input for each tensor; `state` says what the state is."""
        return [
            Port(n, t, "parameter" if n.startswith(THETA) else state)
            for n, t in self.named().items()
        ]

    def split(self, tensors: Sequence[Tensor]) -> tuple[Flat, Flat, tuple[Tensor, ...]]:
        """Returns the inputs of a graph as theta, state and the rest."""
        p, s = len(self.theta), len(self.theta) + len(self.state)
        theta = dict(zip(self.theta, tensors[:p], strict=True))
        return theta, dict(zip(self.state, tensors[p:s], strict=True)), tuple(tensors[s:])

    def graph(self) -> Graph:
        """Returns the graph without inputs whose outputs are theta and the state."""
        named = self.named()

        def start() -> list[Tensor]:
            return [t.clone() for t in named.values()]

        return graph_of("start", start, [], [(n, "initial value", {}) for n in named])


def start_of(theta: Flat, state: Flat) -> Start:
    """Returns a start with dense copies of the tensors on the CPU."""
    return Start(_dense(theta), _dense(state))


def theta_of(params: Params, frozen: Collection[str]) -> tuple[Flat, Params]:
    """Returns the parameters that adapt, without a task dimension, and the others, with it.

    Args:
        params: All parameters of one task, [1, *shape] per name.
        frozen: Names of those that do not adapt.
    """
    moving = {n: p[0].detach() for n, p in params.items() if n not in frozen}
    return moving, {n: p.detach().clone() for n, p in params.items() if n in frozen}


def moved_ports(start: Start) -> list[tuple[str, str, dict[int, str]]]:
    """Returns the outputs of a step that replace theta and the state, in their order."""
    return [(NEW + n, f"{n} after the step", {}) for n in start.named()]


def for_rule(step: Graph, rule: UpdateRule) -> Graph:
    """Returns the graph of a step of a rule, with the tolerance for its rounding errors."""
    return replace(step, tolerance=ROUGH_TOLERANCE) if rule.reads_logarithms else step


def _dense(flat: Flat) -> Flat:
    return {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in flat.items()
    }
