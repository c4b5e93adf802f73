"""The wheel: every package is in it, and what it installs works outside of the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import metarl

ROOT = Path(__file__).resolve().parents[1]
VERSION = metarl.__version__  # `metarl` is also a command below
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TINY = (
    "--training.iterations", "2", "--training.meta-batch-size", "2", "--training.eval-every", "0",
    "--test-tasks", "3",
)  # fmt: skip

ADAPT = """
import sys, metarl, numpy as np
x = np.linspace(-5, 5, 10, dtype=np.float32).reshape(-1, 1)
adapter = metarl.load(sys.argv[1])
print("mse", adapter.adapt(x, np.sin(x)))
assert np.isfinite(np.asarray(adapter.predict(x))).all()
"""
FAMILIES = """
from metarl.sim import make_family
from metarl.sim.make import FAMILIES
for name in FAMILIES.names():
    if not name.startswith("MetaWorld"):  # a package that the wheel does not pull
        make_family(name)
        print(name)
"""


def test_every_package_is_listed():
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "metarl").rglob("__init__.py")]
    expected = [*(".".join(f.parts) for f in folders), "metarl_envs", "metarl_experiments"]
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(expected)


def test_every_experiment_is_an_entry_point():
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    points = PROJECT["project"]["entry-points"]["metarl.experiments"]
    assert points.keys() == scripts - {"__init__", "robot_configs"}
    assert all(value == f"metarl_experiments.{name}:EXPERIMENT" for name, value in points.items())


def test_the_version_is_in_one_place_and_cited():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "metarl.__version__"}
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    assert cited == metarl.__version__


@pytest.mark.slow
def test_the_archives_have_the_code_and_its_types_and_pass_twines_check(tmp_path):
    pytest.importorskip("twine", reason="needs the extra release")
    build = (sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT))
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    (source,) = tmp_path.glob("*.tar.gz")
    name = f"metarl-{metarl.__version__}"
    assert wheel.name == f"{name}-py3-none-any.whl" and source.name == f"{name}.tar.gz"
    twine = (sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(source))
    done = subprocess.run(twine, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr
    inside = zipfile.ZipFile(wheel).namelist()
    tops = {entry.partition("/")[0] for entry in inside}
    assert tops == {"metarl", "metarl_envs", "metarl_experiments", f"{name}.dist-info"}
    assert {"metarl/py.typed", "metarl_envs/py.typed", "metarl_experiments/py.typed"} <= {*inside}
    assert not [entry for entry in inside if "/tests/" in entry or "test_" in entry]
    with tarfile.open(source) as archive:
        files = {entry.partition("/")[2] for entry in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "metarl/py.typed"} <= files


@pytest.mark.slow
def test_the_wheel_trains_evaluates_plays_and_exports_outside_of_the_checkout(tmp_path):
    def run(*command):
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=1200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run(sys.executable, "-m", "build", "--wheel", "--outdir", "dist", str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", "env")
    python, metarl = (str(tmp_path / "env" / "bin" / name) for name in ("python", "metarl"))
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    run(python, "-m", "pip", "install", "--quiet", *constraints, f"{wheel}[onnx]")
    where = run(python, "-c", "import metarl, metarl_experiments.sine as s; print(s.__file__)")
    assert str(tmp_path / "env") in where
    assert run(metarl, "--version").split() == ["metarl", VERSION]
    installed = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in run(python, "-m", "pip", "list", "--format=freeze").split()
    }
    required = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    assert required <= installed
    assert "K=5" in run(metarl, "train", "sine", "--training.iterations", "50")
    run(metarl, "train", "sine", "--algorithm", "reptile", *TINY)
    run(metarl, "train", "navigation2d", *TINY, "--gradients.trajectories", "2", "--hidden", "8")
    assert "icml2017" in run(metarl, "evaluate", "latest")
    assert "goal (" in run(metarl, "play", "latest", "--test-tasks", "1")
    run(metarl, "export", "latest", "policy.onnx", "--to", "onnx", "--test-steps", "1")
    assert (tmp_path / "policy.onnx").stat().st_size > 0
    task = ("--env", "metarl/Navigation2D-v1", "--set", "task={'goal': [0.3, -0.2]}")
    assert "after" in run(metarl, "adapt", "latest", *task, "--episodes", "2")
    assert (tmp_path / "adapted" / "adapted.safetensors").is_file()
    (sine,) = (tmp_path / "runs" / "sine" / "reptile").iterdir()
    assert "K=5" in run(metarl, "evaluate", str(sine))
    assert "mse" in run(python, "-c", ADAPT, str(sine))
    run(metarl, "export", str(sine), "sine.onnx", "--to", "onnx", "--test-steps", "1")
    assert (tmp_path / "sine.onnx").stat().st_size > 0
    assert "half_cheetah" in run(metarl, "list")
    points = PROJECT["project"]["entry-points"]
    families = {n for n in points["metarl.task_distributions"] if not n.startswith("MetaWorld")}
    assert set(run(python, "-c", FAMILIES).split()) == families
