"""Values in a traced graph that runs for T tasks at once, and their two layouts.

A tensor of the module, such as [N, C, H, W], is a tensor of all tasks, [T, N, C, H, W]; or a
`Folded` one, [N, T * C, H, W], in which convolutions of all tasks are one grouped convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from metarl.models.folding import fold_images, unfold_images
from metarl.models.modules.passes import Pass


class Folded(NamedTuple):
    """A tensor whose task dimension is folded into the channels.

    Attributes:
        tensor: Shape [N, T * C, *S].
    """

    tensor: Tensor


Value = Any
"""A tensor [T, *], a `Folded` tensor, or anything that is no tensor."""


@dataclass
class GraphRun:
    """One run of a traced graph.

    Attributes:
        num_tasks: Number of tasks, T.
        params: Name -> parameter [T, *shape].
        buffers: Name -> buffer, shared by all tasks.
        here: Noise and statistics of the pass.
    """

    num_tasks: int
    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    here: Pass

    def tensor(self, name: str) -> Tensor:
        """Returns a parameter [T, *shape], or a buffer expanded to that shape."""
        if name in self.params:
            return self.params[name]
        buffer = self.buffers[name]
        return buffer.expand(self.num_tasks, *buffer.shape)

    def plain(self, value: Value) -> Value:
        """Returns a value with a folded tensor unfolded to [T, N, C, *S]."""
        return unfold_images(value.tensor, self.num_tasks) if isinstance(value, Folded) else value


class NoForm(Exception):  # noqa: N818
    """A call has arguments for which there is no form: it runs by `vmap`."""


class Layer(NamedTuple):
    """A layer of a module: a node of its graph.

    Attributes:
        module: The layer.
        path: Its name in the module; empty for the module itself.
    """

    module: Any  # an nn.Module of one of many classes
    path: str

    def name(self, parameter: str) -> str:
        """Returns the name of a parameter of the layer in the module."""
        return f"{self.path}.{parameter}" if self.path else parameter

    def tensor(self, run: GraphRun, parameter: str) -> Tensor | None:
        """Returns a parameter [T, *shape]; None if the layer has none of this name."""
        if getattr(self.module, parameter, None) is None:
            return None
        return run.tensor(self.name(parameter))


def folded(value: Value) -> Tensor:
    """Returns a value [T, N, C, *S] or `Folded` as [N, T * C, *S]."""
    return value.tensor if isinstance(value, Folded) else fold_images(value)


def dimensions_of(value: Value) -> int:
    """Returns the number of dimensions of one task's tensor."""
    return value.tensor.dim() if isinstance(value, Folded) else value.dim() - 1
