"""`metarl list`: what there is by name, and the card of a family."""

from __future__ import annotations

import inspect
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarl.adaptation import settings as learners
from metarl.errors import SettingsError
from metarl.rl.surrogates import SURROGATES
from metarl.sim import FAMILIES, Card, make_family
from metarl.tasks.names import DISTRIBUTIONS
from metarl.training.saved_run import script_experiment


def names(card: str | None = None, experiments: Path = Path("experiments")) -> None:
    """Lists what there is by name: families, task distributions, algorithms and experiments.

    Args:
        card: A family: prints every coefficient, range and horizon of it, with its source.
        experiments: Folder whose scripts are looked at for experiments.
    """
    console = Console()
    if card is not None:
        console.print(card_table(make_family(card).card()))
        return
    for table in (_families(), _others(), _learners(), _experiments(experiments)):
        console.print(table)


def card_table(card: Card) -> Table:
    """Returns a family's card as a table."""
    table = Table(
        title=f"[bold]{escape(card.name)}[/]: {escape(card.summary)}",
        caption=escape(f"Source: {card.source}"), box=SIMPLE,
        title_justify="left", caption_justify="left", title_style="", caption_style="dim",
    )  # fmt: skip
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("value", ratio=3)
    rows = card.lines()
    if any(fact.source for fact in rows):
        table.add_column("source, where it is another", ratio=2, style="dim")
    for fact in rows:
        table.add_row(*map(escape, (fact.what, fact.value, fact.source)[: len(table.columns)]))
    return table


def _families() -> Table:
    table = _table("Families of control tasks", "name", "what", "source")
    for name in FAMILIES.names():
        try:
            card = make_family(name).card()
        except Exception as error:  # a user's: whatever it is, it must not stop the others
            table.add_row(name, f"[red]{escape(f'{type(error).__name__}: {error}')}[/]", "")
            continue
        table.add_row(name, escape(card.summary), escape(card.source.partition(";")[0]))
    return table


def _others() -> Table:
    table = _table("Supervised task distributions", "name", "what")
    for name in DISTRIBUTIONS.names():
        table.add_row(name, _summary(DISTRIBUTIONS.get(name)))
    table.add_section()
    table.add_row("surrogates", f"inner losses of policies: {', '.join(SURROGATES.names())}")
    return table


def _learners() -> Table:
    table = _table("Algorithms", "settings", "what")
    for kind in learners.LearnerSettings.__subclasses__():
        table.add_row(kind.__name__, _summary(kind))
    return table


def _experiments(folder: Path) -> Table:
    table = _table(f"Experiments in {folder}", "script", "--algorithm")
    for script in sorted(folder.glob("*.py")):
        try:
            algorithms = ", ".join(script_experiment(script).configs)
        except SettingsError as error:
            algorithms = f"[red]{escape(str(error))}[/]"
        table.add_row(script.name, algorithms)
    if not table.row_count:
        table.add_row("none", "name another folder with --experiments FOLDER")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, no_wrap=i == 0)
    return table


def _summary(value: object) -> str:
    return escape((inspect.getdoc(value) or "").partition("\n")[0])
