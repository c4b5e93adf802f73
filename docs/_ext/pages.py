"""The pages as they are on GitHub become pages of the site: commands, and links to sources."""

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

COMMANDS = re.compile(
    r"\s*(\$ |\. |cd |docker |export |git |make |metarl |pip |python |[A-Z_]+=\S+ )"
)
INTERVAL = re.compile(r"\[(-?[\d.]+), (-?[\d.]+)\]")
SITE_ONLY = re.compile(r"<!-- site:\s*(.*?)\s*-->", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]+)\)")


def unlink_outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leaves the text of links to folders and documents that are not part of the site.

    `<!-- site: TEXT -->` becomes the text: GitHub does not have the pages that the build writes.
    """
    folder = Path(app.srcdir, docname).parent

    def replaced(match: re.Match) -> str:
        target = (folder / match[2]).resolve()
        inside = target.is_relative_to(app.srcdir)
        return match[0] if inside or target.suffix not in ("", ".md") else match[1]

    linked = LINK.sub(replaced, SITE_ONLY.sub(r"\1", source[0]))
    # A link whose text is the name of a file gets the title of that page instead.
    source[0] = re.sub(r"\[[\w/.]+\.md\]\(([^):]+\.md(?:#[^)]*)?)\)", r"[](\1)", linked)


def highlight_commands(app: Sphinx, doctree: nodes.document) -> None:
    """Gives indented blocks of commands the language of a shell."""
    del app
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in (None, "none", "default") and COMMANDS.match(block.astext()):
            block["language"] = "bash"


def keep_intervals_whole(app: Sphinx, doctree: nodes.document) -> None:
    """Lets no line break inside of an interval, [.53, .64], in a table."""
    del app
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            whole = INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", text)
            if whole != text:
                text.parent.replace(text, nodes.Text(whole))


def link_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Links to MetaRL's modules lead to their highlighted sources in the site."""
    if app.builder.format != "html":
        return
    shown = getattr(app.env, "_viewcode_modules", {})  # of sphinx.ext.viewcode
    for node in list(doctree.findall(addnodes.download_reference)):
        path = os.path.normpath(os.path.join(os.path.dirname(docname), node["reftarget"]))
        path = path.removeprefix("../").removeprefix("envs/")
        if path.endswith(".py") and path.startswith(("metarl/", "metarl_envs/")):
            module = path.removesuffix(".py").removesuffix("/__init__")
            if not shown.get(module.replace("/", ".")):
                node.replace_self(node.children)  # a package that only passes names on
                continue
            uri = app.builder.get_relative_uri(docname, "_modules/" + module)
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri))


def share_navigation(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Makes the tree of pages once for all sources in a folder, on which it is the same.

    The theme makes it again for each page, which took half of the time of a build.
    """
    del template, doctree
    if not page.startswith("_modules/"):
        return
    made = app.builder.__dict__.setdefault("navigation_of_sources", {})
    make, folder = context["toctree"], page.rpartition("/")[0]

    def shared(**options: Any) -> str:
        key = (folder, *sorted(options.items()))
        if key not in made:
            made[key] = make(**options)
        return made[key]

    context["toctree"] = shared


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers what is above."""
    app.connect("source-read", unlink_outside)
    app.connect("doctree-read", highlight_commands)
    app.connect("doctree-read", keep_intervals_whole)
    app.connect("doctree-resolved", link_sources, priority=400)
    app.connect("html-page-context", share_navigation, priority=400)
    return {"parallel_read_safe": True}
