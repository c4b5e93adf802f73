"""Accuracy by instance in streams of characters (Santoro et al. 2016): remember what is new.

    python experiments/mann.py --data-dir DATA                            # MANN, 5 classes
    python experiments/mann.py --data-dir DATA --algorithm lstm           # or feedforward
    python experiments/mann.py --data-dir DATA --algorithm mann-strings   # 15 classes, 150 steps
    python experiments/mann.py                                            # glyphs: no data needed
    tensorboard --logdir runs/mann

Each image is to be named before its label is shown, a step late; labels are drawn anew for every
stream. Ends with a table of accuracies on the 1st, 2nd, ... instance of a class in 1000 test
streams of new characters; step k of the curves is what comes after k instances of its class.
"""

import torch

from metarl.lab import Components, Experiment
from metarl.lab.stream_reports import show_streams, stream_report
from metarl.lab.streams import CONFIGS, StreamSettings


def build(settings: StreamSettings) -> Components:
    """Builds what the settings describe."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    episodes = settings.tasks.train()
    tasks = settings.streams(episodes)
    test = settings.streams(settings.tasks.test(episodes))
    validation = settings.tasks.validation(episodes)
    return Components(
        learner=settings.build(tasks, generator),
        tasks=tasks,
        validation=None if validation is None else settings.streams(validation),
        report=lambda loop: stream_report(
            loop, test, settings.algorithm, settings.test_tasks, settings.tasks.label
        ),
        show=lambda loop, tasks, steps: show_streams(loop, test, tasks, steps),
    )


EXPERIMENT = Experiment("mann", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
