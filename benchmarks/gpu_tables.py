"""The tables of `gpu_report` in markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Part = dict[str, Any]


def markdown(machine: dict[str, Any], parts: Sequence[Part]) -> str:
    """Returns the report: the machine, speeds, trainings, tests and what became of each part.

    Args:
        machine: Card, driver and versions by name.
        parts: The parts, with name, status, seconds, rows and error.
    """
    rows = [row for part in parts for row in part["rows"]]
    speeds = [_speed(r) for r in rows if "work" in r]
    trainings = [_training(r) for r in rows if "training" in r]
    tests = [_test(part["name"], r) for part in parts for r in part["rows"] if "passed" in r]
    blocks = [
        "# MetaRL on a GPU",
        ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None) + ".",
        _table("Speeds", "work|measured|loop, same device|CPU|goal|note", speeds),
        _table("Trainings", "training|stage|iterations|environment steps|minutes|curve", trainings),
        _table("Tests", "part|passed|failed|errors|skipped|failures", tests),
        _table("Parts", "part|what became of it|s", map(_part, parts)),
        *(f"## {p['name']}\n\n```\n{p['error']}\n```" for p in parts if p["error"]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(title: str, headings: str, rows: Iterable[Sequence[object]]) -> str:
    """Returns a table under its title, or "" without rows."""
    cells = [[str(cell).replace("|", "/") for cell in row] for row in rows]
    if not cells:
        return ""
    names = headings.split("|")
    lines = [names, ["---"] * len(names), *cells]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _speed(row: dict[str, Any]) -> list[object]:
    unit = row["unit"]
    cells = [_number(row.get(name), unit) for name in ("measured", "loop", "cpu", "goal")]
    return [row["work"], *cells, row.get("note", "")]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.4g} {unit}" if value < 1e4 else f"{value:,.0f} {unit}"


def _training(row: dict[str, Any]) -> list[object]:
    curve = " / ".join(f"{value:.4g}" for value in row["curve"])
    steps = row["environment_steps"]
    counts = [row["iterations"], "" if steps is None else f"{steps:,}", row.get("minutes", "")]
    return [row["training"], row["stage"], *counts, curve]


def _test(name: str, row: dict[str, Any]) -> list[object]:
    counts = [row[key] for key in ("passed", "failed", "error", "skipped")]
    return [name, *counts, ", ".join(row["failures"])]


def _part(part: Part) -> list[object]:
    return [part["name"], part["status"], f"{part['seconds']:.0f}"]
