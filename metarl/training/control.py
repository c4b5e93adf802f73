"""What the experiments on control tasks share: their settings, and what these build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metarl.adaptation import settings as learners
from metarl.evaluation.control_protocol import ControlProtocol
from metarl.rl.policies import Policy, policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim.family import Family
from metarl.sim.make import make_vec
from metarl.training.experiment import Parts
from metarl.training.outer_update import UpdateSettings
from metarl.training.reports import control_report
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings


@dataclass(frozen=True)
class ControlSettings:
    """An experiment on control tasks; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "maml"
    """The algorithm; an unknown name lists them all."""
    learner: learners.LearnerSettings = field(default_factory=learners.MAMLSettings)
    gradients: PolicyGradientSettings = field(default_factory=PolicyGradientSettings)
    update: UpdateSettings = field(default_factory=TrustRegionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the policy's hidden layers."""
    init_std: float = 1.0
    """Initial standard deviation of continuous actions, in their units, above 0."""
    observe_task: bool = False
    """Tells the policy the task: an oracle, which needs no adaptation."""
    test_tasks: int = 40
    """Test tasks of the final table."""
    test_steps: int = 3
    """Adaptation steps of the final table."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""


def build_control(
    settings: ControlSettings, family: Family, protocols: Sequence[ControlProtocol] = ()
) -> Parts:
    """Builds policy, learner and outer update for a family of control tasks.

    Args:
        settings: The settings.
        family: The tasks.
        protocols: Published evaluations that the report adds to the family's test tasks.
    """
    generator = torch.Generator().manual_seed(settings.training.seed)
    learner = PolicyLearner(
        settings.learner.build(_policy(settings, family, generator), generator),
        family,
        settings.gradients,
        task_chunk_size=settings.training.task_chunk_size,
        observe_task=settings.observe_task,
    )
    return Parts(
        learner,
        family.split("train"),
        validation=family.split("validation"),
        update=settings.update.build(learner, settings.training),
        report=lambda loop: control_report(
            loop, family.split("test"), settings.algorithm, settings.test_tasks,
            settings.test_steps, protocols,
        ),
    )  # fmt: skip


def _policy(settings: ControlSettings, family: Family, generator: torch.Generator) -> Policy:
    env = make_vec(family, 1, "cpu", observe_task=settings.observe_task)
    spaces = (env.single_observation_space, env.single_action_space)
    return policy_for(spaces, generator, settings.hidden, init_std=settings.init_std)
