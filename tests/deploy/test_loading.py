"""A run opens without the script that made it; what it cannot hold is asked for."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.bandit_strategies import RandomArmAlgorithm
from metarl_envs.navigation import Navigation2D
from torch import nn

import metarl
from metarl.adaptation import MAML, Adaptation, GradientLearner, MetaSGD
from metarl.adaptation.algorithms import LSTMMetaLearnerAlgorithm, ReptileAlgorithm
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.deploy.adapters.learner_building import build_learner
from metarl.deploy.loading import adapter_of
from metarl.errors import CheckpointError, SettingsError, ShapeError, TaskError
from metarl.learners import (
    Prototypical,
    Recurrent,
    Siamese,
    StreamReader,
    Thumbnail,
    ZeroShotPrototypes,
)
from metarl.learners.images.embeddings import ConvEmbedding, ImageShape
from metarl.learners.memory.algorithms import MANNAlgorithm, MetaNetAlgorithm
from metarl.learners.metric import algorithms as metric
from metarl.learners.metric.of_modules import embedding_of
from metarl.learners.problem import ImageProblem
from metarl.models import MLP, Conv4
from metarl.rl import PolicyGradientSettings, policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.sb3.ppo import PPOAlgorithm
from metarl.sim import GymTasks, Uniform, make_family
from metarl.sim.arguments import with_task
from metarl.tasks import Sine
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.streams import LabelCode
from metarl.training.learner_file import LEARNER_FILE, checksum, described_learner
from tests.deploy.conftest import make_policy_learner, train

PROBLEM = ImageProblem(ImageShape(1, 28), 3, 4, 6, torch.Generator().manual_seed(1))
IMAGES = {
    "prototypical": metric.PrototypicalAlgorithm(),
    "matching-fce": metric.MatchingAlgorithm(context_steps=2),
    "relation": metric.RelationAlgorithm(),
    "siamese": metric.SiameseAlgorithm(units=8),
    "pyramid": metric.PrototypicalAlgorithm(metric.EmbeddingSettings("pyramid")),
    "reconstruction": metric.ReconstructionAlgorithm(views=2),
    "classifier": metric.FeatureClassifierAlgorithm(),
    "mann": MANNAlgorithm(),
    "metanet": MetaNetAlgorithm(features=8),
}


def copies(learner, **given):
    """The learner that its description builds, with its weights."""
    data = json.loads(json.dumps(described_learner(learner)))
    copy = build_learner(data, **given)
    copy.load_state_dict(learner.state_dict())
    return copy


@pytest.mark.parametrize("name", IMAGES)
def test_learners_of_images_are_described(name):
    learner = IMAGES[name].build(PROBLEM)
    assert type(copies(learner)) is type(learner)


@pytest.mark.parametrize(
    "algorithm", [ReptileAlgorithm(batch_size=3), LSTMMetaLearnerAlgorithm(steps=2, units=3)]
)
def test_algorithms_are_described_with_their_options(algorithm, generator):
    network = Conv4(3, generator, filters=2)
    learner = GradientLearner(algorithm.clipped_adaptation(network, generator))
    copy = copies(learner)
    assert copy.adaptation.algorithm == algorithm
    assert copy.adaptation.batch_size == learner.adaptation.batch_size


FAMILIES = {
    "bandit": lambda: make_family("Bandit-v1"),
    "cheetah": lambda: make_family("HalfCheetahVelocity-v1"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_policies_are_described_with_their_units(name):
    family = FAMILIES[name]()
    learner = make_policy_learner(
        family, layer_norm=True, scale_actions=True, normalize_observations=True
    )
    copy: Any = copies(learner)
    observations = torch.randn(1, 4, family.observation_space.shape[0])
    params = {n: p.unsqueeze(0) for n, p in learner.policy.named_parameters()}
    a, b = (one.policy.distribution(params, observations) for one in (learner, copy))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert copy.family.name == family.name and copy.family.horizon == family.horizon
    assert (copy.policy.units is None) == (learner.policy.units is None)


@pytest.mark.parametrize("memory", ["gru", "attention"])
def test_recurrent_policies_are_described_with_their_memory(memory, generator):
    problem = ControlProblem(
        Navigation2D(horizon=3), generator, PolicyGradientSettings(1, clip=0.2), hidden=(4,)
    )
    algorithm = RL2Algorithm(2, units=8, memory=memory, heads=2, separate_values=True)
    learner = algorithm.build(problem)
    copy: Any = copies(learner)
    policy = copy.policy
    assert policy.history.memory.width == 8 and copy.settings == algorithm
    assert (policy.attention is None) == (memory == "gru")
    assert memory == "gru" or policy.attention.steps == 6


def test_a_run_opens_as_the_learner_that_was_trained(sine_run):
    learner, folder = sine_run
    adapter = metarl.load(folder)
    for name, value in learner.state_dict().items():
        assert torch.equal(adapter.learner.state_dict()[name], value)
    assert adapter.origin.iteration == 2
    assert adapter.origin.ranges["input_shape"] == [1]


class Net(nn.Module):
    """A module that no run can store: its forward depends on numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x) if self.layer.weight.sum() < 1e9 else x


def test_a_module_of_the_user_opens_without_its_code(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    learner, folder = train(GradientLearner(MAML(net, inner_lr=0.02)), Sine(5, 5), tmp_path)
    adapter = metarl.load(folder)
    assert adapter.learner.adaptation.rule.lr == 0.02
    for name, value in learner.state_dict().items():
        assert torch.equal(adapter.learner.state_dict()[name], value)
    x = torch.randn(1, 4, 1)
    adapter.adapt(x[0].numpy(), x[0].numpy())
    support = Examples(x, x)
    *_, expected = learner.adapt(support, 1, torch.Generator())
    outputs = learner.predict(expected, x)[0]
    np.testing.assert_allclose(adapter.predict(x[0].numpy()), outputs, rtol=1e-5)


class Blobs:
    """Two classes of points far apart, of `size` numbers each."""

    def __init__(self, size=16):
        self.size = size

    def sample(self, num_tasks, generator):
        labels = torch.arange(4).expand(num_tasks, -1) % 2
        inputs = torch.randn(num_tasks, 4, self.size, generator=generator)
        examples = Examples(inputs + 9 * labels.unsqueeze(2), labels)
        return TaskBatch(examples, examples)


def test_modules_of_policies_and_metric_learners_open_too(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))
    family = Navigation2D(horizon=3)
    policy = policy_for(family, torch.Generator(), network=net)
    learner = PolicyLearner(MAML(policy), family, PolicyGradientSettings(2))
    _, folder = train(learner, family, tmp_path / "policy")
    adapter = metarl.load(folder, explore=False)
    with torch.no_grad():
        expected = net(torch.ones(1, 2))[0].clamp(-1, 1)
    np.testing.assert_allclose(adapter.act(np.ones(2)), expected, rtol=1e-5)
    metric = Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
    _, folder = train(metric, Blobs(), tmp_path / "metric")
    adapter = metarl.load(folder)
    tasks = Blobs().sample(1, torch.Generator().manual_seed(5))
    adapter.adapt(tasks.support.inputs[0], tasks.support.targets[0])
    assert (adapter.predict(tasks.query.inputs[0]) == tasks.query.targets[0].numpy()).all()


def test_a_module_that_no_run_can_store_is_handed_in(tmp_path):
    learner = GradientLearner(MAML(Net(), inner_lr=0.02))
    _, folder = train(learner, Sine(5, 5), tmp_path)
    with pytest.raises(SettingsError, match=r"metarl.load\(run, network=net\)"):
        metarl.load(folder)
    adapter = metarl.load(folder, network=Net())
    assert adapter.learner.adaptation.rule.lr == 0.02
    assert torch.equal(adapter.learner.model.net.layer.weight, learner.model.net.layer.weight)
    _, folder = train(Prototypical(Net()), Blobs(1), tmp_path / "metric")
    with pytest.raises(SettingsError, match=r"metarl.load\(run, learner=learner\)"):
        metarl.load(folder)
    assert metarl.load(folder, learner=Prototypical(Net())).origin.iteration == 2


def test_a_module_of_a_policy_that_no_run_can_store_is_handed_in(tmp_path):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 1)
        )

    family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=4)
    policy = policy_for(family, torch.Generator(), network=(net := build()))
    learner = PolicyLearner(MAML(policy), family, PolicyGradientSettings(2))
    _, folder = train(learner, family, tmp_path)
    with pytest.raises(SettingsError, match=r"metarl.load\(run, network=net\)"):
        metarl.load(folder)
    seen = np.array([0.5, -0.5, 3.0], np.float32)
    with torch.no_grad():
        own = policy.units.observe(torch.from_numpy(seen))
        expected = policy.units.act(net(own[None])[0]).clamp(-2, 2)
    for network in (build(), policy_for(family, torch.Generator(), network=build())):
        adapter = metarl.load(folder, network=network, explore=False)
        np.testing.assert_allclose(adapter.act(seen), expected, rtol=1e-5)


def test_metric_learners_of_the_library_are_described():
    embedded = Siamese(ConvEmbedding(ImageShape(1, 28), torch.Generator(), 2), 2, torch.Generator())
    assert type(copies(embedded)) is type(embedded)


def test_an_adaptation_put_together_by_hand_asks_for_the_learner(generator):
    adaptation = Adaptation(MLP((1, 1), generator), GradientDescent(0.1), QueryLoss())
    with pytest.raises(SettingsError, match="put together by hand"):
        build_learner(described_learner(GradientLearner(adaptation)))


def test_a_loss_of_the_user_asks_for_the_learner(generator):
    network = MLP((1, 1), generator)
    learner = GradientLearner(MAML(network, loss=lambda o, t: (o - t).abs()))
    with pytest.raises(SettingsError, match="learner=learner"):
        build_learner(described_learner(learner))


def test_a_wrong_network_is_refused(sine_run, generator):
    with pytest.raises(CheckpointError, match="are not those of this learner"):
        metarl.load(sine_run[1], network=MLP((1, 9, 1), generator))


def edited(folder, tmp_path, change, *, signed=True):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / LEARNER_FILE
    content = json.loads(path.read_text())
    change(content)
    if signed:
        version, content = content.pop("format_version"), content
        content.pop("sha256")
        content = {"format_version": version, "sha256": checksum(content), **content}
    path.write_text(json.dumps(content))
    return copy


def test_an_altered_description_is_refused(sine_run, tmp_path):
    def change(content):
        content["learner"]["algorithm"]["options"]["inner_lr"] = 5.0

    with pytest.raises(CheckpointError, match="was altered"):
        metarl.load(edited(sine_run[1], tmp_path, change, signed=False))


def test_a_newer_description_is_refused(sine_run, tmp_path):
    def change(content):
        content["format_version"] = 9

    with pytest.raises(CheckpointError, match=r"version 9.*Install a newer"):
        metarl.load(edited(sine_run[1], tmp_path, change))


@pytest.mark.parametrize(
    "network",
    [{"class": "os.system", "arguments": {}}, {"class": "MLP", "arguments": {"size": 3}}, 7, {}],
)
def test_what_is_not_known_is_refused_and_not_imported(network, sine_run, tmp_path):
    def change(content):
        content["learner"]["network"] = network

    with pytest.raises((CheckpointError, SettingsError)):
        metarl.load(edited(sine_run[1], tmp_path, change))


@pytest.mark.parametrize(
    "change",
    [
        {"learner": None}, {"learner": []}, {"data": None}, {"data": {"labels": 1}},
        {"data": {"input_type": "load"}}, {"data": {"input_shape": [-1]}},
        {"data": {"inputs": {"low": [0.0]}}}, {"data": {"classes": 1e400}},
    ],
)  # fmt: skip
def test_signed_descriptions_of_other_types_are_refused(change, sine_run, tmp_path):
    with pytest.raises(CheckpointError, match="is not usable"):
        metarl.load(edited(sine_run[1], tmp_path, lambda content: content.update(change)))


def test_a_signed_shape_that_does_not_suit_the_network_is_named(sine_run, tmp_path):
    def change(content):
        content["data"] = {"input_shape": []}

    adapter = metarl.load(edited(sine_run[1], tmp_path, change))
    with pytest.raises(ShapeError, match=r"Expected inputs \[T, N, \*\] of 1 numbers each"):
        adapter.adapt(np.zeros(5, np.float32), np.zeros((5, 1), np.float32))


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("family", "horizon", 0), ("family", "horizon", "six"), ("family", "step_seconds", -1),
        ("family", "name", None), (None, "observation_space", None), (None, "action_space", 3),
    ],
)  # fmt: skip
def test_signed_descriptions_of_impossible_worlds_are_refused(
    place, name, value, point_run, tmp_path
):
    def change(content):
        learner = content["learner"]
        (learner if place is None else learner[place])[name] = value

    with pytest.raises((CheckpointError, SettingsError)):
        metarl.load(edited(point_run[1], tmp_path, change))


def test_altered_weights_are_refused(sine_run, tmp_path):
    copy = shutil.copytree(sine_run[1], tmp_path / "copy")
    for path in copy.glob("checkpoints/*/weights.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(CheckpointError):
        metarl.load(copy)


@pytest.mark.slow
def test_a_run_without_a_description_opens_by_its_experiment(trained, tmp_path):
    copy = shutil.copytree(trained["sine"], tmp_path / "old")
    (copy / LEARNER_FILE).unlink()
    adapter = metarl.load(copy)
    x = np.linspace(-1, 1, 5)
    assert adapter.adapt(x[:, None], x[:, None]).examples == 5


def test_learners_with_learned_rates_keep_them(tmp_path, generator):
    network = MLP((1, 4, 1), generator)
    learner = GradientLearner(MetaSGD(network, generator))
    copy = copies(learner)
    for a, b in zip(learner.rule.parameters(), copy.rule.parameters(), strict=True):
        assert torch.equal(a, b)


class Described(Blobs):
    """Two classes that a number each describes; in evaluation without examples."""

    def sample(self, num_tasks, generator):
        tasks = super().sample(num_tasks, generator)
        numbers = torch.tensor([[-1.0], [1.0]]).expand(num_tasks, 2, 1)
        return TaskBatch(tasks.support, tasks.query, {"descriptions": numbers})


def test_prototypes_of_descriptions_open_and_need_no_examples(tmp_path):
    torch.manual_seed(0)
    embedding, describe = nn.Sequential(nn.Linear(16, 3)), nn.Sequential(nn.Linear(1, 3))
    learner = ZeroShotPrototypes(embedding_of(embedding), describe, count=2.0)
    _, folder = train(learner, Described(), tmp_path)
    adapter = metarl.load(folder)
    tasks = Described().sample(1, torch.Generator().manual_seed(5))
    empty = Examples(tasks.support.inputs[:, :0], tasks.support.targets[:, :0])
    query, numbers = tasks.query.inputs[0].numpy(), [[-1.0], [1.0]]
    for support, given in ((empty, ()), (tasks.support, [t[0] for t in tasks.support[:2]])):
        report = adapter.adapt(*given, descriptions=numbers)
        assert report.examples == support.targets.numel()
        assert (report.loss_before is None) == (not given)
        *_, expected = learner.adapt(support, 0, torch.Generator(), tasks.info)
        scores = learner.predict(expected, tasks.query.inputs)[0]
        np.testing.assert_allclose(adapter.outputs(query), scores, rtol=1e-5, atol=1e-5)
        assert (adapter.predict(query) == scores.argmax(1).numpy()).all()
    adapter.adapt(query[:1], [1], descriptions=numbers, described=[True, False])
    refused = [
        ((), {}, SettingsError, "`descriptions`"),
        ((query, [0, 1, 0, 2]), {"descriptions": numbers}, TaskError, "from 0 to 1"),
        ((), {"descriptions": [1.0]}, ShapeError, r"descriptions \[way, D\]"),
        ((), {"descriptions": [[np.nan]]}, ShapeError, "finite descriptions"),
    ]
    for given, options, error, message in refused:
        with pytest.raises(error, match=message):
            adapter.adapt(*given, **options)


def test_descriptions_are_refused_by_others(sine_run):
    with pytest.raises(SettingsError, match="no use for them"):
        metarl.load(sine_run[1]).adapt([0.0], [0.0], descriptions=[[1.0]])


def test_streams_strategies_and_ppo_say_why_they_do_not_open(generator):
    code = LabelCode(1, 3)
    network = Recurrent(4 + code.width, code.width, generator, 5)
    stream = StreamReader(Thumbnail(ImageShape(1, 2), 2), network, code)
    problem = ControlProblem(Bandit(), generator, PolicyGradientSettings(1), ())
    strategy, ppo = RandomArmAlgorithm().build(problem), PPOAlgorithm().build(problem)
    refused = (stream, "whole streams"), (strategy, "fixed rule"), (ppo, "no start")
    for learner, reason in refused:
        with pytest.raises(SettingsError, match=f"nothing to load.*{reason}"):
            copies(learner)
        with pytest.raises(SettingsError, match=reason):
            adapter_of(learner)


def test_an_oracle_is_refused():
    family = Navigation2D(horizon=3)
    generator = torch.Generator()
    spaces = with_task(family.observation_space, 2), family.action_space
    learner = PolicyLearner(MAML(policy_for(spaces, generator)), family, observe_task=True)
    with pytest.raises(SettingsError, match="oracle"):
        build_learner(described_learner(learner))


def test_runs_in_the_home_folder(sine_run, monkeypatch):
    _, folder = sine_run
    monkeypatch.setenv("HOME", str(folder.parent))
    assert metarl.load(f"~/{folder.name}").origin.iteration == 2
    with pytest.raises(SettingsError, match="Expected `run` to be a path, got None"):
        metarl.load(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_a_run_keeps_its_type_under_another_default_of_torch(own, tmp_path):
    other = {torch.float32: torch.float64, torch.float64: torch.float32}[own]
    x = np.linspace(-3, 3, 8)
    try:
        torch.set_default_dtype(own)
        network = MLP((1, 8, 1), torch.Generator().manual_seed(0))
        _, folder = train(GradientLearner(MAML(network, inner_lr=0.01)), Sine(5, 5), tmp_path)
        expected = metarl.load(folder)
        report = expected.adapt(x, np.sin(x))
        torch.set_default_dtype(other)
        adapter = metarl.load(folder)
        assert {p.dtype for p in adapter.learner.parameters()} == {own}
        assert adapter.adapt(x, np.sin(x)).loss_after == pytest.approx(report.loss_after)
        assert adapter.predict(x).dtype == expected.predict(x).dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_inference_mode_and_another_default_device_are_named(point_run):
    with torch.inference_mode(), pytest.raises(SettingsError, match="inference_mode"):
        metarl.load(point_run[1])
    torch.set_default_device("meta")
    try:
        with pytest.raises(SettingsError, match="default device to be the CPU, it is meta"):
            metarl.load(point_run[1])
    finally:
        torch.set_default_device(None)
