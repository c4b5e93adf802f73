"""The code of docs/your_data.md runs, and its settings exist."""

import inspect

import pytest

from metarl.tasks import FewShotData, ImageFolder
from tests.docs.pages import DOCS, python_blocks

BLOCKS = python_blocks(DOCS / "your_data.md")


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/your_data.md", "exec"), names)
    names["tasks"].close()


@pytest.mark.parametrize("function", [FewShotData, ImageFolder])
def test_images_and_arrays_have_the_settings_for_small_classes(function):
    options = set(inspect.signature(function).parameters)
    assert {"small_classes", "min_images", "fewest_shots", "augment_support"} <= options
