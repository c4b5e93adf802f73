"""Tables of reports."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table


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
