"""The code of docs/your_model.md runs, and what it says of ways and names is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"iterations=\d+", "iterations=2", code)
    exec(compile(few, "docs/your_model.md", "exec"), {"__name__": "page"})
    for expected in re.findall(r"^print\(model.explain\(\)\)  # (.*?) \.\.\.$", code, re.MULTILINE):
        assert expected in capsys.readouterr().out


def test_only_the_adapters_of_the_example_move(capsys):
    (code,) = [block for block in BLOCKS if "LowRank" in block]
    exec(compile(code, "docs/your_model.md", "exec"), {"__name__": "page"})
    names = ["0.down.weight", "0.up.weight", "2.down.weight", "2.up.weight"]
    assert capsys.readouterr().out.strip() == str(names)
