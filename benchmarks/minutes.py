"""CPU minutes of a whole training of each experiment, for `metarl list`.

    python -m benchmarks.minutes                       # the default algorithm of each experiment
    python -m benchmarks.minutes sine --algorithms maml reptile

Times a few meta-iterations in CPU seconds, all threads together, which other work on the machine
disturbs little, and multiplies by the number of iterations. Where a meta-batch is large, a part of
it is timed and the cost taken as proportional. The report at the end is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from metarl.lab.experiment import Experiment
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment
from metarl.lab.machine import REFERENCE_SECONDS, seconds_of_reference

MOST_TASKS = 8


def measure(experiment: Experiment[Any], algorithm: str, seconds: float) -> float:
    """Returns the CPU minutes of a training with the default settings.

    Args:
        experiment: The experiment.
        algorithm: One of its algorithms.
        seconds: CPU seconds to time, at least one iteration after the first.
    """
    settings = experiment.configs[algorithm]
    training = settings.training
    tasks = min(training.meta_batch_size, MOST_TASKS) if training.task_chunk_size else None
    share = 1.0 if tasks is None else tasks / training.meta_batch_size
    with tempfile.TemporaryDirectory() as folder:
        small = dataclasses.replace(
            training, meta_batch_size=tasks or training.meta_batch_size, eval_every=0
        )
        changed = dataclasses.replace(settings, training=small, runs=Path(folder))
        components = experiment.build(changed)
        loop = experiment.open(changed, components)
        loop._iterate()
        started, count = time.process_time(), 0
        while count == 0 or time.process_time() - started < seconds:
            loop._iterate()
            loop.iteration += 1
            count += 1
        each = (time.process_time() - started) / count / share
        loop.logger.close()
    return each * training.iterations / 60


def main() -> None:
    """Prints a line per experiment and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*")
    parser.add_argument("--algorithms", nargs="*")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    print(f"reference: {seconds_of_reference():.3f} s here, {REFERENCE_SECONDS:.3f} s noted")
    for name in options.experiments or EXPERIMENTS.names():
        experiment = find_experiment(name)
        for algorithm in options.algorithms or [next(iter(experiment.configs))]:
            minutes = measure(experiment, algorithm, options.seconds)
            print(f"{name} {algorithm}: {minutes:.2g} CPU minutes", flush=True)


if __name__ == "__main__":
    main()
