"""The examples of docs/export.md run without torch, and its code runs."""

import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import GradientLearner
from metarl.adaptation.algorithms import MAML
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.files import METADATA, read_metadata
from metarl.models import MLP
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.tasks import Sine

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "export.md").read_text(encoding="utf-8")


def sine_export(generator, folder, to="onnx"):
    learner = GradientLearner(MAML(MLP((1, 4, 1), generator), 0.01))
    tasks = Sine(5, 10).sample(1, generator)
    export_adaptation(learner, folder, to, tasks=tasks)
    return tasks


def policy_export(generator, folder):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra onnx")
    family = Navigation2D()
    learner = PolicyLearner(MAML(policy_for(family, generator, (4,)), 0.1), family)
    export_adaptation(learner, folder)


@pytest.mark.slow
def test_the_program_in_cpp_adapts(generator, tmp_path):
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if root is None or shutil.which("cmake") is None:
        pytest.skip("needs cmake, and ONNXRUNTIME_ROOT: an unpacked release of ONNX Runtime")
    policy_export(generator, tmp_path / "exported")
    source = DOCS / "examples" / "cpp"
    options = [f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    for command in (
        ["cmake", "-S", source, "-B", "build", *options],
        ["cmake", "--build", "build"],
        ["build/adapt", "exported"],
    ):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
    returns = re.findall(r"after \d steps: return (-?\d+\.\d+)", result.stdout)
    assert len(returns) == 4 and len(set(returns)) == 4
    assert result.stderr == ""


def test_the_example_adapts_without_torch(generator, tmp_path):
    policy_export(generator, tmp_path / "exported")
    example = DOCS / "examples" / "adapt_without_torch.py"
    command = [sys.executable, example, "exported"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    returns = re.findall(r"after \d steps: return (-?\d+\.\d+)", result.stdout)
    assert len(returns) == 4 and len(set(returns)) == 4
    assert result.stderr == ""  # nor warnings of ONNX Runtime
    (tmp_path / "exported" / "step.onnx").write_bytes(b"x")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert result.returncode != 0 and "step.onnx" in result.stderr


@pytest.mark.slow
def test_the_code_of_the_page_runs(generator, tmp_path, monkeypatch):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra onnx")
    tasks = sine_export(generator, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"inputs": tasks.support.inputs[0].numpy(), "targets": tasks.support.targets[0].numpy()}
    names["new_inputs"] = np.ones((3, 1), np.float32)
    exec(code, names)
    assert names["outputs"].shape == (3, 1) and np.isfinite(names["loss"])


def test_the_page_names_the_keys_of_the_metadata(generator, tmp_path):
    sine_export(generator, tmp_path / "exported", "torch")
    keys = read_metadata(tmp_path / "exported").keys()
    table = PAGE.partition(f"### {METADATA}")[2].partition("## Use")[0]
    named = set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    assert keys <= {key for cell in named for key in re.findall(r"`(\w+)`", cell)}


def test_the_node_is_python_and_says_that_it_is_untested(tmp_path):
    node = DOCS / "examples" / "ros2" / "adaptive_policy_node.py"
    py_compile.compile(str(node), cfile=str(tmp_path / "node.pyc"), doraise=True)
    assert "Untested" in node.read_text(encoding="utf-8") and "**untested**" in PAGE
