"""Few-shot classification of scikit-learn's digits: five digits to learn from, five new ones.

    python experiments/digits.py                              # MAML, 5-way 1-shot
    python experiments/digits.py --algorithm scratch          # each task learned alone
    python experiments/digits.py --algorithm pretrained       # a classifier, fine-tuned
    python experiments/digits.py --split-seed 1 --shots 5
    tensorboard --logdir runs/digits

1797 images of 8x8 pixels come with scikit-learn: pip install 'metarl[data]'. Ends with a table of
accuracies on 600 test tasks of the five digits that no training task has. Rotated and mirrored
digits are separate training classes, and random distortions make new ones.
"""

from dataclasses import replace

from metarl.adaptation import algorithms
from metarl.lab import Experiment
from metarl.lab.digits import DigitSettings, build_digits
from metarl.lab.registered import with_registered
from metarl.learners.metric.algorithms import NearestNeighbourAlgorithm
from metarl.training import TrainingSettings

BASE = TrainingSettings(
    iterations=1000,
    meta_batch_size=8,
    outer_lr=1e-3,
    schedule="cosine",
    max_grad_norm=10.0,
    threads=1,
    eval_every=500,
    eval_steps=10,
)
MAML = algorithms.MAMLAlgorithm(inner_lr=0.1, steps=5)
CONFIGS = with_registered(
    {
        "maml": DigitSettings("maml", MAML, BASE),
        "fomaml": DigitSettings("fomaml", replace(MAML, first_order=True), BASE),
        "reptile": DigitSettings(
            "reptile",
            algorithms.ReptileAlgorithm(inner_lr=0.02, steps=10),
            replace(BASE, optimizer="sgd", outer_lr=1.0, schedule="linear", max_grad_norm=None),
        ),
        "pretrained": DigitSettings(
            "pretrained",
            algorithms.PretrainedAlgorithm(inner_lr=0.5),
            replace(BASE, eval_every=0),
        ),
        "scratch": DigitSettings(
            "scratch",
            algorithms.ScratchAlgorithm(inner_lr=0.01),
            replace(BASE, iterations=0),
        ),
        "nearest-neighbour": DigitSettings(
            "nearest-neighbour",
            NearestNeighbourAlgorithm(),
            replace(BASE, iterations=0, eval_every=0),
            test_steps=0,
        ),
    }
)

EXPERIMENT = Experiment("digits", CONFIGS, build_digits, __file__)

if __name__ == "__main__":
    EXPERIMENT.run()
