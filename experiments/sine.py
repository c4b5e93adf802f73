"""Sine regression (Finn et al. 2017, section 5.1): adapt to A sin(x - phi) from K points.

    python experiments/sine.py                                  # MAML, 70 000 iterations
    python experiments/sine.py --algorithm reptile
    python experiments/sine.py --learner.steps 5 --training.seed 1
    python experiments/sine.py --resume latest                  # after a stop of any kind
    tensorboard --logdir runs/sine

Ends with a table of mean squared errors on 600 test tasks after 0..10 steps for K = 5, 10 and 20,
with `adaptation.png` and `fits.png` in the run folder. MAML: about two minutes on one core.
"""

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
    PretrainedSettings,
    ReptileSettings,
)
from metarl.evaluation.figures import adaptation_figure, save_figure, sine_figure
from metarl.evaluation.sine_protocol import PUBLISHED, sine_curves, sine_panels, sine_table
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import TrainingSettings, parse_settings, train


@dataclass(frozen=True)
class SineSettings:
    """Sine regression; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "maml"
    """maml, fomaml, metasgd, mamlplusplus, reptile, lstm, learned-optimizer or pretrained."""
    learner: LearnerSettings = field(default_factory=MAMLSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    shots: int = 10
    """Support points per training task (K)."""
    queries: int = 10
    """Query points per training task."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""


PAPER = TrainingSettings(schedule="cosine", threads=1)
LSTMS = replace(PAPER, iterations=10_000, meta_batch_size=8, max_grad_norm=0.25)
CONFIGS = {
    "maml": SineSettings(training=PAPER),
    "fomaml": SineSettings("fomaml", MAMLSettings(first_order=True), PAPER),
    "metasgd": SineSettings("metasgd", MetaSGDSettings(), PAPER),
    "mamlplusplus": SineSettings(
        "mamlplusplus", MAMLPlusPlusSettings(0.01, steps=5, multi_step_iterations=10_000), PAPER
    ),
    "reptile": SineSettings(
        "reptile",
        ReptileSettings(inner_lr=0.01, steps=10),
        replace(PAPER, iterations=30_000, optimizer="sgd", outer_lr=0.1, schedule="linear"),
    ),
    "lstm": SineSettings("lstm", LSTMMetaLearnerSettings(steps=5), LSTMS),
    "learned-optimizer": SineSettings(
        "learned-optimizer", LearnedOptimizerSettings(steps=10, unroll=5), LSTMS
    ),
    "pretrained": SineSettings("pretrained", PretrainedSettings(), PAPER),
}


def main() -> None:
    """Trains and reports."""
    settings, resume = parse_settings(CONFIGS, "sine")
    generator = torch.Generator().manual_seed(settings.training.seed)
    model = MLP((1, 40, 40, 1), generator, init="truncated")
    learner = settings.learner.build(model, generator)
    tasks = Sine(settings.shots, settings.queries)
    validation = Sine(settings.shots, 100).split("validation")
    loop, result = train("sine", settings, learner, tasks, validation=validation, resume=resume)
    console = Console()
    if not result.finished:
        console.print(f"Stopped after {result.iteration} iterations; --resume latest goes on.")
        return
    curves = {
        shots: loop.logger.curve(
            curve, result.iteration, f"eval_test_{shots}_shot", {"shots": shots}
        )
        for shots, curve in sine_curves(learner, device=loop.device).items()
    }
    published = {k: v for k, v in PUBLISHED.items() if k.lower().startswith(settings.algorithm)}
    labelled = {f"{settings.algorithm}, K={k}": summaries for k, summaries in curves.items()}
    save_figure(
        adaptation_figure(labelled, "mse", published=published), loop.folder / "adaptation.png"
    )
    save_figure(sine_figure(sine_panels(learner, device=loop.device)), loop.folder / "fits.png")
    console.print(sine_table(curves, next(iter(published.values()), {})))
    console.print(f"Run folder: {loop.folder} (adaptation.png, fits.png, eval.jsonl)")
    console.print(f"Look at it: tensorboard --logdir {loop.folder}", soft_wrap=True)


if __name__ == "__main__":
    main()
