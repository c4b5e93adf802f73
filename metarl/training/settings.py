"""Settings of the outer loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from metarl.errors import SettingsError
from metarl.registry import check_choice

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]
OPTIMIZERS, SCHEDULES = get_args(Optimizer), get_args(Schedule)


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

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A count is below 1 or a rate not above 0.
        """
        counts = (
            "meta_batch_size", "workers", "log_every", "eval_tasks",
            "checkpoint_every", "keep_checkpoints",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"Expected `{name}` to be at least 1, got {getattr(self, name)}."
                )
        if self.task_chunk_size is not None and self.task_chunk_size < 1:
            raise SettingsError(
                f"Expected `task_chunk_size` to be at least 1, got {self.task_chunk_size}."
            )
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"Expected `threads` to be at least 1, got {self.threads}.")
        for name in ("outer_lr", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"Expected a finite `{name}` above 0, got {value}.")
        if not 0 <= self.final_lr < math.inf:
            raise SettingsError(f"Expected a finite `final_lr` of at least 0, got {self.final_lr}.")
        if min(self.iterations, self.eval_every, self.eval_steps) < 0:
            raise SettingsError(
                "Expected `iterations`, `eval_every` and `eval_steps` of at least 0."
            )
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            check_choice(name, getattr(self, name), choices)
