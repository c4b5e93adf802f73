"""Two of the ways to run a module for T tasks: by `vmap`, and one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from metarl.models.modules.interception import Interception
from metarl.models.modules.passes import Pass, entered
from metarl.models.modules.skeleton import Skeletons, call

Tensors = Mapping[str, Tensor]


class Route(Protocol):
    """A way to run a module with the parameters of T tasks."""

    def __call__(
        self, params: Tensors, buffers: Tensors, inputs: Tensor, mask: Tensor | None, here: Pass
    ) -> Any:
        """Runs the module.

        Args:
            params: A parameter [T, *shape] for every name of one, tied ones under each name.
            buffers: The module's buffers, which all tasks share.
            inputs: Shape [T, N, *input].
            mask: Shape [T, N, L], or None.
            here: Noise, statistics to use, and where the moments of batch normalisations go.

        Returns:
            What the module returns, each tensor [T, N, *].
        """
        ...


class VmapRoute:
    """Runs a module by `torch.vmap` over tasks.

    Args:
        net: The module.
    """

    def __init__(self, net: nn.Module) -> None:
        self._skeletons = Skeletons(net)

    def __call__(
        self, params: Tensors, buffers: Tensors, inputs: Tensor, mask: Tensor | None, here: Pass
    ) -> Any:
        skeleton = self._skeletons.get()

        def one(task: dict[str, Any]) -> Any:
            return call(
                skeleton, {**task["params"], **buffers}, (task["inputs"],), **keywords(task)
            )

        return vmapped(one, task_values(params, inputs, mask), here)


class LoopRoute:
    """Runs a module for one task after the other.

    Args:
        net: The module.
    """

    def __init__(self, net: nn.Module) -> None:
        self._skeletons = Skeletons(net)

    def __call__(
        self, params: Tensors, buffers: Tensors, inputs: Tensor, mask: Tensor | None, here: Pass
    ) -> Any:
        skeleton = self._skeletons.get()
        results: list[Any] = []
        parts: list[list[tuple[str, Tensor, Tensor]]] = []
        inner = here
        for t in range(inputs.shape[0]):
            inner = _of_task(here, t)
            given = {} if mask is None else {"mask": mask[t]}
            tensors = {**{n: p[t] for n, p in params.items()}, **buffers}
            with entered(inner), Interception():
                results.append(call(skeleton, tensors, (inputs[t],), **given))
            parts.append(inner.moments)
        here.dropouts, here.functional_norms = inner.dropouts, inner.functional_norms
        for calls in zip(*parts, strict=True):
            mean, variance = (torch.stack([c[k] for c in calls]) for k in (1, 2))  # pyright: ignore[reportArgumentType]
            here.moments.append((calls[0][0], mean, variance))
        return _stacked(results)


def task_values(params: Tensors, inputs: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """Returns what differs between tasks, as `VmapRoute` takes it."""
    values: dict[str, Any] = {"params": dict(params), "inputs": inputs}
    return values if mask is None else {**values, "mask": mask}


def keywords(task: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the keyword arguments of the module in the values of a task."""
    return {"mask": task["mask"]} if "mask" in task else {}


def vmapped(function: Callable[[Any], Any], values: Any, here: Pass) -> Any:
    """Applies a function of one task to the values of T tasks.

    Args:
        function: Called with the values of one task, nested like `values`, with norms, attention
            and dropout replaced.
        values: Nested tensors, each with a leading task dimension.
        here: The pass of all T tasks; the function sees that of its task.

    Returns:
        What the function returns; tensors have a leading task dimension, other values are those of
        the only call.
    """
    noise = {} if here.seeds is None else {"seeds": here.seeds}
    recorded = here.recorded or {}
    kept: list[Any] = []

    def one(task: Any, noise: dict[str, Tensor], recorded: dict[str, Any]) -> Any:
        inner = here.of_task(noise.get("seeds"), None if here.recorded is None else recorded)
        with entered(inner), Interception(batched=True):
            leaves, structure = tree_flatten(function(task))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kept[:] = [[None if isinstance(v, Tensor) else v for v in leaves], structure, inner]
        kept.append([isinstance(v, Tensor) for v in leaves])
        return tensors, [m[1:] for m in inner.moments]

    tensors, moments = torch.vmap(one)(values, noise, recorded)
    others, structure, inner, is_tensor = kept
    here.dropouts, here.functional_norms = inner.dropouts, inner.functional_norms
    names = [m[0] for m in inner.moments]
    here.moments.extend((name, *m) for name, m in zip(names, moments, strict=True))
    rest = iter(tensors)
    leaves = [next(rest) if t else other for t, other in zip(is_tensor, others, strict=True)]
    return tree_unflatten(leaves, structure)


def _of_task(here: Pass, task: int) -> Pass:
    """Returns the pass of one task."""
    recorded = here.recorded
    if recorded is not None:
        recorded = {n: (mean[task], variance[task]) for n, (mean, variance) in recorded.items()}
    return here.of_task(None if here.seeds is None else here.seeds[task], recorded)


def _stacked(results: list[Any]) -> Any:
    """Stacks the tensors of the same place in the results of all tasks."""
    first, structure = tree_flatten(results[0])
    rows = [first, *(tree_flatten(r)[0] for r in results[1:])]
    stacked = [
        torch.stack(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*rows, strict=True)
    ]
    return tree_unflatten(stacked, structure)
