"""The tables of settings in docs/algorithms are those that docs/_ext/settings_tables.py writes."""

import importlib.util
import re
from dataclasses import fields

import pytest

from metarl.learners.metric.algorithms import PrototypicalAlgorithm
from tests.docs.pages import DOCS, PAGES, name

FILE = DOCS / "_ext" / "settings_tables.py"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("settings_tables", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "<!-- settings:" in p.read_text(encoding="utf-8")], ids=name
)
def test_a_page_has_the_present_table(tables, page):
    text = page.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "run python docs/_ext/settings_tables.py"


def test_settings_in_settings_have_the_defaults_of_those_around(tables):
    text = tables.table("metarl.learners.metric.algorithms", "PrototypicalAlgorithm", "learner")
    view = PrototypicalAlgorithm().embedding.view
    assert view.tilt, "differs from the default of the class"
    for field in fields(view):
        (shown,) = re.findall(rf"`--learner.embedding.view.{field.name}` \| `(.*?)`", text)
        assert float(shown) == getattr(view, field.name), field.name
