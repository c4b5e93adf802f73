"""Tables of reports."""

from __future__ import annotations

import math

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from metarl.evaluation.statistics import Summary

_LONGEST = 1e6
"""Numbers from this size on, as those of an adaptation that diverges, have an exponent."""


def report_table(title: str, caption: str = "") -> Table:
    """Returns a table without columns that is as wide as its title and its caption.

    Rich wraps a title to the width of the columns, which breaks the title of a narrow table. In a
    terminal that is narrower than the title, it wraps between words.

    Args:
        title: The title; brackets are printed as they are.
        caption: Lines below the table.
    """
    lines = (title, *caption.splitlines())
    return Table(
        title=escape(title), caption=escape(caption) or None, box=SIMPLE, title_justify="left",
        caption_justify="left", title_style="bold", caption_style="dim",
        min_width=max(map(cell_len, lines)),
    )  # fmt: skip


def number_cell(value: float, digits: int = 2) -> str:
    """Returns a number for a table: 0.35, or 1.56e+12 where the digits would widen the column.

    Args:
        value: The number.
        digits: Decimals.
    """
    return f"{value:.2e}" if _LONGEST <= abs(value) < math.inf else f"{value:.{digits}f}"


def interval_cell(summary: Summary, digits: int = 2, factor: float = 1.0) -> str:
    """Returns a mean and its interval, "0.35 [0.30, 0.38]"; the mean alone if there is none.

    One seed has no interval, and neither have values that are not all finite.

    Args:
        summary: The statistics.
        digits: Decimals.
        factor: What the numbers are multiplied with, such as 100 for percent.
    """
    mean, low, high = (
        number_cell(factor * value, digits)
        for value in (summary.mean, summary.mean_low, summary.mean_high)
    )
    has_interval = math.isfinite(summary.mean_low) and math.isfinite(summary.mean_high)
    return f"{mean} [{low}, {high}]" if has_interval else mean
