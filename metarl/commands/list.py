"""`metarl list`: families, algorithms and experiments by name, and the card of a family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from metarl.sim.card import Card
    from metarl.sim.family import TaskFamily

Found = Any
"""An `Experiment`; or the exception of one that cannot be imported."""


def list_names(card: str | None = None) -> None:
    """Lists what is installed: families of tasks, algorithms and experiments.

    The minutes of an experiment were measured on another machine and are scaled by a short
    computation on this one.

    Args:
        card: A family: prints all of its coefficients, ranges and horizons, with their sources.
    """
    from metarl.console import OutputConsole

    console = OutputConsole()
    if card is not None:
        console.print_whole(card_table(_family(card).card()))
        return
    found = _found_experiments()
    for table in (_families(), _surrogates(), _algorithms(found), _experiments(found)):
        console.print_whole(table)


def _family(name: str) -> TaskFamily:
    """Returns a family; raises UnknownNameError for another name, such as that of an experiment."""
    from metarl.errors import UnknownNameError
    from metarl.lab.installed import EXPERIMENTS
    from metarl.registry import did_you_mean
    from metarl.sim import FAMILIES, make_family

    families = FAMILIES.names()
    if name in EXPERIMENTS.names() and name not in families:
        raise UnknownNameError(
            f"Expected a family of control tasks, and {name!r} is an experiment."
            f"{did_you_mean(name, families)} `metarl list` prints the families, and `metarl train "
            f"{name} --help` the settings of the experiment."
        )
    return make_family(name)


def card_table(card: Card) -> Table:
    """Returns a family's card as a table."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"[bold]{escape(card.name)}[/]: {escape(card.summary)}",
        caption=escape(f"Source: {card.source}"), box=SIMPLE,
        title_justify="left", caption_justify="left", title_style="", caption_style="dim",
    )  # fmt: skip
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("value", ratio=3)
    rows = card.lines()
    if any(fact.source for fact in rows):
        table.add_column("source, if it is another", ratio=2, style="dim")
    for fact in rows:
        table.add_row(*map(escape, (fact.what, fact.value, fact.source)[: len(table.columns)]))
    return table


def _families() -> Table:
    from rich.markup import escape

    from metarl.sim import FAMILIES, make_family

    table = _table("Families of control tasks", "name", "summary, and the source")
    for name in FAMILIES.names():
        try:
            card = make_family(name).card()
        except Exception as error:  # a family of another package may raise anything
            table.add_row(name, f"[red]{escape(f'{type(error).__name__}: {error}')}[/]")
            continue
        source = escape(card.source.partition(";")[0])
        table.add_row(name, f"{escape(card.summary)}\n[dim]{source}[/]")
    return table


def _surrogates() -> Table:
    from metarl.rl.surrogates import SURROGATES

    table = _table("Surrogates: inner losses of policies", "--gradients.surrogate", "summary")
    for name in SURROGATES.names():
        table.add_row(name, _summary(SURROGATES.get(name)))
    return table


def _found_experiments() -> dict[str, Found]:
    from metarl.lab.installed import EXPERIMENTS
    from metarl.lab.lookup import find_experiment

    found: dict[str, Found] = {}
    for name in EXPERIMENTS.names():
        try:
            found[name] = find_experiment(name)
        except Exception as error:  # an experiment of another package may raise anything
            found[name] = error
    return found


def _algorithms(experiments: Mapping[str, Found]) -> Table:
    table = _table("Algorithms", "--algorithm", "summary; the class of the options: their names")
    names: dict[type, list[str]] = {}
    for found in experiments.values():
        for name, config in () if isinstance(found, Exception) else found.configs.items():
            options = getattr(config, "learner", getattr(config, "network", None))
            if is_dataclass(options) and name not in names.setdefault(type(options), []):
                names[type(options)].append(name)
    for kind, algorithms in names.items():
        shown = (f.name.replace("_", "-") for f in fields(kind) if "from_python" not in f.metadata)
        settings = ", ".join(shown) or "none"
        options = f"{kind.__name__}: {settings}"
        table.add_row(",\n".join(algorithms), f"{_summary(kind)}\n[dim]{options}[/]")
    return table


def _experiments(experiments: Mapping[str, Found]) -> Table:
    from rich.markup import escape

    from metarl.lab.machine import machine_factor

    factor = machine_factor()
    table = _table(
        "Experiments: metarl train NAME", "name", "minutes here", "--algorithm",
        caption="minutes here: training with the first algorithm (or the one named) and its"
        "\ndefault settings on one core; measured on another machine, times "
        f"{factor:.2g} for this one",
    )  # fmt: skip
    for name, found in experiments.items():
        if isinstance(found, Exception):
            error = f"{type(found).__name__}: {found}"
            table.add_row(name, "", f"[red]{escape(error)}[/]")
            continue
        first = next(iter(found.configs), "")
        minutes = [
            _minutes(factor * known) + ("" if algorithm == first else f" {escape(algorithm)}")
            for algorithm, known in found.minutes.items()
        ]
        table.add_row(name, ", ".join(minutes), ", ".join(found.configs))
    if not table.row_count:
        table.add_row("none", "", "no package offers experiments")
    return table


def _minutes(value: float) -> str:
    """Returns minutes with two digits, which is more than they are known to."""
    return "below 1" if value < 1 else f"{float(f'{value:.2g}'):.0f}"


def _table(title: str, *columns: str, caption: str = "") -> Table:
    from metarl.evaluation.tables import report_table

    table = report_table(title, caption)
    for i, name in enumerate(columns):
        table.add_column(name, no_wrap=i == 0)
    return table


def _summary(value: object) -> str:
    from rich.markup import escape

    return escape((inspect.getdoc(value) or "").partition("\n")[0])
