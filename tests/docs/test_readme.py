"""The code of the README runs, and its commands name experiments and scripts that exist."""

import re
from pathlib import Path

import pytest

from metarl.lab.installed import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"iterations=\d+", "iterations=2", code)
    made = {}
    exec(compile(few, "README.md", "exec"), made)  # an error fails the test
    assert made.keys() > {"__builtins__"}


def test_it_stays_short():
    assert README.count("\n") <= 150


def test_its_commands_name_experiments_that_are_installed():
    names = set(re.findall(r"metarl train (\w+)[ `]", README)) - {"my"}
    assert {"sine", "half_cheetah", "custom"} <= names <= set(EXPERIMENTS.names())


def test_its_commands_name_scripts_that_exist():
    scripts = re.findall(r"python ((?:experiments|benchmarks)/\w+\.py)", README)
    modules = re.findall(r"python -m (benchmarks\.\w+)", README)
    assert scripts and modules
    for script in (*scripts, *(f"{module.replace('.', '/')}.py" for module in modules)):
        assert (ROOT / script).is_file(), script
