"""The model card of a pushed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import metarl

_SHOWN = 8
"""Rows of the table of a training curve."""


def card(
    index: Mapping[str, Any],
    settings: Mapping[str, Any],
    curves: list[dict[str, Any]],
    weights: Mapping[str, Tensor],
    source: str,
    licence: str,
) -> str:
    """Returns the README.md of a run: what it is, its data, settings, curves and how to load it.

    Args:
        index: The content of metarl.json.
        settings: The settings of the run.
        curves: The lines of its eval.jsonl.
        weights: Its weights.
        source: Where it can be pulled from.
        licence: Identifier of the licence of the weights.
    """
    experiment, algorithm = index["experiment"], index["algorithm"]
    count = sum(t.numel() for t in weights.values())
    parts = [
        f"---\nlibrary_name: metarl\nlicense: {licence}\ntags:\n- meta-learning\n- metarl\n---",
        f"# {experiment}, {algorithm}",
        f"A meta-learned start: {count} numbers after {index['iteration']} meta-iterations of "
        f"{_trained_by(index)} (MetaRL {metarl.__version__}). It adapts to a new task from a few "
        "examples or rollouts of it.",
        "## Data",
        _data(index),
        "## Settings",
        _table(("setting", "value"), _flat(settings)) if settings else "In learner.json.",
        "## Curves",
        _curves(curves),
        "## Licence",
        f"Of the weights: {licence}.",
        "## How to load it",
        f"```\npip install metarl\nmetarl pull {source}\n{_use(index)}\n```",
        "The files are JSON and safetensors; nothing in them is executed. Their SHA-256 are in "
        "metarl.json.",
    ]
    return "\n\n".join(parts) + "\n"


def _is_library(index: Mapping[str, Any]) -> bool:
    return index["experiment"] == "library"


def _trained_by(index: Mapping[str, Any]) -> str:
    """Returns what trained the run."""
    if _is_library(index):
        return f"a program with the algorithm {index['algorithm']}"
    return f"`metarl train {index['experiment']} --algorithm {index['algorithm']}`"


def _data(index: Mapping[str, Any]) -> str:
    """Returns what the run was trained on."""
    if _is_library(index):
        return "Tasks of a program; learner.json has the shapes and the ranges of their data."
    return (
        f"The tasks of the experiment `{index['experiment']}`; `metarl list` describes it. Their "
        "settings are below and in config.json."
    )


def _use(index: Mapping[str, Any]) -> str:
    """Returns what opens the pulled run."""
    folder = f"runs/{index['experiment']}/{index['algorithm']}/{index['name']}"
    lines = [] if _is_library(index) else [f"metarl evaluate {folder}"]
    if "learner.json" in index["sha256"]:
        lines.append(f"python -c 'import metarl; adapter = metarl.load(\"{folder}\")'")
    return "\n".join(lines)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the settings as rows of dotted names, without those that are not set."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ()):
            rows.append((f"{prefix}{name}", str(value).replace("|", "\\|")))
    return rows


def _curves(curves: list[dict[str, Any]]) -> str:
    """Returns tables: over training after the last step, and over steps at the end."""
    lines = [line for line in curves if line.get("mean")]
    if not lines:
        return "None were measured."
    split = lines[0]["split"]
    own = [line for line in lines if line["split"] == split]
    kept = own[:: max(1, -(-len(own) // _SHOWN))]
    kept = kept if kept[-1] is own[-1] else [*kept, own[-1]]
    metric = own[0]["metric"]
    over = _table(
        ("meta-iterations", f"{split} {metric} after adaptation"),
        [(str(line["iteration"]), _interval(line, -1)) for line in kept],
    )
    newest = {line["split"]: line for line in lines}
    steps = [
        f"{name}, {line['metric']}:\n\n"
        + _table(
            ("adaptation steps", f"mean and 95 % interval over {line.get('tasks', '?')} tasks"),
            [
                (str(line.get("first_step", 0) + k), _interval(line, k))
                for k in range(len(line["mean"]))
            ],
        )
        for name, line in newest.items()
    ]
    return "\n\n".join([over, *steps])


def _interval(line: Mapping[str, Any], step: int) -> str:
    mean = line["mean"][step]
    if not isinstance(mean, int | float):
        return "-"
    if "mean_low" not in line or "mean_high" not in line:
        return f"{mean:.4g}"
    return f"{mean:.4g} ({line['mean_low'][step]:.4g} to {line['mean_high'][step]:.4g})"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} |" for a, b in rows)])
