"""Progress bars for evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from metarl.evaluation.watch import Advance
from metarl.runs.progress import Progress


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Advance]:
    """Shows the progress of an evaluation on standard error; a `Watch`.

    Args:
        name: What is evaluated.
        total: Number of evaluations: tasks times rows of the curve.
    """
    with Progress(total, f"Evaluating {name}", unit="evaluations") as progress:
        yield progress.advance
