"""The lines of eval.jsonl, a run's adaptation curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError
from metarl.runs.run_folder import EVAL_FILE
from metarl.tasks.files import parse_json, read_regular, write_bytes

MOST_BYTES = 1 << 30  # of eval.jsonl


def read_curves(folder: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of a run's eval.jsonl, oldest first, without an incomplete last line."""
    return [line for _, line in _lines(Path(folder) / EVAL_FILE)]


def append_line(folder: Path, line: dict[str, Any]) -> None:
    """Appends a line to a run's eval.jsonl, which is written whole.

    An appended line could be cut by a crash or by a full disk.
    """
    path = folder / EVAL_FILE
    texts = [text for text, _ in _lines(path)]
    write_bytes(path, "".join(f"{t}\n" for t in (*texts, json.dumps(line))).encode())


def cut_after(folder: Path, iteration: int) -> int:
    """Drops the lines of later iterations and an incomplete one; returns the number kept."""
    return _keep(folder / EVAL_FILE, lambda line: line["iteration"] <= iteration)


def drop_lines(folder: Path, head: dict[str, Any]) -> None:
    """Drops the lines that have all entries of `head`."""
    _keep(folder / EVAL_FILE, lambda line: line != {**line, **head})


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Keeps the complete lines for which `wanted` is true; returns their number."""
    if not path.exists():
        return 0
    kept = [text for text, line in _lines(path) if wanted(line)]
    write_bytes(path, "".join(f"{text}\n" for text in kept).encode())
    return len(kept)


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the complete lines of an eval.jsonl, as text and decoded."""
    lines = []
    try:
        texts = read_regular(path, MOST_BYTES).split(b"\n") if path.exists() else []
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    is_cut = bool(texts and texts[-1].strip())  # a crash leaves a line without its end
    if texts and not is_cut:
        texts.pop()
    for number, text in enumerate(texts):
        try:
            line = parse_json(text)
        except ValueError as error:
            if number + 1 < len(texts) or not is_cut:
                raise CheckpointError(
                    f"Line {number + 1} of {path} is not JSON: {error}. Repair or delete it."
                ) from error
            break
        try:
            lines.append((text.decode("utf-8-sig").rstrip("\r"), _checked(line)))
        except ValueError as error:
            raise CheckpointError(
                f"Line {number + 1} of {path} cannot be used: {error}. Repair or delete it."
            ) from error
    return lines


def _checked(line: Any) -> dict[str, Any]:
    """Returns a decoded line; raises ValueError if an entry that is used has another type."""
    kinds = {
        "iteration": int, "environment_steps": int, "first_step": int, "split": str,
        "metric": str, "mean": list,
    }  # fmt: skip
    if not isinstance(line, dict) or "iteration" not in line:
        raise ValueError('expected {"iteration": ..., ...}')
    for name, kind in kinds.items():
        if name in line and type(line[name]) is not kind:
            raise ValueError(f"expected `{name}` of type {kind.__name__}, got {line[name]!r:.80}")
    missing = {"split", "metric", "mean"} - line.keys()
    if missing and "environment_steps" in line:
        raise ValueError(f"expected `{min(missing)}` next to `environment_steps`")
    if not -(2**63) <= line.get("environment_steps", 0) < 2**63:
        raise ValueError("expected `environment_steps` below 2^63")
    for value in line.get("mean", ()):
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"expected numbers in `mean`, got {value!r:.80}")
    return line
