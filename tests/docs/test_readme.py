"""The code of the README runs, and what it links to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"iterations=\d+", "iterations=2", code)
    exec(compile(few, "README.md", "exec"), {})
    if "print(" in code:
        assert "tensor(" in capsys.readouterr().out


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_commands_name_scripts_that_are_there():
    scripts = set(re.findall(r"python ((?:experiments|benchmarks)/\w+\.py)", README))
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script
