"""Runs made by MetaRL 0.1, one of each experiment and kind of learner, still open."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metarl.lab.command_line import saved_settings
from metarl.lab.saved_run import load_experiment, reopened
from metarl.rl.trials.recurrent_policy import HISTORY
from metarl.runs.eval_file import read_curves
from metarl.runs.run_search import ResumePoint

RUNS = Path(__file__).parent / "runs_of_0_1"
NOT_IN_0_1 = {"cart_pole", "digits", "meta_world"}
FOLDERS = sorted(path.parent for path in RUNS.glob("*/*/config.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_it_opens_with_its_weights_and_gives_the_same_numbers(folder, tmp_path):
    with reopened(folder, out=tmp_path) as (components, loop, checkpoint):
        weights = load_file(checkpoint / "weights.safetensors")
        assert checkpoint.is_relative_to(folder)
        learned = loop.learner.state_dict()
        assert len(learned) == len(weights)
        for name, value in weights.items():
            name = name.replace("adaptation.model.", "policy.").replace("adaptation.", "")
            if name not in learned:  # of a recurrent policy
                name = name.replace("policy.", f"policy.{HISTORY}")
            assert torch.equal(learned[name], value), name
        components.report(loop)
    noted = [line for line in read_curves(folder) if line["split"] != "validation"]
    for old, new in zip(noted, read_curves(tmp_path), strict=True):
        new.pop("first_step", None)  # not in 0.1, like the two statistics
        assert new.keys() - old.keys() == {"lowest_tenth", "highest_tenth"}
        assert old.keys() <= new.keys()
        # Contacts of the ant round differently on other processors.
        assert new["mean"] == pytest.approx(
            old["mean"], rel=1e-2 if "ant" in folder.parts else 1e-4
        )


@pytest.mark.parametrize("name", ["sine/lstm", "navigation2d/maml", "mann/mann"])
def test_it_can_be_resumed(name, tmp_path):
    folder = Path(shutil.copytree(RUNS / name, tmp_path / "run"))
    experiment = load_experiment(folder)
    settings = saved_settings(experiment.configs, folder)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    loop = experiment.open(settings, experiment.build(settings), ResumePoint(folder, checkpoint))
    loop.logger.close()
    assert loop.iteration == 4


def test_there_is_one_of_each_experiment_of_0_1():
    experiments = {json.loads((f / "script.json").read_text())["experiment"] for f in FOLDERS}
    scripts = {path.stem for path in Path("experiments").glob("*.py")}
    assert experiments == scripts - NOT_IN_0_1 - {"__init__", "robot_configs"}
