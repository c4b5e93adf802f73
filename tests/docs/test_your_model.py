"""docs/your_model.md: its code runs, and its tables name what there is."""

import re
from pathlib import Path

import pytest

from metarl.adaptation.loss_function import LOSS_KEYWORDS, METRIC_KEYWORDS
from metarl.lab.command_line import parse_settings
from metarl.lab.lookup import find_experiment
from metarl.tasks.metrics import METRICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your_model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = re.sub(r"(iterations|eval_every)=[1-9]\d*", r"\1=2", code)
    exec(compile(few, "docs/your_model.md", "exec"), {"__name__": "example"})
    for expected in re.findall(r"^print\(model.explain\(\)\)  # (.*?) \.\.\.$", code, re.MULTILINE):
        assert expected in capsys.readouterr().out


def test_it_names_every_metric_and_keyword():
    tables = PAGE.partition("## Tasks of different sizes")[0]
    names = set(re.findall(r"`(\w+)`", tables))
    assert names >= {*METRICS.names(), *LOSS_KEYWORDS, *METRIC_KEYWORDS}


def test_the_command_is_one():
    command = re.search(r"    metarl train sine (--training.*?)\n\n", PAGE, re.DOTALL)[1]
    arguments = command.replace("\\\n", " ").replace("'", "").split()
    settings, _ = parse_settings(find_experiment("sine").configs, "sine", arguments, "sine")
    assert settings.training.no_decay == ("*.bias",)
    assert settings.training.optimizer_options == ("betas=(0.9,0.99)",)


def test_only_the_adapters_of_the_example_move(capsys):
    (code,) = [block for block in BLOCKS if "LowRank" in block]
    exec(compile(code, "docs/your_model.md", "exec"), {"__name__": "page"})
    names = ["0.down.weight", "0.up.weight", "2.down.weight", "2.up.weight"]
    assert capsys.readouterr().out.strip() == str(names)
