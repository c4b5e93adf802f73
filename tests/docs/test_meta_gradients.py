"""The code of docs/meta_gradients.md runs, and its table names the surrogates."""

import re
from pathlib import Path

from metarl.rl.surrogates import SURROGATES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "meta_gradients.md").read_text("utf-8")


def test_the_code_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/meta_gradients.md", "exec"), {})
    assert "0." in capsys.readouterr().out


def test_its_table_has_every_surrogate():
    table = PAGE.partition("## Measured")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(SURROGATES.names())
