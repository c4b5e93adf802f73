"""Losses and metrics in the settings of an experiment: stored by name, never looked up."""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import nn

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.errors import CheckpointError, SettingsError
from metarl.lab.command_line import parse_settings, saved_settings, settings_from
from metarl.runs.run_folder import to_json
from metarl.training import TrainingSettings

HUBER = partial(F.huber_loss, reduction="none")


@dataclass(frozen=True)
class Settings:
    """Settings of an experiment."""

    algorithm: str = "maml"
    learner: MAMLAlgorithm = field(default_factory=MAMLAlgorithm)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    runs: Path = Path("runs")
    resume: str | None = None


OWN = Settings(learner=MAMLAlgorithm(loss=HUBER, metric="mae"))


def test_a_function_is_stored_by_name_and_taken_from_the_experiment():
    stored = json.loads(json.dumps(to_json(OWN)))
    assert stored["learner"]["loss"] == {"function": "torch.nn.functional.huber_loss"}
    assert stored["learner"]["metric"] == "mae"
    assert settings_from(OWN, stored) == OWN
    other = replace(OWN, learner=replace(OWN.learner, inner_lr=0.5))
    assert settings_from(OWN, json.loads(json.dumps(to_json(other)))) == other
    module = to_json(MAMLAlgorithm(loss=nn.MSELoss(reduction="none")))
    assert module["loss"] == {"function": "torch.nn.modules.loss.MSELoss"}


@pytest.mark.parametrize("loss", [None, F.l1_loss])
def test_another_function_is_refused(loss, tmp_path):
    changed = replace(OWN, learner=replace(OWN.learner, loss=loss))
    with pytest.raises(SettingsError, match=r"huber_loss' as `loss`, and the experiment has"):
        settings_from(changed, json.loads(json.dumps(to_json(OWN))))
    (tmp_path / "config.json").write_text(json.dumps(to_json(OWN)))
    with pytest.raises(CheckpointError, match="give the experiment that function"):
        saved_settings({"maml": changed}, tmp_path)


def test_settings_without_them_are_those_of_old_runs():
    old = to_json(Settings())
    for name in ("loss", "outer_loss", "metric"):
        assert old["learner"].pop(name) is None
    for name in ("weight_decay", "optimizer_options", "rate_factors", "warmup", "no_decay"):
        old["training"].pop(name)
    assert settings_from(Settings(), json.loads(json.dumps(old))) == Settings()


def test_the_command_line_shows_no_functions_and_keeps_them(capsys):
    arguments = ["--learner.inner-lr", "0.3", "--training.optimizer", "adamw"]
    arguments += ["--training.weight-decay", "0.1", "--training.no-decay", "*.bias", "rule.*"]
    settings, _ = parse_settings({"maml": OWN}, "own", arguments, "own")
    assert settings.learner.loss is HUBER and settings.learner.inner_lr == 0.3
    assert settings.training.no_decay == ("*.bias", "rule.*")
    with pytest.raises(SystemExit):
        parse_settings({"maml": OWN}, "own", ["--help"], "own")
    shown = capsys.readouterr().out
    assert "--learner.inner-lr" in shown and "--learner.frozen" in shown
    assert "learner.loss" not in shown and "learner.metric" not in shown
    assert "--training.optimizer-options" in shown
