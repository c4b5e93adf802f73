"""The loops of a GRU over sequences as two operations of torch: states and their derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError

EPS = 1e-5
"""Added to the variance in the layer normalisation."""


@torch.library.custom_op("metarl::gru_states", mutates_args=())
def gru_states(
    inputs: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Computes the states of a GRU for the products of its inputs [L, B, 3H].

    The loop contains only what depends on the state before. In it, states h and candidates n are
    halved, because tanh(a) / 2 = sigmoid(2 a) - 1 / 2 takes few operations. A compiler sees one
    operation, and does not unroll the loop.

    Returns:
        h, [L, B, H]; r, z and twice the candidate's product of the state, [L, B, 3H]; n / 2,
        [L, B, H]; with layer normalisation the products [L, B, 3H], their means and inverse
        deviations [L, B, 1], else empty tensors.
    """
    steps, batch, width = inputs.shape
    units = width // 3
    own = 2 * inputs[..., 2 * units :]
    # To these sums are added the products of the state, of which the candidate's is doubled.
    gates = torch.cat((inputs[..., : 2 * units], torch.zeros_like(own)), 2)
    doubled = torch.ones_like(bias)
    doubled[2 * units :] = 2
    columns, bias_ = 2 * weight.t(), bias * doubled
    gain_ = None if gain is None else gain * doubled
    if gain is None:
        columns *= doubled
        gates += bias_
    states, new = inputs.new_zeros(steps + 1, batch, units), torch.empty_like(own)
    moments: list[tuple[Tensor, Tensor, Tensor]] = []
    state = states[0]
    parts = (gates, gates[..., : 2 * units], *gates.split(units, 2), own, new, states[1:])
    for gate, both, r, z, product, own_new, candidate, after in zip(
        *(p.unbind(0) for p in parts), strict=True
    ):
        if gain_ is None:
            gate.addmm_(state, columns)
        else:
            raw = torch.mm(state, columns)
            normal, mean, scale = torch.native_layer_norm(raw, (width,), gain_, bias_, EPS)
            gate.add_(normal)
            moments.append((raw, mean, scale))
        both.sigmoid_()
        torch.addcmul(own_new, r, product, out=candidate).sigmoid_().sub_(0.5)
        state = torch.lerp(candidate, state, z, out=after)
    raws, means, scales = (
        [torch.stack(m) for m in zip(*moments, strict=True)]
        or [inputs.new_empty(0) for _ in range(3)]
    )  # fmt: skip
    return 2 * states[1:], gates, new, raws, means, scales


@torch.library.custom_op("metarl::gru_gradients", mutates_args=("products",))
def gru_gradients(
    outputs: Tensor,
    products: Tensor,
    z: Tensor,
    weight: Tensor,
    gain: Tensor | None,
    raws: Tensor,
    means: Tensor,
    scales: Tensor,
) -> tuple[Tensor, Tensor]:
    """Computes the derivatives of a loss by the states of a GRU, from the last to the first.

    A compiler fuses what comes before and after this loop (`_backward`).

    Args:
        outputs: The derivatives by the states h, [L, B, H], that do not pass through later ones.
        products: Derivatives of each h by the arguments of r and z and by the candidate's product,
            [L, B, 3, H]; becomes the derivatives by these.
        z: The gate, [L, B, H].
        weight: That of the state, [3H, H].
        gain: The gain of the layer normalisation, [3H], or None.
        raws: The products before it, [L, B, 3H]; without it empty, as the next two.
        means: Their means, [L, B, 1].
        scales: Their inverse deviations, [L, B, 1].

    Returns:
        The derivatives by the states, [L, B, H]; with layer normalisation those by the products
        before it, [L, B, 3H], else an empty tensor.
    """
    steps, batch, _ = outputs.shape
    grads = outputs.clone()
    by_raw = products.flatten(2) if gain is None else torch.empty_like(raws)
    for t in range(steps - 1, -1, -1):
        products[t].mul_(grads[t].unsqueeze(1))
        if gain is not None:
            by_raw[t] = torch.ops.aten.native_layer_norm_backward(
                products[t].view_as(raws[t]), raws[t], gain.shape, means[t], scales[t], gain, gain,
                [True, False, False],
            )[0]  # fmt: skip
        if t:
            grads[t - 1].addcmul_(grads[t], z[t]).addmm_(by_raw[t].view(batch, -1), weight)
    return grads, outputs.new_empty(0) if gain is None else by_raw


@gru_states.register_fake
def _(inputs: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
    del weight, bias
    steps, batch, width = inputs.shape
    units = width // 3
    sizes = [(steps, batch, units), inputs.shape, (steps, batch, units)]
    kept = [(0,)] * 3 if gain is None else [inputs.shape, *[(steps, batch, 1)] * 2]
    return tuple(inputs.new_empty(size) for size in (*sizes, *kept))


@gru_gradients.register_fake
def _(outputs: Tensor, products: Tensor, z: Tensor, weight: Tensor, *kept: Any) -> Any:
    del products, z, weight
    return torch.empty_like(outputs), torch.empty_like(kept[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[1:], *output)


def _backward(ctx: Any, by_states: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """Returns the derivatives of the arguments of `gru_states`.

    Raises:
        SettingsError: A graph of the derivative is asked for.
    """
    if torch.is_grad_enabled():  # with create_graph
        raise SettingsError(
            "The GRU of recurrent policies has first derivatives only, and a second one was "
            "asked for (`create_graph=True`). torch's own, `GRU.forward`, has all of them."
        )
    weight, _, gain, states, gates, new, raws, means, scales = ctx.saved_tensors
    before = torch.cat((torch.zeros_like(states[:1]), states[:-1]))
    by_new, products = _factors(before, gates, new)
    z = gates.chunk(3, 2)[1]
    grads, by_raw = gru_gradients(by_states, products, z, weight, gain, raws, means, scales)
    products = products.flatten(2)
    inputs = torch.cat((products[..., : 2 * z.shape[2]], by_new * grads), 2)
    by_gain = None
    if gain is None:
        by_raw = products
    else:
        by_gain = (products * (raws - means) * scales).sum((0, 1))
    by_weight = by_raw.flatten(0, 1).t() @ before.flatten(0, 1)
    return inputs, by_weight, products.sum((0, 1)), by_gain


def _factors(before: Tensor, gates: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the derivatives of the states by what enters each step.

    Args:
        before: The state before each step, [L, B, H].
        gates: See `gru_states`.
        new: See `gru_states`.

    Returns:
        Those by the candidate's argument, [L, B, H], and by the arguments of r and z and the
        candidate's product, [L, B, 3, H].
    """
    r, z, product = gates.chunk(3, 2)
    # h' = n + z (h - n), n = tanh(a_n + r b_n): by a_n, by the arguments of r and z, and by b_n
    by_new = (1 - z).mul_(new.square().mul_(-4).add_(1))
    products = gates.new_empty(*new.shape[:2], 3, new.shape[2])
    by_r, by_z, by_product = products.unbind(2)
    torch.mul(by_new, r, out=by_product)
    torch.mul(by_product, 1 - r, out=by_r).mul_(product).mul_(0.5)
    torch.sub(before, new, alpha=2, out=by_z).mul_(z).mul_(1 - z)
    return by_new, products


gru_states.register_autograd(_backward, setup_context=_setup)
