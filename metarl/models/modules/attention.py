"""Attention by its plain formula, which has second derivatives and runs under `vmap`.

torch's fused kernels have no second derivative; this is what its MATH backend computes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import SettingsError
from metarl.models.modules.composed import linear
from metarl.models.modules.noise import dropout
from metarl.models.modules.passes import current_pass


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` of [*, L, E], [*, S, E] and [*, S, V]: [*, L, V]."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    weights = _weights(query, key, attn_mask, is_causal, scale)
    return functional_dropout(weights, dropout_p) @ value


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """Returns softmax(q k^T / sqrt(E) + mask), [*, L, S] (Vaswani et al. 2017, equation 1)."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.mT
    if is_causal and mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = torch.where(mask, scores, scores.new_tensor(-math.inf))
        else:
            scores = scores + mask
    return scores.softmax(-1)


def functional_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`F.dropout` with the noise of the current pass; the identity without noise."""
    del inplace
    return _dropout(input, p, training, channels_only=False)


def functional_channel_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """`F.dropout1d`, `2d` and `3d` of [N, C, *] with the noise of the current pass."""
    del inplace
    return _dropout(input, p, training, channels_only=True)


def _dropout(input: Tensor, p: float, training: bool, channels_only: bool) -> Tensor:
    here = current_pass()
    if not training or p == 0:
        return input
    call = here.next_dropout()
    if here.seeds is None:
        return input
    return dropout(input, here.seeds, call, p, channels_only, lead=0)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`: sequences first, [L, N, E] or [L, E].

    Raises:
        SettingsError: It has static keys.
    """
    del embed_dim_to_check, is_causal  # the mask of a causal layer is given as well
    if static_k is not None or static_v is not None:
        raise SettingsError(
            "Expected attention without static keys and values; pass them as `key` and `value`."
        )
    single = query.dim() == 2
    if single:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    queries, keys, values = (
        linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    keys = _with_extra_elements(keys, bias_k, add_zero_attn)
    values = _with_extra_elements(values, bias_v, add_zero_attn)
    # [N, heads, L or S, E / heads] each
    queries, keys, values = (
        x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for x in (queries, keys, values)
    )
    mask = _joined(attn_mask, key_padding_mask, num_heads, queries)
    if mask is not None:  # none hides the elements that were added
        mask = F.pad(mask, (0, keys.shape[2] - mask.shape[-1]))
    attention = _weights(queries, keys, mask, False, None)  # [N, heads, L, S]
    attention = functional_dropout(attention, dropout_p, training)
    out = (attention @ values).permute(2, 0, 1, 3).flatten(2)  # [L, N, E]
    out = linear(out, out_proj_weight, out_proj_bias)
    shown = attention.mean(1) if average_attn_weights else attention
    if single:
        out, shown = out.squeeze(1), shown.squeeze(0)
    return out, (shown if need_weights else None)


def _with_extra_elements(sequence: Tensor, learned: Tensor | None, add_zero: bool) -> Tensor:
    """Returns keys or values [S, N, E] with one more element for each of torch's options.

    Args:
        sequence: The keys or values, [S, N, E].
        learned: `bias_k` or `bias_v`, [1, 1, E]; None: no such element.
        add_zero: Whether to append an element of zeros, as `add_zero_attn` does.
    """
    if learned is not None:
        sequence = torch.cat((sequence, learned.expand(1, sequence.shape[1], -1)))
    return F.pad(sequence, (0, 0, 0, 0, 0, 1)) if add_zero else sequence


def _joined(
    attn_mask: Tensor | None, padding: Tensor | None, num_heads: int, like: Tensor
) -> Tensor | None:
    """Returns both masks as one to add to scores [N, heads, L, S]; True in them hides."""
    mask = None
    if attn_mask is not None:
        mask = _added(attn_mask, like)
        mask = mask.unflatten(0, (-1, num_heads)) if mask.dim() == 3 else mask
    if padding is not None:
        hidden = _added(padding, like)[:, None, None, :]
        mask = hidden if mask is None else mask + hidden
    return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.where(mask, like.new_tensor(-math.inf), like.new_tensor(0.0))
