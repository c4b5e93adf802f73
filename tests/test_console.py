"""Output of scripts and commands."""

import io

import pytest
from rich.table import Table

from metarl.console import OutputConsole


def printed(width):
    table = Table(title="returns")
    for name in ("steps", "test tasks", "published"):
        table.add_column(name, no_wrap=True)
    table.add_column("long words that may wrap", overflow="fold")
    table.add_row("1", "-12.57 ±12.15", "-11.68", "some words")
    file = io.StringIO()
    OutputConsole(file=file, width=width).print_whole(table)
    return file.getvalue()


@pytest.mark.parametrize("width", [10, 40, 80])
def test_a_table_keeps_its_digits_in_a_narrow_terminal(width):
    text = printed(width)
    assert "…" not in text
    for cell in ("-12.57 ±12.15", "-11.68"):
        assert cell in text


def test_a_table_that_fits_is_no_wider_than_the_terminal():
    assert max(map(len, printed(80).splitlines())) <= 80
