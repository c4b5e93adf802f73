"""The code of docs/your_robot.md runs, its URDF is its MJCF, and its arm learns to adapt."""

import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from metarl.lab.lookup import script_experiment
from metarl.runs.eval_file import read_curves
from metarl.sim import MujocoTasks, make_vec
from metarl.sim.mujoco.changes import ModelFactor
from tests.experiments.test_control_scripts import leave_out_figures

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_robot.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def names():
    found = {"__name__": "my_robot"}
    exec(compile("\n".join(BLOCKS), "docs/your_robot.md", "exec"), found)
    return found


def test_the_family_has_less_than_forty_lines():
    code = BLOCKS[0].partition("class Arms")[2].partition("check_family")[0]
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) < 55


def test_the_urdf_moves_as_the_mjcf(names):
    parameters = {"x": names["Arms"].parameters["x"], "y": names["Arms"].parameters["y"]}
    states = []
    for kind in ("Arms", "ArmsOfUrdf"):
        env = make_vec(names[kind](parameters=parameters), 4, device="cpu", autoreset="disabled")
        env.reset(seed=0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            env.step(2 * torch.rand(4, 2, generator=generator) - 1)
        states.append(torch.cat([env.snapshot(w)[0]["qpos"] for w in range(4)]))
    assert (states[0] - states[1]).abs().max() < 0.02 < states[0].abs().max()


def test_every_change_of_the_table_is_one_of_the_package():
    import metarl.sim

    rows = PAGE.partition("| entry |")[2].partition("\n\n")[0]
    for name in re.findall(r"`([A-Z]\w+)[(`]", rows):
        assert name in metarl.sim.__all__, name
    firsts = re.findall(r"^\| `(\w+)", rows, re.MULTILINE)
    factors = [issubclass(getattr(metarl.sim, name), ModelFactor) for name in firsts]
    assert "The first four rows are factors" in PAGE
    assert factors == [True] * 4 + [False] * (len(factors) - 4)


def test_the_methods_with_defaults_have_the_arguments_of_the_page():
    (paragraph,) = re.findall(r"These methods have defaults.*?\n\n", PAGE, re.DOTALL)
    methods = re.findall(r"`(\w+)\(([\w, ]+)\)`", paragraph)
    assert len(methods) > 5
    for name, arguments in methods:
        method = getattr(MujocoTasks, name)
        assert not getattr(method, "__isabstractmethod__", False)
        assert list(inspect.signature(method).parameters) == ["self", *arguments.split(", ")]


@pytest.mark.slow
def test_the_command_trains_an_arm_that_adapts(tmp_path, monkeypatch):
    (tmp_path / "my_robot.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    leave_out_figures(monkeypatch)
    monkeypatch.delitem(sys.modules, "my_robot", raising=False)
    command = re.search(r"metarl train custom (.*?)\n    metarl play", PAGE, re.DOTALL)[1]
    arguments = [*shlex.split(command.replace("\\\n", " ")), "--training.eval-every", "0"]
    monkeypatch.setattr("sys.argv", ["custom.py", *arguments])
    script_experiment(ROOT / "experiments" / "custom.py").main()
    (folder,) = (tmp_path / "runs" / "custom" / "maml").iterdir()
    (line,) = read_curves(folder)
    before, once, *_ = line["mean"]
    assert once > before + 3
