"""Writes the pages of the API reference before the site is built: one for each package.

A page has the package's `__all__`, each name linked to where it is defined, then every public
module of the package, without the constants that are not exported. Nothing is listed by hand.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

PACKAGES = ("metarl", "metarl_envs")


def packages() -> list[str]:
    """Returns the names of all packages that are documented."""
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        inner = pkgutil.walk_packages(package.__path__, f"{name}.")
        found += [name, *(module.name for module in inner if module.ispkg)]
    return found


def modules(package: str) -> list[str]:
    """Returns the names of a package's own public modules."""
    path = importlib.import_module(package).__path__
    return [
        f"{package}.{module.name}"
        for module in pkgutil.iter_modules(path)
        if not module.ispkg and not module.name.startswith("_")
    ]


def importable(module: str) -> bool:
    """Returns whether a module can be imported; some need an extra."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def origin(package: str, name: str) -> str:
    """Returns the module that defines a name of a package, by following its imports."""
    module = importlib.import_module(package)
    source = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for node in source.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return origin(node.module, alias.name)
    return package


def summary(package: str, name: str) -> str:
    """Returns the first sentence of what a name is."""
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        text = inspect.getdoc(value) or ""
    else:
        docs = ModuleAnalyzer.for_module(origin(package, name)).find_attr_docs()
        text = "\n".join(docs.get(("", name), ()))
    text = " ".join(text.strip().partition("\n\n")[0].split())
    return text.replace("|", "\\|").replace("*", "\\*").replace("[", "\\[")


def internal_constants(module: str, exported: Sequence[str]) -> list[str]:
    """Returns the documented constants of a module that its package does not export."""
    docs = ModuleAnalyzer.for_module(module).find_attr_docs()
    return [n for owner, n in docs if not owner and n.isupper() and n not in exported]


def automodule(module: str, *options: str) -> list[str]:
    """Returns the directive that documents a module; autodoc writes reStructuredText."""
    fields = [option.partition(": ") for option in options]
    lines = [f".. automodule:: {module}"]
    lines += [f"   :{name}: {value}".rstrip() for name, _, value in fields]
    return ["```{eval-rst}", *lines, "```", ""]


def page(package: str) -> str:
    """Returns the text of a package's page."""
    lines = [f"# {package}", "", *automodule(package)]
    names = getattr(importlib.import_module(package), "__all__", ())
    if names:
        lines += [f"Names of `{package}`:", "", "| name | |", "|---|---|"]
        for name in sorted(names, key=str.lower):
            target = f"{origin(package, name)}.{name}"
            lines.append(f"| {{py:obj}}`{name} <{target}>` | {summary(package, name)} |")
        lines.append("")
    for module in modules(package):
        lines += [f"## {module}", ""]
        if importable(module):
            hidden = ", ".join(internal_constants(module, names))
            excluded = [f"exclude-members: {hidden}"] if hidden else []
            lines += automodule(module, "members", "show-inheritance", *excluded)
        else:
            lines += ["An extra that is not installed here; see the source.", ""]
    return "\n".join(lines)


def write_if_changed(path: Path, text: str) -> None:
    """Writes a page unless it is there already, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_pages(app: Sphinx) -> None:
    """Writes `api/index.md` and the pages of all packages."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    about = "Every public name, from the docstrings. The packages of MetaRL:"
    index = ["# API reference", "", about, "", "| package | |", "|---|---|"]
    names = packages()
    for package in names:
        write_if_changed(folder / f"{package}.md", page(package))
        about = (importlib.import_module(package).__doc__ or "").partition("\n\n")[0]
        index.append(f"| [{package}]({package}.md) | {' '.join(about.split())} |")
    index += ["", "```{toctree}", ":hidden:", *names, "```", ""]
    write_if_changed(folder / "index.md", "\n".join(index))
    for old in folder.glob("*.md"):
        if old.stem not in (*names, "index"):
            old.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Writes the pages before Sphinx looks for sources."""
    app.connect("config-inited", lambda app, _: write_pages(app), priority=900)
    return {"parallel_read_safe": True}
