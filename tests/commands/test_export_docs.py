"""The code and the commands of docs/other_libraries.md run."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from metarl.sb3.policies import global_seed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "other_libraries.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs_from_top_to_bottom(trained, metarl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    (metarl export .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        if "onnx" in command:
            pytest.importorskip("onnxruntime", reason="needs the extra onnx")
        run = str(trained["navigation2d"])
        words = shlex.split(command.replace("runs/navigation2d/maml/RUN", run))
        status, printed = metarl(*words[1:])
        assert status == 0, printed.err
    names: dict = {}
    with global_seed(0):
        exec("\n".join(BLOCKS), names)
    assert names["action"].shape == names["std"].shape == torch.Size([1, 2])
    (session,) = re.findall(r"^    (import onnxruntime\n(?:    .*\n)+)", PAGE, re.MULTILINE)
    with global_seed(0):
        values = {"observations": torch.zeros(3, 2).numpy()}
        exec(session.replace("\n    ", "\n"), values)
    assert values["action"].shape == (3, 2)
