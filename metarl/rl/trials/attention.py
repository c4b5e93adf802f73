"""A causal transformer over the steps of a trial, with a cache of keys and values for acting."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.cuda_graphs import is_capturing
from metarl.errors import SettingsError
from metarl.models.base import Weights

EPS = 1e-5
"""Added to the variance in the layer normalisation."""
POSITION_STD = 0.02
"""Standard deviation of the initial codes of positions."""


class Cache(NamedTuple):
    """What attention remembers of the steps of W worlds.

    Attributes:
        entries: Keys and values of each block and step, [W, blocks, 2, M, H]; those of steps to
            come are 0.
        steps: Number of steps remembered, [W] int64.
        last: The inputs of the last step, [W, I]; 0 at the start.
    """

    entries: Tensor
    steps: Tensor
    last: Tensor


class Block(nn.Module):
    """Attention and a layer of rectified units, each on normalised inputs and added to them.

    Args:
        width: Width H.
        heads: Number of heads, which divides H.
        generator: Random generator of the initial weights.
        scale: Factor on the initial weights of what is added.
    """

    def __init__(self, width: int, heads: int, generator: torch.Generator, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = _norm(width, generator), _norm(width, generator)
        self.queries = _layer(width, 3 * width, generator)
        self.mixed = _layer(width, width, generator, scale)
        self.wide = _layer(width, 2 * width, generator, math.sqrt(2))
        self.narrow = _layer(2 * width, width, generator, scale)

    def forward(self, values: Tensor) -> Tensor:
        """Maps sequences [B, L, H] to sequences; a step attends to itself and to earlier steps."""
        parts = self.parts(values).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, own = parts.unbind(0)
        attended = F.scaled_dot_product_attention(queries, keys, own, is_causal=True)
        return self.rest(values, attended.transpose(1, 2).flatten(2))

    def parts(self, values: Tensor) -> Tensor:
        """Returns queries, keys and values, [*, 3H], of [*, H]."""
        return _apply(self.queries, _normalised(self.first_norm, values))

    def rest(self, values: Tensor, attended: Tensor) -> Tensor:
        """Adds what was attended to, [*, H], and then the rectified units."""
        values = values + _apply(self.mixed, attended)
        wide = torch.relu(_apply(self.wide, _normalised(self.second_norm, values)))
        return values + _apply(self.narrow, wide)


class Attention(nn.Module):
    """A causal transformer over the steps of a trial (Vaswani et al. 2017, arXiv:1706.03762).

    The inputs of each step and of the step before become a vector: together they contain a whole
    transition, as the first layer of SNAIL's convolutions sees it (Mishra et al. 2018,
    arXiv:1707.03141). A learned code of the step's position in the trial is added. Blocks of
    attention and rectified units follow, with the normalisation at their inputs (Xiong et al. 2020,
    arXiv:2002.04745), and a last normalisation. `step` computes the same as `unroll` from the keys
    and values of earlier steps.

    There are no codes of positions beyond `steps`, which are refused.

    Args:
        inputs: Width of the inputs, I.
        width: Width of the features, H.
        generator: Random generator of the initial weights.
        steps: Longest trial, M steps.
        blocks: Number of blocks.
        heads: Attention heads of each block.

    Raises:
        SettingsError: The heads do not divide the width.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        generator: torch.Generator,
        steps: int,
        blocks: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if min(steps, blocks, heads) < 1 or width % heads:
            raise SettingsError(
                "Expected at least 1 step, block and head, and a width that the heads divide, got "
                f"{steps} steps, {blocks} blocks, {heads} heads and the width {width}."
            )
        self.width = width
        self.steps = steps
        self.inputs = inputs
        self.enter = _layer(2 * inputs, width, generator)
        codes = torch.empty(steps, width, device=generator.device)
        nn.init.normal_(codes, std=POSITION_STD, generator=generator)
        self.positions = nn.Parameter(codes)
        scale = 1 / math.sqrt(2 * blocks)
        self.blocks = nn.ModuleList(Block(width, heads, generator, scale) for _ in range(blocks))
        self.last_norm = _norm(width, generator)

    def begin(self, worlds: int) -> Cache:
        """Returns the empty cache."""
        shape = (worlds, len(self.blocks), 2, self.steps, self.width)
        entries = self.positions.new_zeros(shape)
        steps = torch.zeros(worlds, dtype=torch.int64, device=entries.device)
        return Cache(entries, steps, entries.new_zeros(worlds, self.inputs))

    def step(self, inputs: Tensor, state: Cache, reuse: bool = False) -> tuple[Tensor, Cache]:
        """Advances by one step.

        Args:
            inputs: Shape [W, I].
            state: What came before.
            reuse: Writes into the tensors of `state`, which is not to be used again; else it is not
                changed.

        Returns:
            The features [W, H] and the next cache.

        Raises:
            SettingsError: A world has used all its positions. On a GPU it is torch's error.
        """
        length, traced = self.steps, torch.compiler.is_exporting() or is_capturing()
        if state.steps.device.type == "cpu" and not traced:
            length = int(state.steps.max()) + 1
            self.check(length)
        return self.advance(inputs, state, length, reuse)

    def advance(
        self, inputs: Tensor, state: Cache, length: int, reuse: bool = False
    ) -> tuple[Tensor, Cache]:
        """Advances by one step, as `step`, without reading a value of a tensor in Python.

        Args:
            inputs: Shape [W, I].
            state: What came before.
            length: Positions to attend to, more than any world has used and at most M.
            reuse: See `step`.
        """
        entries, steps, last = state
        entries = entries if reuse else entries.clone()
        values = _apply(self.enter, torch.cat((inputs, last), 1)) + self.positions[steps]
        worlds = torch.arange(len(steps), device=steps.device)
        seen = torch.arange(length, device=steps.device) <= steps.unsqueeze(1)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            query, key, value = block.parts(values).unflatten(1, (3, -1)).unbind(1)
            both = entries[:, number]  # [W, 2, M, H]
            both[worlds, 0, steps], both[worlds, 1, steps] = key, value
            keys, attended = (
                both[:, :, :length].unflatten(3, (block.heads, -1)).permute(1, 0, 3, 2, 4)
            )
            heads = query.unflatten(1, (block.heads, 1, -1))  # [W, heads, 1, H / heads]
            mixed = F.scaled_dot_product_attention(
                heads, keys, attended, attn_mask=seen.view(-1, 1, 1, length)
            )
            values = block.rest(values, mixed.flatten(1))
        features = _normalised(self.last_norm, values)
        return features, Cache(entries, steps + 1, inputs)

    def unroll(self, sequences: Tensor) -> Tensor:
        """Returns the features of every step, [L, B, H].

        Args:
            sequences: Shape [L, B, I].

        Raises:
            SettingsError: There are more steps than positions.
        """
        self.check(len(sequences))
        before = F.pad(sequences[:-1], (0, 0, 0, 0, 1, 0))
        values = _apply(self.enter, torch.cat((sequences, before), 2)).transpose(0, 1)
        values = values + self.positions[: len(sequences)]
        for block in self.blocks:
            values = block(values)
        return _normalised(self.last_norm, values).transpose(0, 1)

    def check(self, steps: int) -> None:
        """Refuses trials that are longer than those it was built for.

        Raises:
            SettingsError: There are more steps than positions.
        """
        if steps > self.steps:
            raise SettingsError(
                f"Expected trials of at most {self.steps} steps, for which this transformer was "
                f"trained, got {steps}: it knows no later positions. Play fewer episodes "
                "(`--test-steps`, `--training.eval-steps`: one less), or train it on trials of as "
                "many (`--learner.episodes`)."
            )


def _layer(inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0) -> Weights:
    """Returns a layer with normal weights of deviation scale / sqrt(inputs), and biases of 0."""
    weight = torch.empty(outputs, inputs, device=generator.device)
    nn.init.normal_(weight, std=scale / math.sqrt(inputs), generator=generator)
    return Weights(weight, torch.zeros(outputs, device=generator.device))


def _norm(width: int, generator: torch.Generator) -> Weights:
    device = generator.device
    return Weights(torch.ones(width, device=device), torch.zeros(width, device=device))


def _apply(layer: Weights, values: Tensor) -> Tensor:
    return F.linear(values, layer.weight, layer.bias)


def _normalised(norm: Weights, values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:], norm.weight, norm.bias, EPS)
