"""What the experiments on control tasks share: their settings, and what these build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.table import Table

from metarl.adaptation import settings as learners
from metarl.adaptation.learner import ControlLearner
from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import TEST_SEED, ControlProtocol
from metarl.lab.control_reports import control_report, log_film
from metarl.lab.experiment import Components
from metarl.plots.film import Film, film_adaptation
from metarl.plots.pictures import Picture, returns_picture
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings, RL2Settings
from metarl.rl.trials.recurrent_learner import RecurrentLearner
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.rl.trials.strategies import StrategyLearner, StrategySettings
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sb3.baseline import PPOLearner, PPOSettings
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.sim.make import make_vec
from metarl.training.loop import OuterLoop
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.outer_update import UpdateSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.training.untrained import NoUpdateSettings

Draw = Callable[[PolicyLearner, ControlTasks, int, torch.Generator], Picture]
"""Adapts a learner to tasks, in a number of steps, and returns what that looks like."""

DRAWN_TASKS = 3


@dataclass(frozen=True)
class ControlSettings:
    """An experiment on control tasks; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "maml"
    """The algorithm; an unknown name lists them all."""
    learner: Any = field(default_factory=learners.MAMLSettings)
    """`LearnerSettings`, `RL2Settings`, `StrategySettings` or `PPOSettings`, by `algorithm`."""
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
    film: int = 0
    """Test tasks in a film of the adaptation at the end; robots need OpenGL for it."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""

    def __post_init__(self) -> None:
        """Checks the settings of the final table, before hours go by.

        Raises:
            SettingsError: A count is out of its range.
        """
        if self.test_tasks < 1 or min(self.test_steps, self.film) < 0:
            raise SettingsError(
                "Expected `test_tasks` of at least 1, `test_steps` and `film` of at least 0, got "
                f"{self.test_tasks}, {self.test_steps} and {self.film}."
            )


C = TypeVar("C", bound=ControlSettings)


def control_configs(
    maml: C,
    changes: Mapping[str, C] | None = None,
    *,
    adam_lr: float = 0.01,
    max_kl: float | None = None,
) -> dict[str, C]:
    """Makes the configurations of all algorithms from that of MAML-TRPO.

    All have its tasks and rollouts and use as many environment steps in training: the more
    adaptation steps, the fewer meta-iterations. "scratch" and "ppo" have none: their test tasks
    together use what meta-training uses of them.

    Args:
        maml: MAML's configuration; its learner is a `MAMLSettings`.
        changes: Configurations that take the place of these, or come beside them.
        adam_lr: Rate of the inner Adam of "reptile" and "scratch".
        max_kl: See `ProximalSettings`.
    """
    learner, training = maml.learner, maml.training
    assert isinstance(learner, learners.MAMLSettings)
    lr, steps, untrained = learner.inner_lr, learner.steps, replace(training, iterations=0)
    batches = training.iterations * (steps + 1)

    def adapting(steps: int, **changes: Any) -> TrainingSettings:
        return replace(training, iterations=max(batches // (steps + 1), 1), **changes)

    clipped = {
        "gradients": replace(maml.gradients, clip=0.3, inner_kl=5e-4),
        "update": ProximalSettings(max_kl=max_kl),
        "training": adapting(steps, outer_lr=3e-3),
    }
    alone = {
        "training": untrained,
        "test_steps": max(batches * training.meta_batch_size // maml.test_tasks, 1),
    }
    different: dict[str, dict[str, Any]] = {
        "maml": {},
        "fomaml": {"learner": replace(learner, first_order=True)},
        "promp": clipped,
        "metasgd": {"learner": learners.MetaSGDSettings(steps, 0.2 * lr, lr)},
        "mamlplusplus": {
            # The loss after every step counts to the end: curves are judged after every step.
            "learner": learners.MAMLPlusPlusSettings(lr, 3, 2 * batches, frozen=()),
            "training": adapting(3),
        },
        "reptile": {
            "learner": learners.ReptileSettings(adam_lr, 3, batch_size=None),
            "update": GradientUpdateSettings(),
            "training": adapting(3, optimizer="sgd", outer_lr=0.3),
        },
        "lstm": {"learner": learners.LSTMMetaLearnerSettings(steps), **clipped},
        "learned-optimizer": {
            "learner": learners.LearnedOptimizerSettings(steps, steps),
            **clipped,
        },
        "pretrained": {"learner": learners.PretrainedSettings(lr), "training": adapting(0)},
        "oracle": {
            "learner": learners.PretrainedSettings(lr),
            "observe_task": True,
            "training": adapting(0),
        },
        "random": {"learner": learners.PretrainedSettings(lr), "training": untrained},
        "scratch": {"learner": learners.ScratchSettings(adam_lr), **alone},
        "ppo": {"learner": PPOSettings(), "update": NoUpdateSettings(), **alone},
    }
    configs = {name: replace(maml, algorithm=name, **fields) for name, fields in different.items()}
    return configs | dict(changes or {})


def rl2_config(
    maml: ControlSettings,
    episodes: int,
    gradients: PolicyGradientSettings,
    training: TrainingSettings,
    **learner: Any,
) -> ControlSettings:
    """Makes the configuration of RL^2 with PPO, on the tasks that another one is tested on.

    Args:
        maml: The other configuration.
        episodes: Episodes of a trial, in training, for the curves and at test.
        gradients: Trials per task, discount, lambda and clip.
        training: The outer loop's settings.
        **learner: Fields of `RL2Settings`.
    """
    return replace(
        maml,
        algorithm="rl2",
        learner=RL2Settings(episodes, **learner),
        gradients=gradients,
        update=ProximalSettings(),
        training=replace(training, eval_steps=episodes - 1),
        hidden=(),
        test_steps=episodes - 1,
    )


def strategy_config(like: ControlSettings, name: str, learner: StrategySettings) -> ControlSettings:
    """Makes the configuration of a strategy, which has nothing to train, tested as another one."""
    training = replace(like.training, iterations=0)
    return replace(
        like, algorithm=name, learner=learner, update=NoUpdateSettings(), training=training
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
        family: The tasks.
        protocols: Published evaluations that the report adds to the family's test tasks.
        draw: Draws an adaptation, for the report and `metarl play`; by default that one alone, as
            a table of returns.

    Raises:
        SettingsError: The learner has nothing to train, and meta-iterations are asked for; or
            parts of the settings do not suit each other.
    """
    if isinstance(settings.learner, learners.ScratchSettings) and settings.training.iterations:
        raise SettingsError(
            "Learning each task from scratch has nothing to meta-train: expected "
            f"--training.iterations 0, got {settings.training.iterations}."
        )
    generator = torch.Generator().manual_seed(settings.training.seed)
    learner = _learner(settings, family, generator)
    test, moves = family.split("test"), isinstance(learner, PolicyLearner | TrialLearner)

    def some(loop: OuterLoop, tasks: int, steps: int | None) -> tuple[Any, int, torch.Generator]:
        generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
        steps = settings.test_steps if steps is None else steps
        return test.sample(tasks, generator), steps, generator

    def show(loop: OuterLoop, tasks: int, steps: int | None) -> Picture:
        if draw is None or not isinstance(learner, PolicyLearner):
            return returns_picture(learner, *some(loop, tasks, steps))
        return draw(learner, *some(loop, tasks, steps))

    def film(loop: OuterLoop, tasks: int, steps: int | None) -> Film:
        assert isinstance(learner, PolicyLearner | TrialLearner)
        return film_adaptation(learner, *some(loop, tasks, steps))

    def report(loop: OuterLoop) -> Table:
        if settings.film and moves:
            log_film(loop, lambda: film(loop, settings.film, None))
        counts = (settings.test_tasks, settings.test_steps)
        if isinstance(learner, PPOLearner):  # each further evaluation would take as long as this
            return control_report(loop, test, settings.algorithm, *counts)
        if draw is not None:
            loop.logger.picture(show(loop, DRAWN_TASKS, None), loop.iteration)
        return control_report(loop, test, settings.algorithm, *counts, protocols)

    return Components(
        learner,
        family.split("train"),
        validation=family.split("validation"),
        update=settings.update.build(learner, settings.training),
        report=report,
        show=show,
        film=film if moves else None,
    )


def _learner(
    settings: ControlSettings, family: TaskFamily, generator: torch.Generator
) -> ControlLearner:
    chosen, gradients = settings.learner, settings.gradients
    if isinstance(chosen, StrategySettings):
        return StrategyLearner(chosen.build(family), family, gradients.trajectories)
    if isinstance(chosen, PPOSettings):
        policy = (settings.hidden, settings.init_std, settings.observe_task)
        return PPOLearner(chosen, family, gradients, *policy)
    env = make_vec(family, 1, "cpu", observe_task=settings.observe_task)
    spaces = (env.single_observation_space, env.single_action_space)
    shared: dict[str, Any] = {
        "task_chunk_size": settings.training.task_chunk_size,
        "observe_task": settings.observe_task,
    }
    if isinstance(chosen, RL2Settings):
        widths = (chosen.units, chosen.embedding, settings.hidden)
        recurrent = RecurrentPolicy(*spaces, generator, *widths, settings.init_std)
        return RecurrentLearner(recurrent, family, chosen, gradients, **shared)
    policy = policy_for(spaces, generator, settings.hidden, init_std=settings.init_std)
    return PolicyLearner(chosen.build(policy, generator), family, gradients, **shared)
