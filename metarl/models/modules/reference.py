"""What plain torch gives for a module on a few examples of a few tasks, task by task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from metarl.errors import MetarlError, SettingsError
from metarl.models.modules.attention import scaled_dot_product_attention
from metarl.models.modules.checks import check_outputs
from metarl.models.modules.interception import DROPOUTS, RANDOM, refuse_random
from metarl.models.modules.skeleton import call, copied

TASKS, ROWS = 3, 4
SEED = 0
SPREAD = 0.1  # relative change of the weights from task to task
EXACT, ROUGH = 1e-7, 2e-3  # relative tolerances in float64 and in the module's own type


@dataclass
class Sample:
    """A few examples of a few tasks, with parameters that differ from task to task.

    Attributes:
        params: Name -> parameter [T, *shape], under every name of a tied one.
        buffers: Name -> buffer.
        inputs: Shape [T, N, *input].
        mask: Shape [T, N, L], or None.
        exact: Whether all of it is in float64.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    inputs: Tensor
    mask: Tensor | None
    exact: bool

    def leaves(self) -> dict[str, Tensor]:
        """Returns the parameters as leaves of a new graph; tied ones are one leaf."""
        made: dict[int, Tensor] = {}
        result = {}
        for name, p in self.params.items():
            if id(p) not in made:
                made[id(p)] = p.detach().requires_grad_(p.is_floating_point())
            result[name] = made[id(p)]
        return result

    def flat_results(self, run: Callable[[dict[str, Tensor]], Any]) -> Tensor:
        """Returns outputs and first derivatives of a function of the parameters, as a vector."""
        leaves = self.leaves()
        outputs = tensors_of(run(leaves))
        moving = [p for p in dict.fromkeys(leaves.values()) if p.requires_grad]
        value = projection(outputs)
        grads = ()
        if moving and value.requires_grad:
            grads = torch.autograd.grad(value, moving, allow_unused=True)
        parts = [o.detach().flatten().double() for o in outputs]
        for p, g in zip(moving, grads, strict=False):
            parts.append((torch.zeros_like(p) if g is None else g).flatten().double())
        return torch.cat(parts)


@dataclass(frozen=True)
class Reference:
    """What plain torch gives.

    Attributes:
        flat: Outputs and gradients as `Sample.flat_results` gives them.
        mixes_examples: Whether the output for an example depends on the others.
        activation: Numbers of the largest activation of an example.
    """

    flat: Tensor
    mixes_examples: bool
    activation: int


class PlainRun(TorchFunctionMode):
    """Leaves dropout out, and refuses random numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, unless it is a dropout."""
        del types
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return args[0]
        if func in RANDOM:
            refuse_random(func)
        if func is F.multi_head_attention_forward:
            kwargs = {**kwargs, "training": False}
        if func is F.scaled_dot_product_attention:
            return scaled_dot_product_attention(*args, **kwargs)  # without a pass: no dropout
        return func(*args, **kwargs)


class LargestActivation(TorchDispatchMode):
    """Notes the size of the largest tensor that is computed and is no view of given ones.

    Args:
        given: The given tensors: parameters and buffers.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self._given = {t.untyped_storage().data_ptr() for t in given}
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func` and looks at its results."""
        del types
        results = func(*args, **(kwargs or {}))
        for tensor in tensors_of(results):
            if tensor.untyped_storage().data_ptr() not in self._given:
                self.numbers = max(self.numbers, tensor.numel())
        return results


def sample_of(net: nn.Module, inputs: Tensor, mask: Tensor | None) -> Sample:
    """Takes a few examples of a few tasks, and changes the weights of each task."""
    rows = torch.arange(max(3, min(ROWS, inputs.shape[1]))) % inputs.shape[1]
    tasks = torch.arange(TASKS) % inputs.shape[0]
    rows, tasks = rows.to(inputs.device), tasks.to(inputs.device)
    taken = inputs[tasks][:, rows]
    mask = None if mask is None else mask[tasks][:, rows]
    if taken.is_floating_point() and len(rows) > inputs.shape[1]:  # repeated: make them differ
        scale = torch.linspace(1, 1.5, len(rows), device=inputs.device, dtype=taken.dtype)
        taken = taken * scale.view(-1, *[1] * (taken.dim() - 2))
    exact = inputs.device.type != "mps"
    sample = Sample(_varied(net, exact), dict(net.named_buffers(remove_duplicate=False)), taken,
                    mask, exact)  # fmt: skip
    if not exact:
        return sample
    doubled = Sample(
        sample.params, {n: _double(b) for n, b in sample.buffers.items()}, _double(taken), mask,
        exact,
    )  # fmt: skip
    if _runs_in_double(net, doubled):
        return doubled
    sample.params = _varied(net, False)
    sample.exact = False
    return sample


def _runs_in_double(net: nn.Module, sample: Sample) -> bool:
    """Returns whether a module that runs in its own type runs in float64, too."""
    try:
        with PlainRun():
            _run_task(copied(net).double(), sample, 0)
    except MetarlError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        return not any(word in str(error) for word in ("dtype", "Double", "double", "Float"))
    return True


def _varied(net: nn.Module, double: bool) -> dict[str, Tensor]:
    """Returns parameters [TASKS, *shape] that differ from task to task by a tenth."""
    made: dict[int, Tensor] = {}
    params = {}
    for name, p in net.named_parameters(remove_duplicate=False):
        if id(p) not in made:
            value = _double(p.detach()) if double else p.detach()
            value = value.expand(TASKS, *p.shape).clone()
            if p.is_floating_point():
                generator = torch.Generator().manual_seed(SEED + len(made))
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value = value * (1 + SPREAD * noise.to(value.device, value.dtype))
            made[id(p)] = value
        params[name] = made[id(p)]
    return params


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def reference(net: nn.Module, sample: Sample) -> Reference:
    """Runs a module by plain torch for each task, and checks what it does.

    Raises:
        SettingsError: The module does not run, changes its inputs, parameters or buffers in place,
            gives other outputs for the same inputs, or runs for one number of examples only.
        ShapeError: It returns something else than tensors [N, *].
    """
    plain = copied(net)
    plain = plain.double() if sample.exact else plain
    for layer in plain.modules():
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    name = type(net).__name__
    with PlainRun():
        first, activation = _checked_run(plain, sample, name)
        mixes = _mixes_examples(plain, sample, first, name)

        def run(params: dict[str, Tensor]) -> Any:
            results = [
                tree_flatten(_run_task(plain, sample, t, params))[0]
                for t in range(sample.inputs.shape[0])
            ]
            return [torch.stack(column) for column in zip(*results, strict=True)]

        flat = sample.flat_results(run)
    return Reference(flat, mixes, activation)


def _checked_run(plain: nn.Module, sample: Sample, name: str) -> tuple[list[Tensor], int]:
    """Runs the first task, and checks that nothing changes in place.

    Returns:
        Its outputs, and the numbers of the largest activation of an example.
    """
    inputs = sample.inputs[0].clone()
    before = inputs._version
    tensors = _tensors(sample, 0)
    kept = {n: t.clone() for n, t in tensors.items()}
    try:
        outputs = call(plain, tensors, (inputs,), **_mask(sample, 0))
    except MetarlError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{name} does not run on a batch of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    check_outputs(outputs, inputs.shape[0], name)
    if inputs._version != before:
        raise SettingsError(
            f"Expected a module that leaves its inputs as they are, and {name} changes them in "
            "place: the next adaptation step would see other inputs. Work on a copy, or use "
            "functions that do not end with an underscore and layers without `inplace=True`."
        )
    own = _running_statistics(plain)
    changed = [n for n, t in kept.items() if n not in own and not _same(tensors[n], t)]
    if changed:
        raise SettingsError(
            f"Expected a module that leaves its parameters and buffers as they are, and {name} "
            f"changes {', '.join(changed)}: tasks and adaptation steps would not be independent. "
            "Only running statistics of torch's normalisation layers may change (they are kept per "
            "task). Call net.eval() if that stops it (as for spectral_norm), or compute the value "
            "from the inputs."
        )
    tensors = _tensors(sample, 0)
    with LargestActivation(tensors.values()) as largest:
        again = tensors_of(call(plain, tensors, (sample.inputs[0],), **_mask(sample, 0)))
    outputs = tensors_of(outputs)
    if not all(_same(a, b) for a, b in zip(outputs, again, strict=True)):
        raise SettingsError(
            f"Expected a module whose outputs depend on its inputs only, and {name} gives others "
            "for the same inputs. It may keep a state between calls, or draw random numbers from "
            "Python's or numpy's generator: use nn.Dropout, or give the numbers as inputs."
        )
    return outputs, -(-largest.numbers // inputs.shape[0])


def _mixes_examples(plain: nn.Module, sample: Sample, outputs: list[Tensor], name: str) -> bool:
    """Returns whether outputs change with the other examples of a batch."""
    fewer = sample.inputs.shape[1] - 1
    mask = {} if sample.mask is None else {"mask": sample.mask[0, :fewer]}
    try:
        part = call(plain, _tensors(sample, 0), (sample.inputs[0, :fewer],), **mask)
        check_outputs(part, fewer, name)
    except Exception as error:
        raise SettingsError(
            f"Expected a module for any number of examples, and {name} runs on {fewer + 1} and not "
            f"on {fewer} ({error}). Support and query sets may differ in size: take the number of "
            "examples from the inputs (inputs.shape[0], or -1 in a view)."
        ) from error
    pairs = zip(outputs, tensors_of(part), strict=True)
    return not all(agree(a[:fewer], b, sample.exact) for a, b in pairs)


def agree(found: Tensor, expected: Tensor, exact: bool) -> bool:
    """Returns whether two results agree up to rounding."""
    if found.shape != expected.shape:
        return False
    tolerance = EXACT if exact else ROUGH
    scale = expected.abs().max().item() if expected.numel() else 0.0
    return torch.allclose(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance * max(scale, 1e-12),
        equal_nan=True,
    )  # fmt: skip


def projection(outputs: list[Tensor]) -> Tensor:
    """Returns a number with curvature: sum of sin(o_i) c_i with fixed c, over all outputs."""
    total = outputs[0].new_zeros(())
    for output in outputs:
        if output.is_floating_point():
            count = output.numel()
            factors = torch.arange(1, count + 1, device=output.device, dtype=torch.float64).cos()
            total = total + (output.flatten().sin() * factors.to(output.dtype)).sum()
    return total


def tensors_of(outputs: Any) -> list[Tensor]:
    """Returns the tensors of nested outputs."""
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def _run_task(
    plain: nn.Module, sample: Sample, task: int, params: dict[str, Tensor] | None = None
) -> Any:
    tensors = _tensors(sample, task, params)
    return call(plain, tensors, (sample.inputs[task],), **_mask(sample, task))


def _tensors(
    sample: Sample, task: int, params: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    params = sample.params if params is None else params
    buffers = {n: b.clone() for n, b in sample.buffers.items()}
    return {**{n: p[task] for n, p in params.items()}, **buffers}


def _mask(sample: Sample, task: int) -> dict[str, Tensor]:
    return {} if sample.mask is None else {"mask": sample.mask[task]}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-8, equal_nan=True)


def _running_statistics(net: nn.Module) -> set[str]:
    """Returns the names of the running statistics of torch's normalisation layers."""
    kind = nn.modules.batchnorm._NormBase
    return {
        f"{name}.{buffer}" if name else buffer
        for name, layer in net.named_modules() if isinstance(layer, kind)
        for buffer, _ in layer.named_buffers(recurse=False)
    }  # fmt: skip
