"""A network from a file on the command line; its run is evaluated without the file."""

from pathlib import Path

import pytest
from torch import nn

from metarl.commands.evaluate import evaluate
from metarl.errors import CheckpointError, SettingsError
from metarl.lab.lookup import find_experiment
from metarl.lab.saved_run import reopened
from metarl.models import save_module

QUICK = ["--training.iterations", "1", "--training.meta-batch-size", "2", "--test-tasks", "2",
         "--training.eval-tasks", "2", "--training.device", "cpu"]  # fmt: skip
NETS = {
    "sine": (nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), []),
    "omniglot": (
        nn.Sequential(nn.Conv2d(1, 2, 3, stride=9), nn.Flatten(), nn.Linear(18, 5)),
        ["--learner.frozen", "--test-steps", "1"],
    ),
    "navigation2d": (
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)),
        ["--gradients.trajectories", "2", "--test-steps", "0"],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_it_trains_and_is_evaluated_without_the_file(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net, options = NETS[name]
    save_module(net, "net.safetensors")
    flag = "--policy.network" if name == "navigation2d" else "--network"
    find_experiment(name).main([*QUICK, *options, flag, "net.safetensors"])
    (tmp_path / "net.safetensors").unlink()
    with reopened("latest") as (components, *_):
        names = set(components.learner.state_dict())
        assert all(any(n.endswith(k) for n in names) for k in net.state_dict())
        assert any(p.any() for p in components.learner.parameters())
    if name != "sine":  # the others take long
        return
    evaluate(Path("latest"), test_tasks=2)
    assert "Checkpoint:" in capsys.readouterr().out
    find_experiment(name).main(["--resume", "latest", "--training.iterations", "2"])
    assert "2/2" in capsys.readouterr().err


def test_a_file_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        find_experiment("sine").main([*QUICK, "--network", "nothing.safetensors"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("algorithm", ["reconstruction", "prototypical", "nearest-neighbour"])
def test_a_network_that_a_metric_learner_would_ignore_is_refused(algorithm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--algorithm", algorithm, "--network", "resnet12", "--training.iterations", "0"]
    with pytest.raises(SettingsError, match=f"--network resnet12.*got {algorithm}"):
        find_experiment("omniglot").main(options)
