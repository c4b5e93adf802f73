"""Few-shot classification of handwritten characters: Omniglot, or drawn glyphs without data.

    python experiments/omniglot.py --data-dir DATA --scheme minimal-1     # MAML, 5-way 1-shot
    python experiments/omniglot.py --data-dir DATA --algorithm reptile --way 20
    python experiments/omniglot.py                                        # glyphs: no data needed
    tensorboard --logdir runs/omniglot

DATA holds the official archives of Omniglot; those of `--scheme` that it lacks are downloaded.
Ends with a table of accuracies on 1000 test tasks, transductive and not. With 20 ways and
`--lake-runs ARCHIVE` also the error on Lake's one-shot runs. About five minutes on one core.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from metarl.adaptation.settings import (
    LearnedOptimizerSettings,
    LearnerSettings,
    LSTMMetaLearnerSettings,
    MAMLPlusPlusSettings,
    MAMLSettings,
    MetaSGDSettings,
    ReptileSettings,
)
from metarl.evaluation.few_shot_protocol import few_shot_curves, few_shot_table, lake_errors
from metarl.evaluation.lake import load_lake_runs
from metarl.models import Conv4
from metarl.tasks import FewShot, Glyphs, Omniglot
from metarl.tasks.omniglot import DATA_VARIABLE
from metarl.tasks.omniglot_splits import Scheme
from metarl.training import TrainingSettings, parse_settings, resolve_device, train


@dataclass(frozen=True)
class OmniglotSettings:
    """Omniglot; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "maml"
    """maml, fomaml, metasgd, mamlplusplus, reptile, lstm or learned-optimizer."""
    learner: LearnerSettings = field(default_factory=MAMLSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    data_dir: Path | None = None
    """Folder of the official archives; METARL_DATA serves too. Neither: drawn glyphs."""
    scheme: Scheme = "minimal-1"
    """How characters are split."""
    way: int = 5
    """Classes per task."""
    shots: int = 1
    """Support images per class at test."""
    train_shots: int | None = None
    """Support images per class in training, where they differ (Reptile)."""
    queries: int = 1
    """Query images per class."""
    filters: int = 32
    """Filters of each convolution."""
    test_tasks: int = 1000
    """Test tasks of the final table."""
    test_steps: int = 5
    """Adaptation steps at test."""
    lake_runs: Path | None = None
    """Archive of Lake's one-shot runs; for 20 ways and 1 shot."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""


BASE = TrainingSettings(iterations=3000, meta_batch_size=16, schedule="cosine", threads=1)
LSTMS = replace(BASE, iterations=1000, meta_batch_size=4, max_grad_norm=0.25)
REPTILE = replace(
    BASE, meta_batch_size=5, optimizer="sgd", outer_lr=1.0, schedule="linear", eval_steps=50
)
NORMS = ("*.norm.*",)  # Finn's code adapts no normalisation; nor does MAML++
MAML_4 = MAMLSettings(inner_lr=0.4, frozen=NORMS)
CONFIGS = {
    "maml": OmniglotSettings("maml", MAML_4, BASE),
    "fomaml": OmniglotSettings("fomaml", replace(MAML_4, first_order=True), BASE),
    "metasgd": OmniglotSettings("metasgd", MetaSGDSettings(low=0.2, high=0.4, frozen=NORMS), BASE),
    "mamlplusplus": OmniglotSettings(
        "mamlplusplus", MAMLPlusPlusSettings(0.1, steps=3, multi_step_iterations=500), BASE
    ),
    "reptile": OmniglotSettings(
        "reptile", ReptileSettings(), REPTILE, train_shots=10, test_steps=50
    ),
    "lstm": OmniglotSettings("lstm", LSTMMetaLearnerSettings(steps=5), LSTMS),
    "learned-optimizer": OmniglotSettings(
        "learned-optimizer", LearnedOptimizerSettings(steps=5, unroll=5), LSTMS
    ),
}


def distribution(settings: OmniglotSettings) -> FewShot:
    """Builds the distribution of the tasks, with the training shots."""
    shape = (settings.way, settings.train_shots or settings.shots, settings.queries)
    if settings.data_dir is None and DATA_VARIABLE not in os.environ:
        return Glyphs(*shape, rotations="classes")
    return Omniglot(settings.scheme, *shape, data_dir=settings.data_dir)


def main() -> None:
    """Trains and reports."""
    settings, resume = parse_settings(CONFIGS, "omniglot")
    device = resolve_device(settings.training.device)
    generator = torch.Generator().manual_seed(settings.training.seed)
    model = Conv4(settings.way, generator, filters=settings.filters, pooling="stride")
    learner = settings.learner.build(model, generator)
    tasks = distribution(settings).to(device)
    # The characters as they were drawn: rotations make classes in training only.
    test = replace(tasks.with_shape(shots=settings.shots).split("test"), rotations="none")
    loop, result = train("omniglot", settings, learner, tasks, resume=resume)
    console = Console()
    if not result.finished:
        console.print(f"Stopped after {result.iteration} iterations; --resume latest goes on.")
        return
    counts = {"num_tasks": settings.test_tasks, "steps": settings.test_steps}
    curves = few_shot_curves(learner, test, device=device, **counts)
    summaries = {
        name: loop.logger.curve(
            curve, result.iteration, "eval_test", {"transductive": curve.transductive}
        )[-1]
        for name, curve in curves.items()
    }
    lake = {}
    if settings.lake_runs is not None:
        runs = load_lake_runs(settings.lake_runs)
        steps = settings.test_steps
        lake = lake_errors(learner, runs, tasks.alphabets, steps=steps, device=device)
    label = f"{settings.algorithm}, {settings.way}-way {settings.shots}-shot"
    console.print(few_shot_table(summaries, lake, label))
    console.print(f"Trained for {result.seconds / 60:.1f} minutes. Run folder: {loop.folder}")
    console.print(f"Look at it: tensorboard --logdir {loop.folder}", soft_wrap=True)


if __name__ == "__main__":
    main()
