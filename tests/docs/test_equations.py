"""The equations of the manual can be drawn: docs/_ext/mathml.py translates them."""

import re

import pytest

from tests.docs.pages import PAGES, name

latex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
EQUATION = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


def equations(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return [block or inline for block, inline in EQUATION.findall(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if equations(p)], ids=name)
def test_every_equation_is_translated(page):
    for equation in equations(page):
        assert "<math" in latex2mathml.tex2mathml(equation, as_block=True)
