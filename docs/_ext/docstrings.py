"""Docstrings as Sphinx reads them: their Markdown becomes reStructuredText.

The docstrings of MetaRL use single backticks for code, and plain asterisks and bars in shapes
([T, *shape]). Both mean something else in reStructuredText.
"""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``?)([^`]+?)\1")
SPECIAL = re.compile(r"[\\*|]|_(?!\w)")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Warns):$")
BULLET = re.compile(r"\s*([-*]|\d+\.) ")


def escaped(text: str) -> str:
    """Returns text without backticks, with everything that reStructuredText would read escaped."""
    return SPECIAL.sub(lambda match: "\\" + match[0], text)


def converted(text: str) -> str:
    """Returns a docstring with code in double backticks and all other text escaped."""
    parts, end = [], 0
    for match in CODE.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        parts.append(escaped(text[end : match.start()]))
        parts.append("\\ " if re.search(r"[\w*=+]$", before) else "")
        parts.append(f"``{' '.join(match[2].split())}``")
        parts.append("\\ " if re.match(r"[\w(*=+\[]", after) else "")
        end = match.end()
    return "".join(parts) + escaped(text[end:])


def blocks_marked(lines: list[str]) -> list[str]:
    """Returns the lines with `::` before each indented block that follows an empty line."""
    marked: list[str] = []
    in_section = in_block = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if line and not indented:
            in_block, in_section = False, bool(SECTION.match(line))
        begins = indented and not in_section and not in_block and i and not lines[i - 1].strip()
        if begins and marked and not any(BULLET.match(text) for text in marked[-2:-1]):
            marked += ["::", ""]
            in_block = True
        marked.append(line)
    return marked


def convert(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Converts the lines of a docstring in place, before napoleon reads its sections."""
    del app, what, name, obj, options
    marked = blocks_marked(lines)
    pieces: list[str] = []
    prose: list[str] = []
    literal = False
    for i, line in enumerate(marked):
        literal = (literal and (not line or line.startswith("    "))) or (
            i > 1 and marked[i - 2] == "::"
        )
        if line.lstrip().startswith((">>>", "... ")) or line.strip() == "...":
            literal_line = True
        else:
            literal_line = literal or line == "::"
        if literal_line:
            pieces += [*converted("\n".join(prose)).split("\n")] if prose else []
            pieces.append(line)
            prose = []
        else:
            prose.append(line)
    pieces += converted("\n".join(prose)).split("\n") if prose else []
    lines[:] = pieces


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the conversion; napoleon has the priority 500."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True}
