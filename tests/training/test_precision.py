"""Training in bfloat16: metric learners with convolutions take it, others say why they do not."""

import pytest
import torch

from metarl.errors import SettingsError
from metarl.learners.memory.algorithms import MANNAlgorithm
from metarl.learners.metric import algorithms as metric
from metarl.models import Conv4
from metarl.tasks import Glyphs
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.meta_gradient import MetaGradient
from tests.devices import on_cuda
from tests.gradient_learners import MAML
from tests.graph_recorder import Recorder
from tests.image_problems import image_problem

GLYPHS = Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)
TAKE = {
    "prototypical": metric.PrototypicalAlgorithm(),
    "pyramid": metric.PrototypicalAlgorithm(metric.EmbeddingSettings("pyramid")),
    "reconstruction": metric.ReconstructionAlgorithm(views=2),
    "relation": metric.RelationAlgorithm(),
    "classifier": metric.FeatureClassifierAlgorithm(),
}
REFUSE = {
    "siamese": metric.SiameseAlgorithm(units=8),
    "pixels": metric.NearestNeighbourAlgorithm(),
    "mann": MANNAlgorithm(),
}


def build(algorithm):
    return algorithm.build(image_problem(torch.Generator().manual_seed(0)))


def loop(learner, folder, **changes):
    settings = TrainingSettings(
        iterations=2, meta_batch_size=2, eval_every=0, precision="bfloat16", **changes
    )
    return OuterLoop(learner, GLYPHS, settings, folder)


@pytest.mark.parametrize("name", TAKE)
def test_gradients_are_close_and_evaluation_is_the_same(name, tmp_path):
    exact, rounded = build(TAKE[name]), build(TAKE[name])
    loop(rounded, tmp_path / "run")
    gradients, adapted = [], []
    for learner in (exact, rounded):
        generator = torch.Generator().manual_seed(1)
        tasks = GLYPHS.sample(3, generator)
        gradient = MetaGradient(learner, TrainingSettings())
        assert gradient(learner.collect(tasks, generator, 0)).finite
        gradients.append(torch.cat([p.grad.flatten() for p in gradient.params]))
        reference, *_ = learner.adapt(tasks.support, 0, generator)
        adapted.append(learner.predict(reference, tasks.query.inputs))
    assert torch.equal(*adapted)
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 1e-5 < error < 0.25  # untrained networks of 4 filters
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


def test_a_run_in_bfloat16_trains(tmp_path):
    learner = build(TAKE["prototypical"])
    before = [p.clone() for p in learner.parameters()]
    assert loop(learner, tmp_path / "run").run().finished
    assert not any(torch.equal(p, b) for p, b in zip(learner.parameters(), before, strict=True))


@pytest.mark.slow
def test_graphs_capture_it():
    learner = build(TAKE["prototypical"])
    learner.use_bfloat16()
    recorder, generator = Recorder(), torch.Generator().manual_seed(1)
    graphed = MetaGradient(learner, TrainingSettings(), recorder)
    for gradient in (graphed, graphed, MetaGradient(learner, TrainingSettings())):
        inputs = learner.collect(GLYPHS.sample(2, generator.manual_seed(1)), generator, 0)
        result = gradient(inputs)
    assert graphed.graphed is not None and graphed.graphed.refused is None
    assert result.finite and recorder.replays == 2


@pytest.mark.parametrize("name", [*REFUSE, "maml"])
def test_others_refuse_it_and_say_why(name, tmp_path):
    if name == "maml":
        learner = MAML(Conv4(3, torch.Generator().manual_seed(0), filters=4))
    else:
        learner = build(REFUSE[name])
    with pytest.raises(SettingsError, match=r"bfloat16.*(float32|out)"):
        loop(learner, tmp_path / "run")


@pytest.mark.gpu
def test_it_runs_on_a_gpu(tmp_path):
    learner = build(TAKE["prototypical"])
    assert loop(learner, tmp_path / "run", device=str(on_cuda())).run().finished
