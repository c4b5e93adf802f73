"""Few-shot classification of handwritten characters: Omniglot, or drawn glyphs without data.

    python experiments/omniglot.py --data-dir DATA                        # MAML, 5-way 1-shot
    python experiments/omniglot.py --data-dir DATA --algorithm reptile --way 20
    python experiments/omniglot.py --data-dir DATA --algorithm prototypical
    python experiments/omniglot.py --data-dir DATA --algorithm one-shot --lake-runs ARCHIVE
    python experiments/omniglot.py                                        # glyphs: no data needed
    tensorboard --logdir runs/omniglot

DATA holds Omniglot's official archives; those of `--scheme` that it lacks are downloaded. Ends with
a table of accuracies on 1000 test tasks; with 20 ways and `--lake-runs ARCHIVE` also the error on
Lake's one-shot runs. MAML takes a few minutes on one core. Results: docs/results.md.
"""

from dataclasses import replace
from typing import Any

from metarl.adaptation import algorithms as gradient
from metarl.lab import Experiment
from metarl.lab.few_shot import OmniglotSettings, build_few_shot
from metarl.lab.registered import with_registered
from metarl.learners.memory import algorithms as memory
from metarl.learners.metric import algorithms as metric
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.distortions import Distortion
from metarl.training import TrainingSettings

# Chosen by the accuracy on fresh training tasks of 5 and 20 ways: docs/results.md.
BASE = TrainingSettings(
    iterations=2000,
    meta_batch_size=8,
    outer_lr=3e-3,
    schedule="cosine",
    threads=1,
    eval_every=500,
    eval_steps=3,
)
LSTMS = replace(BASE, iterations=500, meta_batch_size=4, max_grad_norm=0.25)
REPTILE = replace(
    BASE, iterations=4000, meta_batch_size=5, optimizer="sgd", outer_lr=1.0, schedule="linear"
)
NORMS = ("*.norm.*",)  # Finn's code adapts no normalisation; nor does MAML++
MAML = gradient.MAMLAlgorithm(inner_lr=2.0, frozen=NORMS)
# Without second derivatives a start learns little from how far a single step goes.
FOMAML = replace(MAML, inner_lr=1.0, steps=3, first_order=True)
META_SGD = gradient.MetaSGDAlgorithm(low=1.0, high=2.0, frozen=NORMS)
MAML_PLUS_PLUS = gradient.MAMLPlusPlusAlgorithm(1.0, steps=2, multi_step_iterations=200)
LSTM = gradient.LSTMMetaLearnerAlgorithm(steps=5, units=8)
LEARNED_OPTIMIZER = gradient.LearnedOptimizerAlgorithm(steps=5, unroll=5, units=8)
TEN_SHOTS = CharacterSettings(train_shots=10)

# One large episode a meta-iteration, as Snell et al.; adaptation has no steps.
EPISODES = replace(BASE, meta_batch_size=1, outer_lr=1e-3, eval_steps=0)
SIXTY_WAYS = CharacterSettings(train_way=60, queries=5)
CLIPPED = replace(EPISODES, meta_batch_size=4, max_grad_norm=0.5)
SEVERAL = replace(
    EPISODES, iterations=15_000, meta_batch_size=16, outer_lr=3e-3, max_grad_norm=10.0
)
FEW = replace(EPISODES, meta_batch_size=4, max_grad_norm=10.0)
FIVE_WAYS = CharacterSettings(queries=5)
TWENTY_WAYS = replace(SIXTY_WAYS, train_way=20)

# For Lake's runs, chosen on the new alphabets of minimal-2: classes and images that are distorted
# replace the background's other alphabets.
ONE_SHOT = metric.ReconstructionAlgorithm(bfloat16=True, views=5)
DISTORTED = CharacterSettings(
    way=20,
    train_way=128,
    rotations="reflected",
    test_grouping="drawers",
    distortion=Distortion(12, 0.15, 0.15, 0.06, 0.025, 0.5),
)
LONG = replace(EPISODES, iterations=2400, outer_lr=6e-3, max_grad_norm=5.0, eval_every=0)


def _comparing(name: str, learner: Any, **changes: Any) -> OmniglotSettings:
    defaults = {"training": EPISODES, "tasks": SIXTY_WAYS, "filters": 64, "test_steps": 0}
    return OmniglotSettings(name, learner, **{**defaults, **changes})


CONFIGS = with_registered(
    {
        "maml": OmniglotSettings("maml", MAML, BASE, test_steps=1),
        "fomaml": OmniglotSettings("fomaml", FOMAML, BASE, test_steps=3),
        "metasgd": OmniglotSettings("metasgd", META_SGD, BASE, test_steps=1),
        "mamlplusplus": OmniglotSettings("mamlplusplus", MAML_PLUS_PLUS, BASE, test_steps=2),
        "reptile": OmniglotSettings(
            "reptile", gradient.ReptileAlgorithm(), REPTILE, TEN_SHOTS, test_steps=50
        ),
        "lstm": OmniglotSettings("lstm", LSTM, LSTMS, filters=16, test_steps=5),
        "learned-optimizer": OmniglotSettings(
            "learned-optimizer", LEARNED_OPTIMIZER, LSTMS, filters=16, test_steps=5
        ),
        "prototypical": _comparing("prototypical", metric.PrototypicalAlgorithm()),
        "matching": _comparing("matching", metric.MatchingAlgorithm(), tasks=TWENTY_WAYS),
        "relation": _comparing(
            "relation", metric.RelationAlgorithm(), tasks=FIVE_WAYS, training=CLIPPED
        ),
        "reconstruction": _comparing(
            "reconstruction", metric.ReconstructionAlgorithm(), filters=32
        ),
        "siamese": _comparing("siamese", metric.SiameseAlgorithm(), tasks=TWENTY_WAYS),
        "one-shot": OmniglotSettings(
            "one-shot", ONE_SHOT, LONG, DISTORTED, 32, test_tasks=200, test_steps=0
        ),
        "nearest-neighbour": _comparing(
            "nearest-neighbour",
            metric.NearestNeighbourAlgorithm(),
            training=replace(EPISODES, iterations=0),
        ),
        "mann": _comparing(
            "mann", memory.MANNAlgorithm(), tasks=CharacterSettings(), training=SEVERAL
        ),
        "metanet": _comparing(
            "metanet", memory.MetaNetAlgorithm(), tasks=FIVE_WAYS, training=FEW, filters=32
        ),
        "classifier": _comparing("classifier", metric.FeatureClassifierAlgorithm()),
    }
)


EXPERIMENT = Experiment("omniglot", CONFIGS, build_few_shot, __file__, minutes={"maml": 1.9})

if __name__ == "__main__":
    EXPERIMENT.run()
