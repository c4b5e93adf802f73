"""Tables of settings in the pages of algorithms, from the dataclasses and their docstrings.

A page names a class in a comment, and the table follows it:

    <!-- settings: metarl.rl.settings:PolicyGradientSettings gradients -->

The word after the class is the prefix of the options on the command line. Run
`python docs/_ext/settings_tables.py` after a change of a setting; a test compares.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

MARK = re.compile(r"(<!-- settings: (\S+):(\w+) (\w+) -->\n\n)((?:\|.*\n)*\n?)")
PAGES = Path(__file__).resolve().parents[1] / "algorithms"


def field_docs(kind: type) -> dict[str, str]:
    """Returns the docstrings of a dataclass's fields, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = str(after.value.value) if is_doc else ""
                docs[node.target.id] = " ".join(text.split())
    return docs


def shown(value: Any) -> str:
    """Returns a default as it is typed on the command line; empty collections as a word."""
    if value is None or isinstance(value, bool):
        return f"`{value}`"
    if isinstance(value, tuple | list):
        return f"`{' '.join(map(str, value))}`" if value else "none"
    return f"`{value}`"


def default(field: Field) -> Any:
    """Returns the default of a field; MISSING if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def rows(
    kind: type, prefix: str, inherited: tuple[str, ...] = (), value_of: Callable[..., Any] = default
) -> list[str]:
    """Returns the rows of a class's settings; those of settings in settings come in their place.

    Args:
        kind: The class.
        prefix: What the names of its options begin with.
        inherited: Names of settings that are left out.
        value_of: Returns the default of a field: that of the class, or that of the settings around.
    """
    docs = field_docs(kind)
    lines: list[str] = []
    for field in fields(kind):
        if field.name in inherited or "from_python" in field.metadata:
            continue
        name, value = f"{prefix}.{field.name.replace('_', '-')}", value_of(field)
        if is_dataclass(value) and not isinstance(value, type):
            lines += rows(type(value), name, value_of=partial(_held, value))
            continue
        meaning = docs.get(field.name, "").replace("|", "\\|").replace("*", "\\*")
        required = "" if value is MISSING else shown(value)
        lines.append(f"| `--{name}` | {required} | {meaning} |")
    return lines


def _held(settings: Any, field: Field) -> Any:
    """Returns the value of a field in settings."""
    return getattr(settings, field.name)


def table(module: str, name: str, prefix: str) -> str:
    """Returns the table of a class's own settings as Markdown, without those of all algorithms."""
    from metarl.adaptation import GradientAlgorithm

    kind = getattr(importlib.import_module(module), name)
    common = tuple(f.name for f in fields(GradientAlgorithm))
    own = inspect.get_annotations(kind)
    hidden = tuple(n for n in common if n not in own) if kind is not GradientAlgorithm else ()
    found = rows(kind, prefix, hidden)
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *found, ""])


def with_tables(text: str) -> str:
    """Returns the text of a page with the present tables after its marks."""
    return MARK.sub(lambda m: m[1] + table(m[2], m[3], m[4]) + "\n", text)


def main() -> None:
    """Writes the tables into all pages of algorithms."""
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if with_tables(text) != text:
            path.write_text(with_tables(text), encoding="utf-8")
            print(f"{path.name}: tables written")


if __name__ == "__main__":
    main()
