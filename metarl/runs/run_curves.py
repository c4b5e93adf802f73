"""The curves of runs, read from their eval.jsonl to be compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metarl.errors import CheckpointError, SettingsError
from metarl.evaluation.statistics import Summary
from metarl.runs.best import VALIDATION
from metarl.runs.eval_file import read_curves

_STATISTICS = [f.name for f in dataclasses.fields(Summary) if f.name != "count"]
_LATER = {"lowest_tenth", "highest_tenth"}
"""Statistics that the lines of MetaRL 0.1 do not have."""


@dataclass(frozen=True)
class RunCurves:
    """The curves of one run.

    Attributes:
        label: What distinguishes the run from the others.
        training: Meta-iterations or environment steps, and the validation metric after the last
            adaptation step; empty without validation.
        adaptation: Adaptation steps -> the metric after them, of the split that is compared.
    """

    label: str
    training: list[tuple[int, Summary]]
    adaptation: dict[int, Summary]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        metric: Name of the metric.
        split: The split of the adaptation curves ("test", "test_5_shot", "validation").
        runs: The curves of the runs, or of the groups of runs that differ only in their seed.
        over: What the intervals are over.
    """

    metric: str
    split: str
    runs: list[RunCurves]
    over: Literal["tasks", "seeds"] = "tasks"


def compare_runs(
    folders: Sequence[Path], split: str | None = None, by_environment_steps: bool = False
) -> Comparison:
    """Reads the curves of runs.

    Args:
        folders: Run folders, at least one.
        split: The split of the adaptation curves; None for the first one that the reports of all
            runs have, or the validation tasks if there is none.
        by_environment_steps: Counts training in environment steps instead of meta-iterations.

    Raises:
        CheckpointError: A folder has no curves, or its eval.jsonl cannot be read.
        SettingsError: The runs have no split in common, or other metrics; or the training of one
            has no environment steps.
    """
    lines = {folder: _lines(folder) for folder in folders}
    common = _common_splits(list(lines.values()))
    if not common or split not in (None, *common):
        raise SettingsError(
            f"Expected runs with curves of {'one split' if split is None else repr(split)}; "
            f"{', '.join(f'{f} has {_splits(lines[f])}' for f in folders)}. Choose with --split."
        )
    chosen = split or next((name for name in common if name != VALIDATION), VALIDATION)
    newest = {f: _of(lines[f], chosen)[-1] for f in folders}
    metrics = {line["metric"] for line in newest.values()}
    if len(metrics) > 1:
        raise SettingsError(f"Expected runs with one metric, got {', '.join(sorted(metrics))}.")
    axis = "environment_steps" if by_environment_steps else "iteration"
    uncounted = [f for f in folders if not any(axis in line for line in lines[f])]
    if uncounted:
        raise SettingsError(
            f"Expected runs that count environment steps, {uncounted[0]} does not: compare by "
            "iterations, which is the default."
        )
    runs = [
        RunCurves(
            label,
            [
                (line[axis], list(_summaries(folder, line).values())[-1])
                for line in _of(lines[folder], VALIDATION)
                if axis in line
            ],
            _summaries(folder, newest[folder]),
        )
        for folder, label in zip(folders, run_labels(folders), strict=True)
    ]
    return Comparison(metrics.pop(), chosen, runs)


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Returns short names that distinguish run folders: the algorithm, the seed, or the path."""
    parts = [("", "", *folder.resolve().parts)[-3:] for folder in folders]
    same = len({experiment for experiment, *_ in parts}) == 1
    prefixes = ["" if same else f"{experiment}/" for experiment, *_ in parts]
    named = list(zip(prefixes, parts, strict=True))
    candidates = (
        [f"{prefix}{algorithm}" for prefix, (_, algorithm, _) in named],
        [f"{prefix}{algorithm} {_seed(name)}" for prefix, (_, algorithm, name) in named],
        [f"{prefix}{algorithm}/{name}" for prefix, (_, algorithm, name) in named],
        [str(folder) for folder in folders],
    )
    return next((c for c in candidates if len(set(c)) == len(folders)), candidates[-1])


def _seed(name: str) -> str:
    """Returns "s0" of "20260712_103000_s0", or the whole name if it is another one."""
    *_, end = name.partition("_s")
    return f"s{end}" if end else name


def _lines(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise CheckpointError(f"There is no run folder {folder}. `metarl runs` lists them.")
    lines = [line for line in read_curves(folder) if {"split", "metric", "mean"} <= line.keys()]
    if not lines:
        raise CheckpointError(
            f"The run {folder} has no curve yet: neither a validation during training nor a report."
        )
    return lines


def _of(lines: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Returns the lines of a split with the metric of the newest curve, not its further ones."""
    of_split = [line for line in lines if line["split"] == split]
    newest = [line for line in of_split if line.get("iteration") == of_split[-1].get("iteration")]
    return [line for line in of_split if line["metric"] == newest[0]["metric"]]


def _splits(lines: list[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(line["split"] for line in lines))


def _common_splits(runs: list[list[dict[str, Any]]]) -> list[str]:
    first, *others = [dict.fromkeys(line["split"] for line in lines) for lines in runs]
    return [split for split in first if all(split in other for other in others)]


def _summaries(folder: Path, line: dict[str, Any]) -> dict[int, Summary]:
    """Returns the summaries of a line by adaptation steps; entries of None are NaN."""
    names = [name for name in _STATISTICS if name in line or name not in _LATER]
    try:
        columns = [[math.nan if v is None else float(v) for v in line[n]] for n in names]
        count = int(line["tasks"])
        rows = zip(*columns, strict=True)
        summaries = [Summary(count=count, **dict(zip(names, row, strict=True))) for row in rows]
        return dict(enumerate(summaries, line.get("first_step", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"A line of {folder}/eval.jsonl cannot be used: {error!r}. Repair or delete it."
        ) from error
