"""Settings of the outer loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from metarl.cuda_graphs import allow_graphs
from metarl.devices import (
    MatmulPrecision,
    Precision,
    resolve_device,
    set_deterministic,
    set_matmul_precision,
    set_threads,
)
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SEED, THREADS, check_fields
from metarl.registry import check_choice
from metarl.runs.writers import WRITERS
from metarl.training.optimizers import check_optimizer_settings


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the outer loop."""

    only_at_start: ClassVar[tuple[str, ...]] = ("seed",)
    """Settings that a resumed run takes from its checkpoint."""
    in_older_runs: ClassVar[Mapping[str, Any]] = {"cpu_chunk_size": None}
    """Values of settings that runs of older versions have not saved."""

    iterations: int = 70_000
    """Meta-iterations to train for; 0 evaluates the learner untrained."""
    meta_batch_size: int = 25
    """Tasks per meta-iteration."""
    task_chunk_size: int | None = None
    """Tasks computed at once; fewer need less memory. None: all, or as many as suit the device, the
    learner and the workers."""
    cpu_chunk_size: int | None = None
    """Tasks computed at once on a CPU where `task_chunk_size` is None: few tasks stay in its
    caches, while a GPU is fastest with all at once."""
    workers: int = 1
    """Chunks computed in parallel, each on one CPU thread. Suits convolutional networks."""
    optimizer: str = "adam"
    """Outer optimiser: the name of a class of torch.optim in lower case (adam, adamw, sgd,
    rmsprop, ...). Reptile takes sgd, whose rate is its epsilon."""
    optimizer_options: tuple[str, ...] = ()
    """Further options of the outer optimiser: momentum=0.9, betas=(0.9,0.99)."""
    outer_lr: float = 1e-3
    """Rate of the outer optimiser, above 0."""
    rate_factors: tuple[str, ...] = ()
    """Factors of the rate by name pattern of the parameters: rule.*=0.1. The first match counts."""
    weight_decay: float = 0.0
    """Weight decay of the outer optimiser, at least 0; that of adamw, too, is 0 unless set."""
    no_decay: tuple[str, ...] = ()
    """Name patterns of parameters without weight decay: *.bias."""
    schedule: str = "constant"
    """How the outer rate changes: constant, linear or cosine (to `final_lr`), or a class of
    torch.optim.lr_scheduler, stepped once per meta-iteration (OneCycleLR, StepLR, ...)."""
    schedule_options: tuple[str, ...] = ()
    """Options of a class of torch.optim.lr_scheduler: step_size=1000."""
    warmup: int = 0
    """Meta-iterations in which the rate rises linearly to its value."""
    final_lr: float = 0.0
    """Outer rate at the end of a linear or cosine schedule."""
    max_grad_norm: float | None = None
    """Clips the norm of the meta-gradient to this, above 0. None: no clipping."""
    seed: int = 0
    """Seed of everything random in the run."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    deterministic: bool = False
    """The same seed gives the same run on one GPU, to the bit, also when it is resumed; slower. On
    the CPU it always does."""
    matmul_precision: MatmulPrecision = "highest"
    """Precision of matrix products and convolutions on a GPU: highest is float32; high is TF32,
    faster and with errors of 1e-3, in meta-gradients too."""
    precision: Precision = "float32"
    """bfloat16: metric learners train their convolutions in it; weights, normalisations, distances
    and evaluation stay float32. Other learners refuse it."""
    graphs: bool = True
    """On a GPU, captures rollouts, iterations and TRPO's steps as CUDA graphs, where this is
    possible: one launch in place of thousands."""
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
    """Validation tasks of such an adaptation curve."""
    eval_steps: int = 10
    """Adaptation steps of a curve on validation tasks."""
    checkpoint_every: int = 1_000
    """Meta-iterations between two checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept. Older ones are deleted, except that of the best value on
    validation tasks after the last step, if the metric is one whose better values are known."""
    rank_timeout: float = 600.0
    """Seconds after which all of several processes end if one of them keeps the others waiting."""
    loggers: tuple[str, ...] = ()
    """Loggers in addition to TensorBoard: csv, wandb, mlflow, or module:Name."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        if isinstance(self.device, torch.device):
            object.__setattr__(self, "device", str(self.device))
        check_fields(
            self,
            iterations=NOT_NEGATIVE, meta_batch_size=COUNT, task_chunk_size=COUNT,
            cpu_chunk_size=COUNT,
            workers=THREADS, threads=THREADS, outer_lr=POSITIVE, final_lr=NOT_NEGATIVE,
            max_grad_norm=POSITIVE, seed=SEED, log_every=COUNT, eval_every=NOT_NEGATIVE,
            eval_tasks=COUNT, eval_steps=NOT_NEGATIVE, checkpoint_every=COUNT,
            keep_checkpoints=COUNT, rank_timeout=POSITIVE, weight_decay=NOT_NEGATIVE,
            warmup=NOT_NEGATIVE,
        )  # fmt: skip
        check_optimizer_settings(self)
        for name in self.loggers:
            if ":" not in name:
                check_choice("logger", name, WRITERS.names())

    def prepare_process(self) -> torch.device:
        """Applies what holds for the whole process; returns the device.

        Raises:
            SettingsError: This machine has no such device.
        """
        set_threads(self.threads)
        set_deterministic(self.deterministic)
        device = resolve_device(self.device)
        if device.type == "cuda":
            set_matmul_precision(self.matmul_precision)
            allow_graphs(self.graphs)
        return device

    def chunk_size(self, device: torch.device) -> int | None:
        """Returns the tasks computed at once on a device; None: as many as suit the learner."""
        if self.task_chunk_size is None and device.type == "cpu":
            return self.cpu_chunk_size
        return self.task_chunk_size
