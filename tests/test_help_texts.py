from dataclasses import dataclass, field

import pytest
import tyro

from metarl.help_texts import settings_registry, with_joined_help


@dataclass(frozen=True)
class Inner:
    """Settings inside of settings."""

    rate: float = 0.1
    """The rate of the first step and
    of all later ones."""


@dataclass(frozen=True)
class Outer:
    """Settings."""

    inner: Inner = field(default_factory=Inner)
    count: int = 3
    """How many there are; a second line
    `begins` with a quoted word."""


def command(*, data: str = "a") -> str:
    """Does something.

    Args:
        data: For policies: trajectories. For the others: a table,
            or a folder.
    """
    return data


@pytest.mark.parametrize(
    "text",
    [
        "The rate of the first step and of all later ones. (default: 0.1)",
        "How many there are; a second line `begins` with a quoted word. (default: 3)",
    ],
)
def test_a_terminal_wraps_the_docstrings_of_settings(text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(Outer, args=["--help"], registry=settings_registry())
    assert text in capsys.readouterr().out


def test_the_rules_build_the_same_settings():
    given = ["--inner.rate", "2", "--count", "4"]
    settings = tyro.cli(Outer, args=given, registry=settings_registry())
    assert settings == Outer(Inner(2.0), 4)


@dataclass(frozen=True)
class Lists:
    """Settings."""

    names: tuple[str, ...] = ()
    """Names."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""


def test_an_empty_default_has_a_word(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Lists, args=["--help"], registry=settings_registry())
    out = capsys.readouterr().out
    assert "Names. (default: none)" in out and "Sizes. (default: 1 2)" in out
    settings = tyro.cli(Lists, args=["--names", "a", "b"], registry=settings_registry())
    assert settings == Lists(("a", "b"))


def test_a_terminal_wraps_the_texts_of_a_commands_arguments(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    joined = with_joined_help(command)
    with pytest.raises(SystemExit):
        tyro.cli(joined, args=["--help"])
    expected = "For policies: trajectories. For the others: a table, or a folder. (default: a)"
    assert expected in capsys.readouterr().out
    assert tyro.cli(joined, args=["--data", "b"]) == "b"
