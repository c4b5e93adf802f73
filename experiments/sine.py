"""Sine regression (Finn et al. 2017, section 5.1): adapt to A sin(x - phi) from K points.

    python experiments/sine.py                                  # MAML, 70 000 iterations
    python experiments/sine.py --algorithm reptile
    python experiments/sine.py --learner.steps 5 --training.seed 1
    python experiments/sine.py --resume latest                  # after Ctrl-C or a crash
    tensorboard --logdir runs/sine

Prints a table of mean squared errors on 600 test tasks after 0..10 steps for K = 5, 10 and 20, and
writes `adaptation.png` and `fits.png` into the run folder. MAML: two to three minutes on one core.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from metarl.adaptation import GradientLearner, algorithms
from metarl.lab import Components, Experiment
from metarl.lab.registered import with_registered
from metarl.lab.sine_reports import show_sine, sine_report
from metarl.models import MLP
from metarl.models.mlp import Init
from metarl.models.modules import as_adaptable, network_file
from metarl.ranges import COUNT, check_fields
from metarl.tasks import Sine
from metarl.training import TrainingSettings


@dataclass(frozen=True)
class SineSettings:
    """Sine regression. Options and defaults are those of the chosen `--algorithm`."""

    algorithm: str = "maml"
    """Name of the algorithm; an unknown name lists them all."""
    learner: algorithms.GradientAlgorithm = field(default_factory=algorithms.MAMLAlgorithm)
    """The options of the algorithm."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    shots: int = 5
    """Support points per training task (K)."""
    queries: int = 10
    """Query points per training task."""
    init: Init = "lecun"
    """Initial weights: lecun, or truncated (standard deviation 0.01, as the paper's)."""
    network: str | None = None
    """Path of a file that `metarl.models.save_module` wrote (.safetensors): a network from [N, 1]
    to [N, 1]; None: two hidden layers of 40 units."""
    test_tasks: int = 600
    """Test tasks of the final table."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    resume: str | None = None
    """Resumes a run: its path, that of a checkpoint, or `latest` for the newest of the algorithm;
    `auto`: `latest`, or a new run if there is none. With --trust, code that the run names as
    module:Name is imported."""

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_fields(self, shots=COUNT, queries=COUNT, test_tasks=COUNT)

    @property
    def only_at_start(self) -> tuple[str, ...]:
        """Settings that a resumed run ignores; some learners draw initial weights again."""
        return (
            ()
            if hasattr(self.learner, "fresh_start") or not self.learner.meta_trains
            else ("init",)
        )


# A falling rate, clipping, K = 5 and the initial weights were chosen on validation tasks: with the
# paper's (constant, none, 10, truncated) gradient descent diverges on some tasks within ten steps.
BASE = TrainingSettings(schedule="linear", max_grad_norm=10.0, threads=1)
LSTMS = replace(
    BASE, iterations=10_000, meta_batch_size=4, outer_lr=3e-3, schedule="cosine", max_grad_norm=0.25
)
CONFIGS = with_registered(
    {
        "maml": SineSettings(training=BASE),
        "fomaml": SineSettings("fomaml", algorithms.MAMLAlgorithm(first_order=True), BASE),
        "metasgd": SineSettings("metasgd", algorithms.MetaSGDAlgorithm(), BASE),
        "mamlplusplus": SineSettings(
            "mamlplusplus",
            algorithms.MAMLPlusPlusAlgorithm(0.01, steps=2, multi_step_iterations=10_000),
            replace(BASE, iterations=30_000),
        ),
        "reptile": SineSettings(
            "reptile",
            algorithms.ReptileAlgorithm(inner_lr=0.01, steps=10),
            replace(BASE, iterations=30_000, optimizer="sgd", outer_lr=0.1, max_grad_norm=None),
            shots=10,
        ),
        "lstm": SineSettings("lstm", algorithms.LSTMMetaLearnerAlgorithm(steps=5, units=8), LSTMS),
        "learned-optimizer": SineSettings(
            "learned-optimizer",
            algorithms.LearnedOptimizerAlgorithm(steps=5, unroll=5, units=8),
            LSTMS,
        ),
        "pretrained": SineSettings(
            "pretrained", algorithms.PretrainedAlgorithm(), BASE, init="truncated"
        ),
    }
)


def build(settings: SineSettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    model = (
        MLP((1, 40, 40, 1), generator, init=settings.init)
        if settings.network is None
        else as_adaptable(network_file(settings.network))
    )
    learner = GradientLearner(settings.learner.clipped_adaptation(model, generator))
    return Components(
        learner=learner,
        tasks=Sine(settings.shots, settings.queries),
        validation=Sine(settings.shots, 100).split("validation"),
        report=lambda loop: sine_report(loop, learner, settings.algorithm, settings.test_tasks),
        show=lambda loop, tasks, steps: show_sine(loop, learner, tasks, steps),
    )


EXPERIMENT = Experiment("sine", CONFIGS, build, minutes={"maml": 3.3})

if __name__ == "__main__":
    EXPERIMENT.run()
