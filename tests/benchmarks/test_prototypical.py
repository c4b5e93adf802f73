"""The baseline of the benchmark computes what MetaRL does, up to the root of the distance."""

import torch

from benchmarks.prototypical import EpisodeLoop, conv4, plain_scores
from metarl.learners import ConvEmbedding, ImageShape, MetricLearner, Prototypes
from metarl.tasks import Examples, Glyphs


def test_the_loop_scores_by_the_distance_and_trains(generator):
    tasks = Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)
    batch = tasks.sample(1, generator)
    backbone = conv4(4)
    embedding = ConvEmbedding(ImageShape(), generator, filters=4)
    with torch.no_grad():
        filters = [p for p in embedding.parameters() if p.dim() == 4]
        for p, q in zip([p for p in backbone.parameters() if p.dim() == 4], filters, strict=True):
            p.copy_(q)
    backbone.eval()
    learner = MetricLearner(embedding, Prototypes())
    (adapted,) = learner.adapt(batch.support, 0, generator)
    ours = learner.predict(adapted, batch.query.inputs)[0]
    support = Examples(*(t[0] for t in batch.support[:2]))
    theirs = plain_scores(backbone, 3)(support, batch.query.inputs[0])
    torch.testing.assert_close(-theirs.square(), ours, rtol=1e-3, atol=1e-4)

    before = next(backbone.parameters()).detach().clone()
    EpisodeLoop(tasks, 2, backbone, plain_scores(backbone, 3))()
    assert not torch.equal(next(backbone.parameters()), before)
