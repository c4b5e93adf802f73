"""Accuracy by instance in streams of characters (Santoro et al. 2016): remember what is new.

    python experiments/mann.py --data-dir DATA                            # MANN, 5 classes
    python experiments/mann.py --data-dir DATA --algorithm lstm           # or feedforward
    python experiments/mann.py --data-dir DATA --algorithm mann-strings   # 15 classes, 150 steps
    python experiments/mann.py                                            # glyphs: no data needed
    tensorboard --logdir runs/mann

The network classifies each image before it sees the label, one step later; labels are shuffled in
every stream. Prints a table of accuracies on the 1st, 2nd, ... instance of a class in 1000 test
streams of new characters; step k of the curves is the accuracy after k instances of the class.
"""

from metarl.lab import Experiment
from metarl.lab.streams import StreamSettings, build_streams
from metarl.learners.memory.networks import (
    FeedforwardOptions,
    MemoryAugmentedOptions,
    RecurrentOptions,
)
from metarl.tasks.characters import CharacterSettings
from metarl.training import TrainingSettings

BASE = TrainingSettings(
    iterations=5000,
    meta_batch_size=16,
    outer_lr=3e-3,
    schedule="cosine",
    max_grad_norm=10.0,
    threads=1,
    eval_every=500,
    eval_steps=9,
)
STRINGS = CharacterSettings(way=15, shots=9, queries=1)
NETWORKS = {
    "mann": MemoryAugmentedOptions(),
    "lstm": RecurrentOptions(),
    "feedforward": FeedforwardOptions(),
}
# 150 steps, which want a row each.
WIDE = {**NETWORKS, "mann": MemoryAugmentedOptions(slots=160)}
CONFIGS = {
    **{name: StreamSettings(name, network, BASE) for name, network in NETWORKS.items()},
    **{
        f"{name}-strings": StreamSettings(f"{name}-strings", network, BASE, STRINGS, "strings")
        for name, network in WIDE.items()
    },
}

EXPERIMENT = Experiment("mann", CONFIGS, build_streams, __file__, minutes={"mann": 15})

if __name__ == "__main__":
    EXPERIMENT.run()
