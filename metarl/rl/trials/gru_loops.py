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


@torch.library.custom_op("metarl::gru_gradients", mutates_args=())
def gru_gradients(
    outputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor | None,
    states: Tensor,
    gates: Tensor,
    new: Tensor,
    raws: Tensor,
    means: Tensor,
    scales: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the derivatives of the inputs' products, the weight, the bias and the gain.

    Args are those of the states h, [L, B, H], then the arguments and results of `gru_states`.
    """
    steps, batch, units = new.shape
    before = torch.cat((torch.zeros_like(states[:1]), states[:-1]))
    r, z, product = gates.split(units, 2)
    # h' = n + z (h - n), n = tanh(a_n + r b_n): by the arguments of r and z, and by b_n
    by_new = (1 - z).mul_(new.square().mul_(-4).add_(1))  # by a_n
    products = gates.new_empty(steps, batch, 3, units)
    by_r, by_z, by_product = products.unbind(2)
    torch.mul(by_new, r, out=by_product)
    torch.mul(by_product, 1 - r, out=by_r).mul_(product).mul_(0.5)
    torch.sub(before, new, alpha=2, out=by_z).mul_(z).mul_(1 - z)
    grads = outputs.clone()
    by_raw = products if gain is None else torch.empty_like(products)
    for t in range(steps - 1, -1, -1):
        products[t].mul_(grads[t].unsqueeze(1))
        if gain is not None:
            by_raw[t] = torch.ops.aten.native_layer_norm_backward(
                products[t].view_as(raws[t]), raws[t], gain.shape, means[t], scales[t], gain, bias,
                [True, False, False],
            )[0].view_as(by_raw[t])  # fmt: skip
        if t:
            grads[t - 1].addcmul_(grads[t], z[t]).addmm_(by_raw[t].view(batch, -1), weight)
    products, by_raw = products.flatten(2), by_raw.flatten(2)
    inputs = torch.cat((products[..., : 2 * units], by_new.mul_(grads)), 2)
    by_weight = by_raw.flatten(0, 1).t() @ before.flatten(0, 1)
    by_gain = bias.new_empty(0)
    if gain is not None:
        by_gain = (products * (raws - means) * scales).sum((0, 1))
    return inputs, by_weight, products.sum((0, 1)), by_gain


@gru_states.register_fake
def _(inputs: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
    del weight, bias
    steps, batch, width = inputs.shape
    units = width // 3
    sizes = [(steps, batch, units), inputs.shape, (steps, batch, units)]
    kept = [(0,)] * 3 if gain is None else [inputs.shape, *[(steps, batch, 1)] * 2]
    return tuple(inputs.new_empty(size) for size in (*sizes, *kept))


@gru_gradients.register_fake
def _(outputs: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, *kept: Tensor) -> Any:
    del outputs
    by_gain = bias.new_empty(0 if gain is None else bias.shape)
    return torch.empty_like(kept[1]), torch.empty_like(weight), torch.empty_like(bias), by_gain


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
    weight, bias, gain, *kept = ctx.saved_tensors
    *grads, by_gain = gru_gradients(by_states, weight, bias, gain, *kept)
    return *grads, None if gain is None else by_gain


gru_states.register_autograd(_backward, setup_context=_setup)
