"""Measures the time of the parts of a MAML-TRPO meta-iteration."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from benchmarks.timing import MetaIteration
from metarl.rl import policy_learner, worlds
from metarl.training.meta_gradient import MetaGradient
from metarl.training.trust_region import TrustRegionUpdate

PARTS = (
    ("rollouts", worlds, "collect"),
    ("advantages", policy_learner, "estimate_advantages"),
    ("meta-gradient", MetaGradient, "__call__"),
    ("Fisher products", TrustRegionUpdate, "_natural_gradient_step"),
    ("line search", TrustRegionUpdate, "_line_search"),
)
REST = "inner gradients, random numbers, the rest"


def print_parts(name: str, run: MetaIteration, rounds: int) -> None:
    """Runs meta-iterations and prints the mean time and the share of each part.

    Args:
        name: Title of the table.
        run: The meta-iteration; it runs once more as a warm-up.
        rounds: Number of measured meta-iterations.
    """
    spent: dict[str, float] = defaultdict(float)
    run()
    with ExitStack() as stack:
        for part, owner, function in PARTS:
            timed = _timed(getattr(owner, function), part, spent)
            stack.enter_context(patch.object(owner, function, timed))
        started = time.perf_counter()
        for _ in range(rounds):
            run()
        total = time.perf_counter() - started
    spent[REST] = total - sum(spent.values())
    table = Table("", "ms", "share", title=f"Parts of a meta-iteration, {name}")
    for part in (*(p for p, *_ in PARTS), REST):
        milliseconds = 1e3 * spent[part] / rounds
        table.add_row(part, f"{milliseconds:.1f}", f"{spent[part] / total:.0%}")
    Console().print(table)


def _timed(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        spent[part] += time.perf_counter() - started
        return result

    return run
