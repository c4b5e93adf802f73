"""Experiments on control tasks: the settings and what they build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.devices import resolve_device
from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import ControlProtocol
from metarl.lab.control_reports import ControlReports, Draw
from metarl.lab.experiment import Components
from metarl.ranges import POSITIVE, WIDTH, Range, check_fields
from metarl.rl.problem import ControlAlgorithm, ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.sim.family import TaskFamily
from metarl.training.outer_update import UpdateSettings
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.training.untrained import check_untrained


@dataclass(frozen=True)
class ControlSettings:
    """Control tasks. Options and defaults are those of the chosen `--algorithm`."""

    only_at_start: ClassVar[tuple[str, ...]] = ("init_std",)
    ranges: ClassVar[Mapping[str, Range]] = {}
    """The ranges of the numbers that a subclass adds."""

    algorithm: str = "maml"
    """Name of the algorithm; an unknown name lists them all."""
    learner: ControlAlgorithm = field(default_factory=MAMLAlgorithm)
    """The options of the algorithm."""
    gradients: PolicyGradientSettings = field(default_factory=PolicyGradientSettings)
    update: UpdateSettings = field(default_factory=TrustRegionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the policy's hidden layers; none: a linear policy."""
    init_std: float = 1.0
    """Initial standard deviation of continuous actions, in the policy's units, above 0."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    observe_task: bool = False
    """The policy observes the task vector: an oracle, which needs no adaptation."""
    test_tasks: int = 40
    """Test tasks of the final table."""
    test_steps: int = 3
    """Adaptation steps of the final table."""
    film: int = 0
    """Test tasks in a film of the adaptation at the end; 0: no film. Robots need OpenGL for it."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    resume: str | None = None
    """Resumes a run: its path, that of a checkpoint, or `latest` for the newest of the algorithm;
    `auto`: `latest`, or a new run if there is none. With --trust, code that the run names as
    module:Name is imported."""

    def __post_init__(self) -> None:
        """Checks the settings before anything is built.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(self, hidden=WIDTH, init_std=POSITIVE, **self.ranges)
        if self.test_tasks < 1 or min(self.test_steps, self.film) < 0:
            raise SettingsError(
                "Expected `test_tasks` of at least 1, `test_steps` and `film` of at least 0, got "
                f"{self.test_tasks}, {self.test_steps} and {self.film}."
            )


def build_control(
    settings: ControlSettings,
    family: TaskFamily,
    protocols: Sequence[ControlProtocol] = (),
    draw: Draw | None = None,
) -> Components:
    """Builds policy, learner and outer update for a family of control tasks.

    Args:
        settings: The settings.
        family: The task family.
        protocols: Published evaluations that the report adds to the test tasks.
        draw: Draws an adaptation for the report and `metarl play`; by default `metarl play` prints
            a table of returns and the report has no picture.

    Raises:
        SettingsError: The algorithm has nothing to meta-train, and meta-iterations are asked for;
            or parts of the settings do not suit each other.
    """
    learner = settings.learner.build(
        ControlProblem(
            family,
            torch.Generator().manual_seed(settings.training.seed),
            settings.gradients,
            settings.hidden,
            settings.init_std,
            settings.observe_task,
            settings.training.chunk_size(_device_of_worlds(settings, family)),
            settings.policy,
        )
    )
    learner.check_steps(settings.test_steps)
    if settings.training.eval_every:
        learner.check_steps(settings.training.eval_steps)
    if not any(p.requires_grad for p in learner.parameters()):
        check_untrained(settings.training, f"--algorithm {settings.algorithm}")
    reports = ControlReports(learner, family, settings, protocols, draw)
    return Components(
        learner,
        family.split("train"),
        validation=family.split("validation"),
        update=settings.update.build(learner, settings.training),
        report=reports.report,
        show=reports.show,
        film=None if learner.worlds is None else reports.film,
    )


def _device_of_worlds(settings: ControlSettings, family: TaskFamily) -> torch.device:
    """Returns the device that bounds the worlds at once: the CPU for gymnasium's environments."""
    return resolve_device("cpu" if family.engine == "gymnasium" else settings.training.device)
