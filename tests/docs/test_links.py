"""Relative links of the documents lead to files and to headings that exist."""

import re

import pytest

from tests.docs import pages

ROOT = pages.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md")),
    *pages.PAGES,
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def text(page):
    """The text of a page without its blocks of code and comments."""
    pattern = r"^```.*?^```|^<!--.*?-->"
    return re.sub(pattern, "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page, in order."""
    headings = HEADING.findall(text(page))
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_anchor_of_a_heading_is_githubs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Omniglot, *real* drawings: 5-way\n```\n# code\n```\n## Lake's runs\n")
    assert anchors(page) == ["omniglot-real-drawings-5-way", "lakes-runs"]


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_no_two_headings_have_one_anchor(page):
    assert len(set(anchors(page))) == len(anchors(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(text(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
