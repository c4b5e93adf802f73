"""Support sets of exported metric and memory learners, checked and completed for their graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import ShapeError

Array = np.ndarray
Arrays = dict[str, np.ndarray]


def support_inputs(
    batch: dict[str, Any], metadata: dict[str, Any], generator: np.random.Generator
) -> dict[str, Any]:
    """Returns the inputs of the graph "adapt" for a support set.

    Args:
        batch: `inputs` [N, *input], `targets` [N], labels from 0 without gaps, and `mask` [N, L]
            for padded sequences; `order` or `pairs` are drawn if they are missing. Learners of
            descriptions: `descriptions` [classes, D], `described` [classes] if some have none, and
            examples if there are any.
        metadata: The content of adaptation.json.
        generator: Draws the order of the examples, or pairs of them.

    Raises:
        ShapeError: The labels are none, or not those that the learner takes.
    """
    notes = metadata["support"]
    if notes.get("descriptions") is not None:
        return _described_inputs(batch, metadata["graphs"]["adapt"]["inputs"])
    if "targets" not in batch:
        raise ShapeError("Expected targets, the labels of the support examples, got none.")
    targets = np.asarray(batch["targets"])
    _check_labels(targets, notes)
    given = dict(batch)
    if notes["classes"] is None:
        given.setdefault("classes", np.arange(targets.max() + 1))
    if notes["draws"] is not None:
        given.setdefault(notes["draws"], _drawn(notes["draws"], len(targets), generator))
    return given


def _check_labels(targets: Array, notes: dict[str, Any]) -> None:
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or not targets.size:
        raise ShapeError(
            f"Expected targets [N] of whole numbers, a label per example, got {targets.dtype} "
            f"{list(targets.shape)}."
        )
    found, counts = np.unique(targets, return_counts=True)
    way = len(found) if notes["classes"] is None else notes["classes"]
    if found.tolist() != list(range(way)):
        raise ShapeError(
            f"Expected support examples of the classes 0 to {way - 1}, got those of "
            f"{found.tolist()[:10]}. Number the classes of a task from 0, without gaps."
        )
    if notes["equal_shots"] and len(set(counts.tolist())) > 1:
        raise ShapeError(
            f"Expected as many support examples of every class, got {counts.tolist()}: this "
            "learner takes equal shots."
        )


def _described_inputs(batch: dict[str, Any], ports: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the inputs of a graph whose classes have descriptions.

    Without examples, a row of zeros stands in that does not count.

    Raises:
        ShapeError: There are no descriptions, or a class has neither a description nor an example.
    """
    descriptions = np.asarray(batch.get("descriptions", ()))
    if descriptions.ndim != 2 or not descriptions.size:
        raise ShapeError(
            "Expected descriptions [classes, D], the numbers that describe each class, got "
            f"{list(descriptions.shape)}."
        )
    given, way = {**batch, "descriptions": descriptions}, len(descriptions)
    if batch.get("inputs") is None:
        rows = {p["name"]: p for p in ports if p["name"] in ("inputs", "targets", "mask")}
        given |= {n: np.zeros([1, *p["shape"][1:]], p["dtype"]) for n, p in rows.items()}
        given["weights"] = np.zeros(1, np.float32)
    targets = np.asarray(given.get("targets", ()))
    whole = targets.ndim == 1 and targets.dtype.kind in "iu" and targets.size
    if not whole or targets.min() < 0 or targets.max() >= way:
        raise ShapeError(
            f"Expected targets [N] from 0 to {way - 1}, the indices of the descriptions, got "
            f"{targets.dtype} {list(targets.shape)} with {sorted(set(targets.flat))[:5]}."
        )
    weights = np.asarray(given.setdefault("weights", np.ones(len(targets), np.float32)))
    described = np.asarray(given.setdefault("described", np.ones(way, bool)))
    if weights.shape != targets.shape or described.shape != (way,):
        raise ShapeError(
            f"Expected weights [{len(targets)}] and described [{way}], got {list(weights.shape)} "
            f"and {list(described.shape)}."
        )
    unknown = set(range(way)) - {*np.flatnonzero(described), *targets[weights > 0].tolist()}
    if unknown:
        raise ShapeError(
            f"Expected a description or an example of each class, got neither of "
            f"{sorted(unknown)[:10]}: leave these classes out."
        )
    return given


def _drawn(kind: str, count: int, generator: np.random.Generator) -> Array:
    """Draws a permutation of N examples, [N], or N pairs of different examples, [N, 2]."""
    first = generator.permutation(count)
    if kind == "order":
        return first
    return np.stack((first, (first + generator.integers(1, count, count)) % count), 1)
