"""The pages of the manual and their blocks of code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = ("_ext", "_static", "api")
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in GENERATED
)
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MARK = re.compile(r"<!-- not run: (.+?) -->\s*$", re.DOTALL)


class Block(NamedTuple):
    """A block of code in a page.

    Attributes:
        language: That of a fence ("python"); empty for an indented block.
        text: The code.
        reason: Why it is not run, from a comment `<!-- not run: REASON -->` before it; or None.
    """

    language: str
    text: str
    reason: str | None


def name(page: Path) -> str:
    """The path of a page from the folder of the manual: "algorithms/maml.md"."""
    return page.relative_to(DOCS).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yields the blocks of a page, in order."""
    before = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            marked = MARK.search(before)
            yield Block(token.info.strip(), token.content, marked and marked[1])
        if token.type == "html_block" or token.type in ("fence", "code_block"):
            before = token.content if token.type == "html_block" else ""
        elif token.content:
            before = ""


def python_blocks(page: Path) -> list[str]:
    """Returns the Python code of a page that is to run."""
    return [b.text for b in blocks(page) if b.language == "python" and b.reason is None]
