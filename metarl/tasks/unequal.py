"""Classes or groups with few examples: left out, or padded with examples of weight 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.tasks.base import Examples
from metarl.tasks.pools import Reading

Small = Literal["refuse", "drop", "take"]
"""What is done with a class or a group that has fewer examples than a task asks for: an error that
names it; it is left out; it is taken with what it has."""
SMALL: tuple[Small, ...] = get_args(Small)

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Maps inputs [T, N, *input] and a generator to inputs of the same shape and type. The rows of a
class are consecutive. The generator must be the only source of randomness."""

MANY = 1 << 16
"""Examples of a class above which not all of them get a random number for a draw of a few."""
FEWEST = 2
"""An example to adapt on and one to evaluate on."""


def draw_rows(counts: Tensor, most: int, number: int, generator: torch.Generator) -> Tensor:
    """Samples rows without replacement.

    Args:
        counts: Number of examples that may be drawn, shape [*, 1], int64.
        most: Upper bound on the counts.
        number: Rows to draw, at most `most`.
        generator: The only source of randomness.

    Returns:
        Numbers of the rows, [*, number], int64; where `number` exceeds a count, the rows from the
        count on do not exist.
    """
    if most > max(MANY, 4 * number**2):  # the memory of `_draw_of_many` is the latter
        return _draw_of_many(counts, number, generator)
    device = generator.device
    shape = (*counts.shape[:-1], most)
    # The indices of the largest of uniform scores are a sample without replacement.
    scores = torch.rand(shape, generator=generator, device=device)
    absent = torch.arange(most, device=device) >= counts
    return scores.masked_fill_(absent, -1.0).topk(number, dim=-1).indices


def _draw_of_many(counts: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Samples as `draw_rows` in time and memory that do not grow with the counts.

    Where there are at least 4 `number` examples, these are the first `number` distinct ones of a
    sample with replacement. That has fewer distinct ones in less than one of 10^12 cases.
    """
    device = generator.device
    few = draw_rows(counts.clamp(max=4 * number), 4 * number, number, generator)
    size = 2 * number + 16
    shape = (*counts.shape[:-1], size)
    draws = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    candidates = (draws * counts).long().clamp_(max=counts - 1)
    same = candidates.unsqueeze(-1) == candidates.unsqueeze(-2)
    repeats = same.tril(-1).any(-1)
    # Distinct ones first, each kind in the order of the draws.
    first = (repeats.long() * size + torch.arange(size, device=device)).argsort(-1)[..., :number]
    return torch.where(counts >= 4 * number, candidates.gather(-1, first), few)


def places(
    drawn: Tensor, counts: Tensor, shots: int, limit: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Divides drawn rows into support and query where some rows do not exist.

    A class with c examples gives its first min(shots, c - 1) rows to the support set and the
    following ones to the query set.

    Args:
        drawn: Rows in random order, those that exist first, shape [*, shots + queries], int64.
        counts: Number of rows that exist, at least 2, shape [*, 1], int64.
        shots: Support examples asked for.
        limit: Support examples that are used, broadcastable to [*, 1], int64; None for all.

    Returns:
        The rows of support and query, shape [*, shots + queries], int64, and whether they exist,
        bool; rows that do not exist are 0.
    """
    slots = torch.arange(drawn.shape[-1], device=drawn.device)
    is_support = slots < shots
    known = (counts - 1).clamp(max=shots)
    source = torch.where(is_support, slots, slots - shots + known)
    end = torch.where(is_support, known if limit is None else torch.minimum(known, limit), counts)
    real = source < end
    rows = drawn.gather(-1, source.clamp(max=drawn.shape[-1] - 1).expand(drawn.shape))
    return torch.where(real, rows, 0), real


def shot_limits(
    shape: tuple[int, ...], fewest: int | None, shots: int, generator: torch.Generator
) -> Tensor | None:
    """Samples the number of support examples of each task, uniform from `fewest` to `shots`.

    Returns:
        Shape `shape`, int64; None if `fewest` is None.
    """
    if fewest is None:
        return None
    return torch.randint(fewest, shots + 1, shape, generator=generator, device=generator.device)


def padded_examples(values: Reading, targets: Tensor, real: Tensor | None) -> Examples:
    """Returns examples with zeros, target 0 and weight 0 where they do not exist.

    Args:
        values: Inputs [T, N, *input], and their mask.
        targets: Shape [T, N] int64, or [T, N, *target] float32.
        real: Whether an example exists, shape [T, N], bool; None if all do.
    """
    inputs, mask = values
    if real is None:
        return Examples(inputs, targets, None, mask)
    inputs, targets = _zero_unless(real, inputs), _zero_unless(real, targets)
    mask = None if mask is None else mask & real.unsqueeze(2)
    return Examples(inputs, targets, real.to(torch.float32), mask)


def augmented(examples: Examples, function: Augment | None, generator: torch.Generator) -> Examples:
    """Returns the examples with inputs changed by a user's function; padding stays 0.

    Raises:
        ShapeError: The function returns another shape, type or device.
        SettingsError: It does not run.
    """
    if function is None:
        return examples
    old = examples.inputs
    try:
        new = function(old, generator)
    except Exception as error:  # code of the user's
        raise SettingsError(
            f"An augmentation raises {type(error).__name__}: {error}. It is called as "
            f"augment(inputs, generator), with inputs [T, N, *input] of shape {tuple(old.shape)}."
        ) from error
    if not isinstance(new, Tensor) or (new.shape, new.dtype, new.device) != (
        old.shape, old.dtype, old.device,
    ):  # fmt: skip
        got = f"{new.dtype} {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ShapeError(
            f"Expected an augmentation to return inputs of the shape and type that it gets, "
            f"{old.dtype} {tuple(old.shape)} on {old.device}, got {got}."
        )
    for real in (examples.weights, examples.mask):
        if real is not None:
            new = _zero_unless(real != 0, new)
    return examples._replace(inputs=new)


def check_small(small: Small, min_examples: int | None, names: tuple[str, str]) -> None:
    """Checks the settings for classes or groups with few examples.

    Args:
        small: What is done with them.
        min_examples: The number below which they are left out, or None.
        names: The names of the two settings, for the message.

    Raises:
        SettingsError: `min_examples` is below 2 with "take".
    """
    if small == "take" and min_examples is not None and min_examples < FEWEST:
        raise SettingsError(
            f"Expected a `{names[1]}` of at least {FEWEST} with {names[0]}='take', an example to "
            f"adapt on and one to evaluate on, got {min_examples}."
        )


def enough(counts: Tensor, small: Small, min_examples: int | None, needed: int) -> Tensor:
    """Returns which classes or groups are kept, bool [K].

    Args:
        counts: Number of examples of each, [K], int64.
        small: What is done with small ones.
        min_examples: Those with fewer are left out; None: `needed` with "drop", 2 with "take".
        needed: Examples that a task asks for.
    """
    default = {"refuse": 0, "drop": needed, "take": FEWEST}[small]
    return counts >= (default if min_examples is None else min_examples)


def _zero_unless(real: Tensor, values: Tensor) -> Tensor:
    shape = (*real.shape, *(1,) * (values.dim() - real.dim()))
    return values.masked_fill(~real.view(shape), 0)
