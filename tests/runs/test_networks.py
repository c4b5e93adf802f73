"""Ordinary modules in run folders: opened again without their code."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import CheckpointError, SettingsError
from metarl.learners import Prototypical
from metarl.models import MLP, save_module
from metarl.runs.networks import NETWORKS, load_network
from metarl.tasks import FewShotData, Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.learner_file import read_learner_file
from tests.models.modules.nets import Branches

SETTINGS = TrainingSettings(iterations=2, meta_batch_size=2, eval_every=0, device="cpu")


def trained(learner, folder, tasks=None):
    loop = OuterLoop(learner, tasks or Sine(), SETTINGS, folder)
    loop.run()
    loop.logger.close()
    return loop


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def test_a_run_gives_its_module_with_the_trained_weights(tmp_path):
    net = module()
    loop = trained(MAML(net, inner_lr=0.01), tmp_path / "run")
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    first = loop.checkpoints.folder / "step_000000"
    for path in (tmp_path / "run", loop.checkpoints.latest()):
        torch.testing.assert_close(load_network(path).eval()(x), net.eval()(x))
    assert (load_network(first).eval()(x) - net(x)).abs().max() > 1e-4
    net.train()
    learner = GradientLearner(MAML(load_network(tmp_path / "run"), inner_lr=0.01))
    tasks = Sine().sample(2, torch.Generator().manual_seed(0))
    results = [list(each.evaluate(tasks, 1, torch.Generator())) for each in (learner, loop.learner)]
    torch.testing.assert_close(*results)


def test_a_metric_learner_gives_its_embedding(tmp_path):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    tasks = FewShotData(x, torch.arange(8).repeat(5), way=3, shots=1, queries=2)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    trained(Prototypical(net), tmp_path / "run", tasks)
    loaded = load_network(tmp_path / "run", "embedding.net").eval()
    torch.testing.assert_close(loaded(x), net.eval()(x))
    with pytest.raises(SettingsError, match=r"one of embedding.net; got 'model'"):
        load_network(tmp_path / "run", "model")


def test_a_run_resumed_into_another_folder_opens_by_itself(tmp_path):
    trained(MAML(module(), inner_lr=0.01), tmp_path / "first")
    net = module()
    longer = replace(SETTINGS, iterations=4)  # no iteration of these is logged but the first
    loop = OuterLoop(MAML(net), Sine(), longer, tmp_path / "next", resume=tmp_path / "first")
    loop.run()
    loop.logger.close()
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_network(tmp_path / "next").eval()(x), net.eval()(x))
    ranges = [read_learner_file(tmp_path / name)["data"] for name in ("first", "next")]
    assert ranges[0]["input_shape"] == ranges[1]["input_shape"] == [1]


def test_a_run_resumed_with_changed_code_stores_its_network_again(tmp_path):
    trained(MAML(module(), inner_lr=0.01), tmp_path / "run")
    net = module()
    net[2] = nn.Sigmoid()
    longer = replace(SETTINGS, iterations=4)
    loop = OuterLoop(MAML(net), Sine(), longer, tmp_path / "run", resume=tmp_path / "run")
    loop.run()
    loop.logger.close()
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_network(tmp_path / "run").eval()(x), net.eval()(x))


def test_what_is_not_stored_is_asked_for_again(tmp_path, capsys):
    trained(MAML(nn.Sequential(nn.Linear(1, 3), Branches(), nn.Linear(3, 1))), tmp_path / "run")
    assert "its structure is not stored with the run" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"`network=`.*--script PATH"):
        load_network(tmp_path / "run")
    trained(MAML(MLP((1, 4, 1), torch.Generator())), tmp_path / "own")
    assert not (tmp_path / "own" / NETWORKS).exists()
    with pytest.raises(SettingsError, match="its networks are MetaRL's own"):
        load_network(tmp_path / "own")


def test_damaged_files_are_refused(tmp_path):
    trained(MAML(module(), inner_lr=0.01), tmp_path / "run")
    path = tmp_path / "run" / NETWORKS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_network(tmp_path / "run")
    save_module(nn.Linear(3, 2), path)
    with pytest.raises(SettingsError, match="Expected the name of a module"):
        load_network(tmp_path / "run", "model")
