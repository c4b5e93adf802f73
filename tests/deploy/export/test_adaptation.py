"""Exported adaptations do what the learners do, in ONNX Runtime and as torch programs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs.bandit import Bandit
from metarl_envs.navigation import Navigation2D
from torch import nn

from metarl.adaptation import MAML, GradientLearner, LSTMMetaLearner
from metarl.adaptation.algorithms import (
    ANILAlgorithm,
    LearnedOptimizerAlgorithm,
    LSTMMetaLearnerAlgorithm,
    MAMLAlgorithm,
    MAMLPlusPlusAlgorithm,
    MetaSGDAlgorithm,
    ReptileAlgorithm,
)
from metarl.deploy.export import check
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.capture import capture
from metarl.deploy.export.files import METADATA, new_folder, read_metadata, write_metadata
from metarl.deploy.export.supervised import supervised_graphs
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import CheckpointError, ExportError, NonFiniteError, SettingsError, ShapeError
from metarl.models import MLP, Conv4
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.tasks import Sine
from metarl.tasks.base import Examples, TaskBatch

STEPS = 10


class OwnUnits(Navigation2D):
    """Navigation with actions of other ranges, standardised positions, and early ends."""

    published_units = False
    low, high = torch.tensor([200.0, -3.0]), torch.tensor([400.0, 5.0])

    @property
    def action_space(self):
        return spaces.Box(self.low.numpy(), self.high.numpy(), dtype=np.float32)

    def step(self, state, actions, tasks, noise):
        own = 2 * (actions - self.low) / (self.high - self.low) - 1
        return super().step(state, own, tasks, noise)

    def terminated(self, state, tasks):
        return state["position"][:, 0] > 0.1


RULES = {
    "maml": MAMLAlgorithm(0.05),
    "metasgd": MetaSGDAlgorithm(),
    "mamlplusplus": MAMLPlusPlusAlgorithm(0.01, steps=3),
    "reptile": ReptileAlgorithm(),
    "anil": ANILAlgorithm(0.05),
    "lstm": LSTMMetaLearnerAlgorithm(units=4),
    "learned-optimizer": LearnedOptimizerAlgorithm(units=4),
}


def needs_onnx():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra onnx")


def sine_learner(generator, rule="maml"):
    model = MLP((1, 8, 8, 1), generator)
    return GradientLearner(RULES[rule].clipped_adaptation(model, generator))


def image_learner(generator, rule):
    model = Conv4(3, generator, image_size=28, filters=4)
    learner = GradientLearner(RULES[rule].clipped_adaptation(model, generator))
    images = torch.randn(2, 9, 1, 28, 28, generator=generator)
    examples = Examples(images, torch.arange(9).expand(2, 9) % 3)
    return learner, TaskBatch(examples, examples)


def policy_learner(family, rule, generator, **settings):
    options = PolicySettings(layer_norm=settings.pop("layer_norm", False), activation="tanh")
    gradients = PolicyGradientSettings(trajectories=3, **settings)
    problem = ControlProblem(family, generator, gradients, hidden=(8,), policy=options)
    learner = rule.build(problem)
    assert isinstance(learner, PolicyLearner)
    return learner


def assert_same(theta, params):
    for name, expected in params.items():
        found = theta[f"theta.{name}"]
        np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-5)


def raw(rollouts, units):
    """Rollouts of one task as the inputs of an exported step, in the environment's units."""
    r = rollouts
    observations = torch.cat((r.observations, r.final_observations.unsqueeze(2)), 2)
    actions = r.actions
    if units is not None:
        observations, actions = units.raw_observations(observations), units.act(actions)
    return {
        "observations": observations[0].numpy(),
        "actions": actions[0].numpy(),
        "rewards": r.rewards[0].numpy(),
        "lengths": r.mask[0].sum(1).long().numpy(),
        "terminated": r.terminated[0].any(1).numpy(),
    }


@pytest.fixture(scope="module")
def sines():
    """A learner of sines and two tasks."""
    generator = torch.Generator().manual_seed(0)
    return sine_learner(generator), Sine(5, 7).sample(2, generator)


@pytest.fixture(scope="module")
def programs(sines, tmp_path_factory):
    """The folder of its export to torch."""
    learner, tasks = sines
    folder = tmp_path_factory.mktemp("sine") / "torch"
    assert export_adaptation(learner, folder, "torch", tasks=tasks, source={"run": "mine"}) < 1e-5
    return folder


@pytest.fixture(scope="module")
def models(sines, tmp_path_factory):
    """The folder of its export to ONNX."""
    needs_onnx()
    learner, tasks = sines
    folder = tmp_path_factory.mktemp("sine") / "onnx"
    assert export_adaptation(learner, folder, tasks=lambda: tasks) < 1e-5
    return folder


def test_ten_steps_and_predictions_are_the_learners(sines, models, generator):
    learner, tasks = sines
    check_supervised(learner, tasks, models, generator)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [name for name in RULES if name != "maml"])
def test_every_rule_does_as_its_learner(rule, generator, tmp_path):
    needs_onnx()
    learner, tasks = sine_learner(generator, rule), Sine(5, 7).sample(2, generator)
    if rule == "reptile":  # Adam's first steps follow the signs of rounding errors
        for name, buffer in learner.rule.named_buffers():
            buffer.fill_(1000.0 if name == "count" else 0.01)
    assert export_adaptation(learner, tmp_path / "out", tasks=tasks) < 1e-5
    check_supervised(learner, tasks, tmp_path / "out", generator, some_stay=rule == "anil")


def check_supervised(learner, tasks, folder, generator, some_stay=False):
    """Compares ten steps and predictions of an export on two tasks with the learner's."""
    found = OnnxAdaptation(folder)
    for task in range(2):
        found.reset()
        support = Examples(tasks.support.inputs[task : task + 1], tasks.support.targets[task, None])
        inputs, targets = (t[0].numpy() for t in support[:2])
        expected = list(learner.adapt(support, STEPS, generator))
        for step in range(STEPS):
            assert found.steps == step
            found.adapt(inputs=inputs, targets=targets)
        moved = {
            n: expected[-1].params[n] for n in expected[-1].params if f"theta.{n}" in found.theta
        }
        assert moved and (len(moved) < len(expected[-1].params)) == some_stay
        assert_same(found.theta, moved)
        query = tasks.query.inputs[task : task + 1]
        outputs = learner.predict(expected[-1], query)[0].numpy()
        np.testing.assert_allclose(found.predict(query[0].numpy()), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["maml", "lstm"])
def test_convolutions_and_batch_statistics_are_the_learners(rule, generator, tmp_path):
    needs_onnx()
    learner, tasks = image_learner(generator, rule)
    export_adaptation(learner, tmp_path / "out", tasks=tasks)
    found = OnnxAdaptation(tmp_path / "out")
    support = Examples(tasks.support.inputs[:1], tasks.support.targets[:1])
    expected = list(learner.adapt(support, STEPS, generator))
    for _ in range(STEPS):
        found.adapt(inputs=support.inputs[0].numpy(), targets=support.targets[0].numpy())
    assert_same(found.theta, expected[-1].params)
    query = torch.randn(1, 4, 1, 28, 28, generator=generator)
    outputs = learner.predict(expected[-1], query)[0].numpy()
    alone = found.predict(query[0].numpy(), support.inputs[0].numpy() if rule == "maml" else None)
    np.testing.assert_allclose(alone, outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_maxima_that_are_almost_equal_are_told_apart_in_float64(generator):
    """At the eighth step, two entries of a pooling window are 3e-7 apart.

    In float32, `learner.adapt` takes the other one than in float64, too.
    """
    model = Conv4(3, generator, image_size=16, filters=4)
    images = torch.randn(1, 9, 1, 16, 16, generator=generator)
    for dtype, steps, tolerance in ((torch.float32, 7, 1e-5), (torch.float64, STEPS, 1e-9)):
        model = model.to(dtype)
        learner = GradientLearner(RULES["maml"].clipped_adaptation(model, generator))
        support = Examples(images.to(dtype), torch.arange(9)[None] % 3)
        *path, last = learner.adapt(support, steps, torch.Generator())
        start, (_, step) = supervised_graphs(learner, TaskBatch(support, support), generator)
        program, theta = capture(step).module(), list(start.theta.values())
        for adapted in [*path[1:], last]:
            *theta, _ = program(*theta, support.inputs[0], support.targets[0])
            for found, name in zip(theta, start.theta, strict=True):
                expected = adapted.params[name][0]
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


CONTROL = {
    "navigation": (Navigation2D, "maml", {}),
    "units": (OwnUnits, "maml", {"bootstrap": True}),
    "bandit": (Bandit, "maml", {"normalize_advantages": False}),
    "dice": (
        Navigation2D, "metasgd",
        {"surrogate": "dice", "gae_lambda": 0.9, "bootstrap": True, "layer_norm": True},
    ),
    "lstm": (Navigation2D, "lstm", {"surrogate": "logprob"}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTROL)
def test_a_policy_adapts_on_raw_rollouts_as_its_learner(case, generator, tmp_path):
    needs_onnx()
    family, rule, settings = CONTROL[case]
    learner = policy_learner(
        family() if family is Bandit else family(horizon=11),
        replace(RULES[rule], steps=STEPS), generator, **settings,
    )  # fmt: skip
    inputs = learner.collect(learner.family.sample(1, generator), generator, 0)
    units = learner.policy.units
    export_adaptation(learner, tmp_path / "out")
    found = OnnxAdaptation(tmp_path / "out")
    lengths = set()
    for step in range(STEPS):
        batch = raw(inputs.experience[step].rollouts, units)
        # An episode that does not count, and what follows the end of one, change nothing.
        more = {n: np.concatenate((v, v[:1])) for n, v in batch.items()}
        more["lengths"][-1] = 0
        for n, length in enumerate(more["lengths"]):
            more["rewards"][n, length:] = np.nan
            more["observations"][n, length + 1 :] = np.nan
        lengths |= set(batch["lengths"].tolist())
        mean = found.adapt(**more)
        assert mean == pytest.approx(float(inputs.experience[step].rollouts.returns()), rel=1e-5)
        assert_same(found.theta, inputs.path[step])
    assert (len(lengths) > 1) == (case == "units")
    observation = np.ones((4, learner.family.observation_space.shape[0]), np.float32)
    params = inputs.path[-1]
    seen = torch.from_numpy(observation)[None]
    seen = seen if units is None else units.observe(seen)
    expected = learner.policy.distribution(params, seen).mode()[0]
    if expected.is_floating_point():
        expected = expected.clamp(-1, 1) if units is None else units.act(expected.clamp(-1, 1))
    np.testing.assert_allclose(found.act(observation), expected.numpy(), rtol=1e-5, atol=1e-5)
    samples = [found.act(observation, generator=np.random.default_rng(s)) for s in (0, 0, 1)]
    assert (samples[0] == samples[1]).all()
    assert samples[0].dtype == np.int64 or (samples[0] != samples[2]).all()


def test_programs_of_torch_do_the_same(sines, programs, generator):
    learner, tasks = sines
    metadata = read_metadata(programs)
    assert metadata["kind"] == "supervised" and metadata["source"] == {"run": "mine"}
    assert metadata["adaptation"]["rule"] == "GradientDescent"
    step = torch.export.load(programs / "step.pt2").module()
    theta = [p.detach() for p in learner.model.parameters()]
    support = Examples(tasks.support.inputs[:1], tasks.support.targets[:1])
    expected = list(learner.adapt(support, STEPS, generator))
    for _ in range(STEPS):
        *theta, _ = step(*theta, tasks.support.inputs[0], tasks.support.targets[0])
    for found, wanted in zip(theta, expected[-1].params.values(), strict=True):
        torch.testing.assert_close(found, wanted[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match="to torch"):
        OnnxAdaptation(programs)


def test_layers_that_run_by_vmap_take_any_number_of_examples(generator, tmp_path):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.layer(x).mean(1)

    torch.manual_seed(0)
    learner = GradientLearner(MAML(Encoder(), inner_lr=0.1))
    examples = Examples(*torch.randn(2, 1, 5, 3, 2, generator=generator))
    examples = examples._replace(targets=examples.targets.mean(2))
    tasks = TaskBatch(examples, examples)
    assert export_adaptation(learner, tmp_path / "encoder", "torch", tasks=tasks) < 1e-5


@pytest.mark.parametrize("build", [MAML, lambda net: LSTMMetaLearner(net, torch.Generator())])
def test_networks_of_vectors_that_normalise_batches_are_exported(build, generator, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(2, 6, 4, generator=generator)
    examples = Examples(x, torch.arange(6).expand(2, 6) % 3)
    learner, tasks = GradientLearner(build(net)), TaskBatch(examples, examples)
    assert export_adaptation(learner, tmp_path / "norm", "torch", tasks=tasks) < 1e-3


def test_both_parts_of_complex_weights_are_compared(generator, tmp_path, monkeypatch):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixing = nn.Parameter(torch.randn(1, 3, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(self.mixing.dtype) @ self.mixing).abs()

    torch.manual_seed(0)
    learner = GradientLearner(MAML(Complex(), inner_lr=0.1))
    y = torch.rand(2, 5, 3, generator=generator)
    tasks = TaskBatch(Examples(y[..., :1], y), Examples(y[..., :1], y))
    assert export_adaptation(learner, tmp_path / "right", "torch", tasks=tasks) < 1e-5
    program = check._program

    def conjugated(path):
        return lambda tensors: [t.conj() for t in program(path)(tensors)]

    monkeypatch.setattr(check, "_program", conjugated)
    with pytest.raises(ExportError, match=r"mixing of .* differs from the learner's"):
        export_adaptation(learner, tmp_path / "wrong", "torch", tasks=tasks)


def test_a_folder_that_was_altered_or_is_newer_is_refused(sines, programs, tmp_path):
    learner, tasks = sines

    def changed(change):
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(programs, bad)
        content = json.loads((bad / METADATA).read_text())
        change(bad, content)
        (bad / METADATA).write_text(json.dumps(content))
        return bad

    cases = {
        "was altered": lambda folder, _: (folder / "step.pt2").write_bytes(b"x"),
        "newer MetaRL": lambda _, content: content.update(schema=2),
        "says the format": lambda _, content: content.update(format="other"),
        "names a file elsewhere": lambda _, content: content["sha256"].update({"../x": "0"}),
        "has no SHA-256 of": lambda _, content: content["sha256"].pop("step.pt2"),
        "is not complete": lambda _, content: content.pop("kind"),
        "Cannot read": lambda folder, _: (folder / "step.pt2").unlink(),
    }
    for message, change in cases.items():
        with pytest.raises(CheckpointError, match=message):
            read_metadata(changed(change))
    with pytest.raises(CheckpointError, match="has no adaptation"):
        read_metadata(tmp_path)
    with pytest.raises(CheckpointError, match="holds something else"):
        export_adaptation(learner, tmp_path, "torch", tasks=tasks)


def test_an_earlier_export_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with new_folder(tmp_path / "out") as folder:
            (folder / "file").write_text(content)
            write_metadata(folder, {"kind": "supervised", "graphs": {}})
    assert (tmp_path / "out" / "file").read_text() == "new"
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert read_metadata(tmp_path / "out")["schema"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_exported_is_told(sines, tmp_path):
    learner, tasks = sines
    with pytest.raises(SettingsError, match="Expected `tasks`"):
        export_adaptation(learner, tmp_path / "out", "torch")
    with pytest.raises(SettingsError, match="onnx or torch"):
        export_adaptation(learner, tmp_path / "out", "sb3", tasks=tasks)
    with pytest.raises(SettingsError, match="have no episodes"):
        export_adaptation(learner, tmp_path / "out", "torch", tasks=tasks, horizon=3)


def test_unsuitable_batches_are_refused(sines, models):
    tasks, found = sines[1], OnnxAdaptation(models)
    inputs, targets = (t[0].numpy() for t in tasks.support[:2])
    cases = [
        ({"inputs": inputs}, "Expected targets"),
        ({"inputs": inputs[:, 0], "targets": targets}, "of shape"),
        ({"inputs": inputs.astype(complex), "targets": targets}, "of type float32"),
        ({"inputs": inputs, "targets": targets[:2]}, "as many examples"),
        ({"inputs": inputs, "targets": targets, "weights": targets}, "no input weights"),
    ]
    for batch, message in cases:
        with pytest.raises(ShapeError, match=message):
            found.adapt(**batch)
    theta = {n: v.copy() for n, v in found.theta.items()}
    with pytest.raises(NonFiniteError, match="was not taken"):
        found.adapt(inputs=inputs * np.nan, targets=targets)
    assert found.steps == 0 and all((theta[n] == v).all() for n, v in found.theta.items())
    with pytest.raises(SettingsError, match="call `predict`"):
        found.act(inputs[0])


def test_a_learner_of_another_kind_is_named(tmp_path):
    with pytest.raises(SettingsError, match="adapts in another way"):
        export_adaptation(nn.Linear(2, 3), tmp_path / "out", "torch")


def test_an_oracle_has_no_adaptation_to_export(generator, tmp_path):
    problem = ControlProblem(
        Navigation2D(horizon=3), generator, PolicyGradientSettings(1), (4,), observe_task=True
    )
    with pytest.raises(SettingsError, match="oracle"):
        export_adaptation(MAMLAlgorithm().build(problem), tmp_path / "out", "torch")
