"""`metarl list`: what there is by name, and the card of a family."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metarl.adaptation import settings as learners
from metarl.errors import SettingsError
from metarl.lab.saved_run import script_experiment
from metarl.learners.memory.algorithms import MemorySettings
from metarl.learners.memory.networks import SequenceOptions
from metarl.learners.metric.algorithms import FeatureClassifierSettings, MetricSettings
from metarl.rl.settings import RL2Settings
from metarl.rl.surrogates import SURROGATES
from metarl.sb3.baseline import PPOSettings
from metarl.sim import FAMILIES, Card, make_family
from metarl.tasks.names import DISTRIBUTIONS

Configs = Mapping[str, Any] | SettingsError
"""Algorithm -> its settings, of an experiment; or what is wrong with its script."""


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
    configs = {script: _configs(script) for script in sorted(experiments.glob("*.py"))}
    tables = (_families(), _others(), _learners(configs), _experiments(experiments, configs))
    for table in tables:
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


def _configs(script: Path) -> Configs:
    try:
        return script_experiment(script).configs
    except SettingsError as error:
        return error


def _learners(scripts: Mapping[Path, Configs]) -> Table:
    table = _table("Algorithms", "settings", "--algorithm", "what, and the fields to set")
    names: dict[type, list[str]] = {kind: [] for kind in _known_settings()}
    for configs in scripts.values():
        for name, config in () if isinstance(configs, SettingsError) else configs.items():
            chosen = getattr(config, "learner", getattr(config, "network", None))
            if is_dataclass(chosen) and name not in names.setdefault(type(chosen), []):
                names[type(chosen)].append(name)
    for kind, found in names.items():
        settings = ", ".join(f.name.replace("_", "-") for f in fields(kind)) or "none"
        table.add_row(kind.__name__, ", ".join(found), f"{_summary(kind)}\n[dim]{settings}[/]")
    return table


def _known_settings() -> Iterator[type]:
    """Yields the settings that the package brings; experiments may have others."""
    for interface in (learners.LearnerSettings, MetricSettings, MemorySettings, SequenceOptions):
        yield from interface.__subclasses__()
    yield from (FeatureClassifierSettings, RL2Settings, PPOSettings)


def _experiments(folder: Path, scripts: Mapping[Path, Configs]) -> Table:
    table = _table(f"Experiments in {folder}", "script", "--algorithm")
    for script, configs in scripts.items():
        broken = isinstance(configs, SettingsError)
        told = f"[red]{escape(str(configs))}[/]" if broken else ", ".join(configs)
        table.add_row(script.name, told)
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
