"""docs/algorithms.md: its code runs, its example is the file, its names are registered."""

import re
from pathlib import Path

import pytest

from metarl.adaptation.algorithms import GRADIENT_ALGORITHMS
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "metarl" / "adaptation" / "algorithms" / "anil.py"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CODE = [block for block in BLOCKS if "as_function(" not in block]


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_the_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"iterations=\d+", "iterations=2", code)
    exec(compile(few, "docs/algorithms.md", "exec"), {})
    if "print(" in code:
        assert re.search("tensor|torch", capsys.readouterr().out)


def test_the_example_is_the_file():
    (example,) = set(BLOCKS) - set(CODE)
    assert example == EXAMPLE.read_text(encoding="utf-8")


def test_its_table_has_every_algorithm():
    rows = re.findall(r"^\| (\[?`[^|]*) \|", PAGE.partition("## Options")[0], re.MULTILINE)[1:]
    names = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert names >= set(GRADIENT_ALGORITHMS.names())
    for experiment in ("sine", "omniglot", "half_cheetah"):
        if experiment in EXPERIMENTS.names():
            assert names >= set(find_experiment(experiment).configs)
