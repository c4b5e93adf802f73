"""Settings of the outer loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SEED, THREADS, check_fields
from metarl.registry import check_choice
from metarl.runs.writers import WRITERS

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the outer loop."""

    only_at_start: ClassVar[tuple[str, ...]] = ("seed",)
    """Settings that a resumed run takes from its checkpoint."""

    iterations: int = 70_000
    """Meta-iterations to train for; 0 evaluates the learner untrained."""
    meta_batch_size: int = 25
    """Tasks per meta-iteration."""
    task_chunk_size: int | None = None
    """Tasks computed at once; fewer need less memory. None: all, or as many as suit the learner
    and the workers."""
    workers: int = 1
    """Chunks computed in parallel, each on one CPU thread. Suits convolutional networks."""
    optimizer: Optimizer = "adam"
    """Outer optimiser. Reptile takes sgd, whose rate is its epsilon."""
    outer_lr: float = 1e-3
    """Rate of the outer optimiser, above 0."""
    schedule: Schedule = "constant"
    """How the outer rate changes from its value to `final_lr`."""
    final_lr: float = 0.0
    """Outer rate at the end of a linear or cosine schedule."""
    max_grad_norm: float | None = None
    """Clips the norm of the meta-gradient. None: no clipping."""
    seed: int = 0
    """Seed of everything random in the run."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """CPU threads of torch. None: torch's own choice. Small networks are quickest with 1."""
    compile: bool = False
    """Compiles the meta-gradient and the products of trust regions: up to a minute of start-up,
    then faster iterations."""
    log_every: int = 100
    """Meta-iterations between two rows of training metrics."""
    eval_every: int = 5_000
    """Meta-iterations between two adaptation curves on validation tasks; 0 for none."""
    eval_tasks: int = 100
    """Tasks of such a curve."""
    eval_steps: int = 10
    """Adaptation steps of such a curve."""
    checkpoint_every: int = 1_000
    """Meta-iterations between two checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints kept; older ones are deleted."""
    loggers: tuple[str, ...] = ()
    """Loggers beside TensorBoard: csv, wandb, mlflow, or module:Name of your own."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(
            self,
            iterations=NOT_NEGATIVE, meta_batch_size=COUNT, task_chunk_size=COUNT,
            workers=THREADS, threads=THREADS, outer_lr=POSITIVE, final_lr=NOT_NEGATIVE,
            max_grad_norm=POSITIVE, seed=SEED, log_every=COUNT, eval_every=NOT_NEGATIVE,
            eval_tasks=COUNT, eval_steps=NOT_NEGATIVE, checkpoint_every=COUNT,
            keep_checkpoints=COUNT,
        )  # fmt: skip
        for name in self.loggers:
            if ":" not in name:
                check_choice("logger", name, WRITERS.names())
