"""What plain torch gives for a module on a few examples of a few tasks, task by task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from metarl.errors import MetarlError, SettingsError
from metarl.models.modules.checks import check_outputs
from metarl.models.modules.observed import Activations, PlainRun, Watch, tensors_of
from metarl.models.modules.skeleton import buffers_of, call, copied, parameters_of

TASKS, ROWS = 3, 4  # different, so that tasks do not broadcast to examples
SEED = 0
SPREAD = 0.1  # relative change of the weights from task to task, and of repeated examples
OFF_ZERO = 0.01  # what takes the place of trained weights of 0
EXACT, ROUGH = 1e-7, 2e-3  # relative tolerances in float64 and in the module's own type
ROUNDINGS, COARSE = 64, 0.05  # tolerance in rounding errors of a coarser type, and its limit


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
                made[id(p)] = p.detach().requires_grad_(_differentiable(p))
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
        found = [o.detach() for o in outputs]
        for p, g in zip(moving, grads, strict=False):
            found.append(torch.zeros_like(p) if g is None else g)
        return torch.cat([_real(t).flatten().double() for t in found])


@dataclass(frozen=True)
class Traits:
    """What a module does while it runs.

    Attributes:
        activation: Numbers of the largest activation of an example.
        tolerance: Relative difference of two results that rounding explains.
        rounding: Relative rounding error of the coarsest type that it computes in, if that is
            coarser than float64 in a sample of float64; else 0.
        stops_gradients: Whether it detaches a tensor or computes without gradients.
        casts: Whether it computes under `torch.autocast`.
    """

    activation: int
    tolerance: float
    rounding: float
    stops_gradients: bool
    casts: bool


@dataclass(frozen=True)
class Reference:
    """What plain torch gives.

    Attributes:
        flat: Outputs and gradients as `Sample.flat_results` gives them.
        mixes_examples: Whether the output for an example depends on the others.
        traits: What the module does.
        drops: Whether a dropout is active.
        run: Runs the tasks one after the other with parameters [T, *shape] by name.
    """

    flat: Tensor
    mixes_examples: bool
    traits: Traits
    drops: bool
    run: Callable[[dict[str, Tensor]], list[Tensor]]


def sample_of(net: nn.Module, inputs: Tensor, mask: Tensor | None) -> Sample:
    """Takes a few examples of a few tasks, and changes the weights of each task."""
    rows = torch.arange(ROWS) % inputs.shape[1]
    tasks = torch.arange(TASKS) % inputs.shape[0]
    rows, tasks = rows.to(inputs.device), tasks.to(inputs.device)
    taken = inputs[tasks][:, rows]
    mask = None if mask is None else mask[tasks][:, rows]
    if taken.is_floating_point() and len(rows) > inputs.shape[1]:  # repeated: make them differ
        noise = torch.randn(taken.shape[1:], generator=torch.Generator().manual_seed(SEED))
        taken = taken * (1 + SPREAD * noise.to(taken.device, taken.dtype))
    own = Sample(_varied(net, False), buffers_of(net), taken, mask, False)
    if inputs.device.type == "mps" or not _runs(net, own):
        return own
    buffers = {n: _double(b) for n, b in own.buffers.items()}
    doubled = Sample(_varied(net, True), buffers, _double(taken), mask, True)
    return doubled if _runs(net, doubled) else own


def _runs(net: nn.Module, sample: Sample) -> bool:
    """Returns whether a module runs on a copy of a sample."""
    plain = copied(net).double() if sample.exact else copied(net)
    tensors = {n: t.clone() for n, t in _tensors(sample, 0).items()}
    try:
        with PlainRun():
            call(plain, tensors, (sample.inputs[0].clone(),), **_mask(sample, 0))
    except MetarlError:
        raise
    except Exception:  # `reference` shows it, unless it is one of float64 only
        return False
    return True


def _varied(net: nn.Module, double: bool) -> dict[str, Tensor]:
    """Returns parameters [TASKS, *shape] that differ from task to task by a tenth.

    Trained parameters that are 0 are moved away from 0: a bias of 0 may be the kink of a ReLU,
    where differences show no derivative, and a last layer of 0 hides the gradients of the others.
    """
    made: dict[int, Tensor] = {}
    params = {}
    for name, p in parameters_of(net).items():
        if id(p) not in made:
            value = _double(p.detach()) if double else p.detach()
            value = value.expand(TASKS, *p.shape).clone()
            if _differentiable(p):
                generator = torch.Generator().manual_seed(SEED + len(made))
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                noise = noise.to(value.device, value.dtype)
                moved = OFF_ZERO * noise * (value == 0) if p.requires_grad else 0.0
                value = value * (1 + SPREAD * noise) + moved
            made[id(p)] = value
        params[name] = made[id(p)]
    return params


def _double(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def reference(net: nn.Module, sample: Sample) -> Reference:
    """Runs a module by plain torch for each task, and checks what it does.

    Raises:
        SettingsError: The module does not run, changes its inputs, parameters or buffers in place,
            gives other outputs for the same inputs, runs for one number of examples only, or
            computes with its parameters although it is given others.
        ShapeError: It returns something else than tensors [N, *].
    """
    plain = copied(net)
    plain = plain.double() if sample.exact else plain
    for layer in plain.modules():
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    name = type(net).__name__
    with PlainRun() as seen:
        first, traits = _checked_run(plain, sample, name)
        _check_reached(net, first, name)
        mixes = _mixes_examples(plain, sample, first, traits.tolerance, name)

        def run(params: dict[str, Tensor]) -> list[Tensor]:
            with PlainRun():
                results = [
                    tree_flatten(_run_task(plain, sample, t, params))[0]
                    for t in range(sample.inputs.shape[0])
                ]
            return [torch.stack(column) for column in zip(*results, strict=True)]

        flat = sample.flat_results(run)
    return Reference(flat, mixes, traits, seen.drops, run)


def _checked_run(plain: nn.Module, sample: Sample, name: str) -> tuple[list[Tensor], Traits]:
    """Runs the first task, and checks that nothing changes in place; returns its outputs, too."""
    inputs = sample.inputs[0].clone()
    tensors = _tensors(sample, 0)
    before, kept = inputs._version, {n: t.clone() for n, t in tensors.items()}
    watch = Watch()
    try:
        with watch:
            outputs = call(plain, tensors, (inputs,), **_mask(sample, 0))
    except MetarlError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{name} does not run on a batch of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}{_advice(sample.inputs, str(error))}"
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
    return _repeated_run(plain, sample, tensors_of(outputs), watch, name)


def _advice(inputs: Tensor, error: str) -> str:
    """Returns what inputs [T, N, *input] may lack for a module that raises an error."""
    if inputs.dim() < 3:
        return (
            ". The examples are single numbers: inputs are [T, N, *input], those of one task "
            "inputs.unsqueeze(0)"
        )
    if not inputs.is_floating_point() and ("type" in error or "not implemented" in error):
        return ". The inputs are whole numbers: give inputs.float(), of images divided by 255"
    if "same dtype" in error:
        return f". Give all of its parameters the type of the inputs: .to({inputs.dtype})"
    return ""


def _repeated_run(
    plain: nn.Module, sample: Sample, outputs: list[Tensor], watch: Watch, name: str
) -> tuple[list[Tensor], Traits]:
    """Runs the first task again, which must give the same outputs, and measures the module."""
    tensors = _tensors(sample, 0)
    with Activations(tensors.values()) as largest:
        again = tensors_of(call(plain, tensors, (sample.inputs[0],), **_mask(sample, 0)))
    if not all(_same(a, b) for a, b in zip(outputs, again, strict=True)):
        raise SettingsError(
            f"Expected a module whose outputs depend on its inputs only, and {name} gives others "
            "for the same inputs. It may keep a state between calls, or draw random numbers from "
            "Python's or numpy's generator: use nn.Dropout, or give the numbers as inputs."
        )
    is_coarse = sample.exact and largest.rounding > torch.finfo(torch.float64).eps
    rounding = largest.rounding if is_coarse else 0.0
    least = EXACT if sample.exact else ROUGH
    tolerance = max(least, min(ROUNDINGS * rounding, COARSE))
    activation = -(-largest.numbers // sample.inputs.shape[1])
    stops = watch.detaches or watch.disables
    return outputs, Traits(activation, tolerance, rounding, stops, watch.casts)


def _check_reached(net: nn.Module, outputs: list[Tensor], name: str) -> None:
    """Checks that a copy, run with parameters that need no gradient, uses none of the original.

    Raises:
        SettingsError: It does: a function that it holds refers to the original.
    """
    bound = [_real(o).sum() for o in outputs if o.requires_grad]
    own = {n: p for n, p in net.named_parameters() if p.requires_grad}
    if not bound or not own:
        return
    grads = torch.autograd.grad(bound, list(own.values()), allow_unused=True)
    reached = [n for n, g in zip(own, grads, strict=True) if g is not None]
    if reached:
        raise SettingsError(
            f"Expected a module that reaches its parameters by its own attributes, and {name} "
            f"computes with {', '.join(reached[:3])} in another way, such as by a lambda that "
            "holds `self`: adapted parameters would have no effect. Write it as a method."
        )


def _mixes_examples(
    plain: nn.Module, sample: Sample, outputs: list[Tensor], tolerance: float, name: str
) -> bool:
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
    return not all(agree(a[:fewer], b, tolerance) for a, b in pairs)


def agree(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Returns whether two results agree up to a relative difference; NaN is equal to NaN."""
    if found.shape != expected.shape:
        return False
    found, expected = _real(found), _real(expected)
    finite = expected[expected.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    return torch.allclose(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance * max(scale, 1e-12),
        equal_nan=True,
    )  # fmt: skip


def projection(outputs: list[Tensor]) -> Tensor:
    """Returns a number with curvature: sum of sin(o_i) c_i with fixed c, over all outputs."""
    total = _real(outputs[0]).new_zeros(())
    for output in map(_real, outputs):
        if output.is_floating_point():
            count = output.numel()
            factors = torch.arange(1, count + 1, device=output.device, dtype=torch.float64).cos()
            total = total + (output.flatten().sin() * factors.to(output.dtype)).sum()
    return total


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


def _real(tensor: Tensor) -> Tensor:
    """Returns the real and imaginary parts of complex numbers, other tensors as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = (t if t.layout == torch.strided else t.to_dense() for t in (a, b))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-8, equal_nan=True)


def _running_statistics(net: nn.Module) -> set[str]:
    """Returns the names of the running statistics of torch's normalisation layers."""
    kind = nn.modules.batchnorm._NormBase
    return {
        f"{name}.{buffer}" if name else buffer
        for name, layer in net.named_modules() if isinstance(layer, kind)
        for buffer, _ in layer.named_buffers(recurse=False)
    }  # fmt: skip
