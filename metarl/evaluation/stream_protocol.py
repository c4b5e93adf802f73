"""Accuracy by instance on streams, next to the results of Santoro et al. 2016."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from metarl.evaluation.statistics import Summary
from metarl.evaluation.tables import report_table

INSTANCES = (1, 2, 3, 4, 5, 10)
TEST_SEED = 5_000_003

# Algorithm -> instance -> accuracy in percent (Santoro et al. 2016, tables 1 and 2): after 100 000
# episodes on 1200 characters, with 5 classes and one-hot labels, or 15 classes and string labels.
PUBLISHED: dict[str, Mapping[int, float]] = {
    name: dict(zip(INSTANCES, row, strict=True))
    for name, row in {
        "mann": (36.4, 82.8, 91.0, 92.6, 94.9, 98.1),
        "lstm": (24.4, 49.5, 55.3, 61.0, 63.6, 62.5),
        "feedforward": (24.4, 19.6, 21.1, 19.9, 22.8, 19.5),
        "mann-strings": (0.1, 62.6, 79.3, 86.6, 88.7, 95.3),
        "lstm-strings": (0.0, 2.2, 2.9, 4.3, 5.6, 12.7),
    }.items()
}


def instance_table(
    summaries: Sequence[Summary], published: Mapping[int, float], label: str
) -> Table:
    """Builds a table of accuracies by instance, in percent, with 95 % intervals.

    Args:
        summaries: The accuracy, in [0, 1], of each instance, from the first on.
        published: Instance -> published accuracy in percent; may be empty.
        label: Title of the table: learner and data.
    """
    title = f"{label}, {summaries[0].count} test streams"
    caption = (
        "mean [95 % interval]; instance: how often the class has been shown, this time included"
    )
    if published:
        caption += "\npaper: Santoro et al. 2016, on other data"
    table = report_table(title, caption)
    for name in ("instance", "accuracy, %", *(("paper",) if published else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for instance in sorted({i for i in INSTANCES if i <= len(summaries)} | {len(summaries)}):
        s = summaries[instance - 1]
        cell = f"{100 * s.mean:.1f}  [{100 * s.mean_low:.1f}, {100 * s.mean_high:.1f}]"
        paper = f"{published[instance]:.1f}" if instance in published else ""
        table.add_row(str(instance), cell, *((paper,) if published else ()))
    return table
