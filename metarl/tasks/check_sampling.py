"""Sampling checks that supervised and control task distributions share."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import MetarlError
from metarl.ranges import SEED, check_int
from metarl.tasks.base import SPLITS
from metarl.trees import tensors_of

NUM_TASKS = 16
SPLIT_BATCHES = 4  # batches of NUM_TASKS tasks sampled from each split to compare the splits


def seeded(seed: int) -> torch.Generator:
    """Returns a CPU generator with this seed."""
    return torch.Generator().manual_seed(check_int("seed", seed, SEED))


def described_errors(problems: Iterator[str]) -> Iterator[str]:
    """Yields problems, and as the last one an exception of the code that is checked."""
    try:
        yield from problems
    except Exception as error:
        yield f"it raises {describe(error)}"


def describe(error: Exception) -> str:
    """Returns the type and the message of an exception, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def randomness(distribution: Any, seed: int) -> Iterator[str]:
    """Checks the randomness of `sample`; yields a description of each problem."""
    state = _global_states()
    first = distribution.sample(NUM_TASKS, seeded(seed))
    if state != _global_states():
        yield "it draws from a global random state; draw from the generator that is passed in"
    generator = seeded(seed)
    again = distribution.sample(NUM_TASKS, generator)
    if not equal(first, again):
        yield "the same generator state gives other tasks; draw from the generator only"
    if equal(again, distribution.sample(NUM_TASKS, generator)):
        yield "a generator that has moved on gives the same tasks; draw from it"


def splits(
    distribution: Any, seed: int, required: bool = True, disjoint: bool = True
) -> Iterator[str]:
    """Checks `split`; yields a description of each problem.

    Args:
        distribution: An object with `sample` and `split`.
        seed: Seed of the samples.
        required: Whether every split must have tasks; if not, `split` may raise a `MetarlError`
            for those that have none. A name that is no split may be refused by any exception.
        disjoint: Whether no task may be in two splits.
    """
    fingerprints_by_split: dict[str, set[bytes]] = {}
    for number, name in enumerate(SPLITS):
        try:
            fingerprints = _split_fingerprints(distribution.split(name), seed, number)
        except MetarlError as error:
            if required:
                yield f"split({name!r}) cannot be sampled: {error}"
            continue
        except Exception as error:
            yield (
                f"split({name!r}) cannot be sampled: it raises {describe(error)}. `split` must "
                f"return the tasks of each of {', '.join(SPLITS)}"
            )
            continue
        for other, other_fingerprints in fingerprints_by_split.items():
            if disjoint and other_fingerprints & fingerprints:
                yield f"splits {other!r} and {name!r} share tasks; make them disjoint"
        fingerprints_by_split[name] = fingerprints
    try:
        distribution.split("no such split")
    except Exception:
        return
    yield "split must refuse a name that is no split"


def equal(a: Any, b: Any) -> bool:
    """Returns whether nested values hold exactly the same tensors; NaN equals NaN."""
    first, second = tensors_of(a), tensors_of(b)
    return len(first) == len(second) and all(
        np.array_equal(x.detach().cpu(), y.detach().cpu(), equal_nan=True)
        for x, y in zip(first, second, strict=True)
    )


def rows(values: Tensor) -> set[bytes]:
    """Returns the bytes of each row of [N, *]."""
    return {row.tobytes() for row in values.detach().numpy()}


def _split_fingerprints(distribution: Any, seed: int, number: int) -> set[bytes]:
    """Returns the fingerprints of sampled tasks of split `number`.

    Integer task parameters mean a finite set of tasks: the same seed for all splits is the most
    likely to find shared ones. Continuous parameters never repeat, so that all splits may be the
    same distribution; a different seed per split then avoids sampling the same tasks from each.
    """
    info = distribution.sample(1, seeded(seed)).info
    finite = bool(info) and not any(v.is_floating_point() for v in info.values())
    generator = seeded(seed if finite or "classes" in info else seed + number)
    batches = (distribution.sample(NUM_TASKS, generator) for _ in range(SPLIT_BATCHES))
    return set().union(*map(_fingerprints, batches))


def _fingerprints(tasks: Any) -> set[bytes]:
    """Returns the bytes that identify each task: its info if there is any, else its support set.

    If the info has "classes", each class is identified instead, because splits must not share any
    class.
    """
    if "classes" in tasks.info:
        return rows(tasks.info["classes"].flatten())
    source = list(tasks.info.values()) or tensors_of(tasks.support)
    return rows(torch.cat([t.reshape(len(t), -1).double() for t in source], dim=1))


def _global_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=True)
    parts = (s.tobytes() if isinstance(s, np.ndarray) else s for s in numpy_state)
    return (torch.random.get_rng_state().numpy().tobytes(), random.getstate(), *parts)
