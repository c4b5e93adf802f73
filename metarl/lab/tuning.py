"""Sweeps over settings of an experiment: trials by Optuna, compared on validation tasks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from metarl import ranks
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.gradient_learner import as_learner
from metarl.adaptation.learner import Learner
from metarl.console import short_path
from metarl.errors import NonFiniteError, SettingsError, SimulationError, short_repr
from metarl.evaluation.curves import AdaptationCurve
from metarl.extras import import_extra
from metarl.lab.command_line import parse_settings
from metarl.lab.experiment import Experiment, print_stopped
from metarl.lab.search_space import as_arguments, search_space, with_values
from metarl.runs.best import HIGHER_IS_BETTER, LOWER_IS_BETTER
from metarl.tasks.base import TaskSource
from metarl.training.loop import OuterLoop, TrainingResult

TRIES, PAUSE = 3, 1.0
"""How often a storage is opened before it counts as an error, and the seconds in between."""
INTERRUPTED = "interrupted"
"""Attribute of trials that a signal or an error of the program ended."""
STARTUP_TRIALS = 5
"""Trials before the first one can be ended early."""


class PrunedError(Exception):
    """Ends a training that is worse than the median."""


class Study:
    """A search of settings, kept in a storage that several processes and machines may share.

    A call of `run` continues what the storage holds. Its trials are ordinary run folders. No test
    task is met: trials are compared by the mean of the validation metric after the last adaptation
    step (`eval_steps`), at the end of the training.

    Args:
        experiment: The experiment.
        options: Options of its command line, the same for all trials.
        search: The search space; see `search_space`.
        storage: A file, or the address of a database; None for `tune.log` in the folder of the
            runs.
        name: Name of the study; None for the names of experiment and algorithm.
        pruning: Ends trials early that are worse than the median at the same meta-iteration.
        seed: Seed of the proposals; None for another one each time.
        direction: "minimize" or "maximize" the metric; None: as its name says. A metric of the
            user's own needs it.

    Raises:
        SettingsError: Optuna is not installed, the search space does not suit the settings, there
            is no validation during training, or the study was made with other options.
    """

    def __init__(
        self,
        experiment: Experiment[Any],
        options: Sequence[str],
        search: Sequence[str],
        *,
        storage: str | None = None,
        name: str | None = None,
        pruning: bool = True,
        seed: int | None = None,
        direction: Literal["minimize", "maximize"] | None = None,
    ) -> None:
        ranks.start()
        if ranks.count() > 1:
            raise SettingsError(
                "A study runs its trials one by one: start several `metarl tune` with one "
                "--storage instead of torchrun."
            )
        self._optuna = import_extra("optuna", "tune")
        self._experiment, self._options = experiment, list(options)
        self._direction = direction
        self._settings, resume = parse_settings(experiment.configs, experiment.name, options)
        if resume is not None:
            raise SettingsError("A study is resumed by the same command: leave out --resume.")
        if not self._settings.training.eval_every:
            raise SettingsError(
                "A study compares validation metrics: expected --training.eval-every above 0."
            )
        self._space = search_space(self._settings, search)
        self.names = [dimension.name for dimension in self._space]
        self.name = name or f"{experiment.name}-{self._settings.algorithm}"
        self._study = self._opened(storage, pruning, seed)
        self._check_same()

    @property
    def metric(self) -> str:
        """The validation metric, or an empty string before the first one."""
        return self._study.user_attrs.get("metric", "")

    def run(self, trials: int) -> None:
        """Runs trials until the study has this many, those of other processes included.

        A signal saves the trial's run, which a further call does not resume, and ends the process.
        A trial that it or an error ended does not count: a further call runs another one.

        Raises:
            SettingsError: The experiment has no validation tasks, the direction of its metric is
                not known, or `trials` is below 1.
        """
        if trials < 1:
            raise SettingsError(f"Expected at least 1 trial, got {trials}.")
        state = self._optuna.trial.TrialState
        while self._counted() < trials:
            trial = self._study.ask()
            try:
                value, result = self._train(trial)
            except PrunedError:
                self._study.tell(trial, state=state.PRUNED)
            except (NonFiniteError, SimulationError) as error:
                trial.set_user_attr("error", str(error))
                self._study.tell(trial, state=state.FAIL)
            except BaseException:
                trial.set_user_attr(INTERRUPTED, True)
                self._study.tell(trial, state=state.FAIL)
                raise
            else:
                if not result.finished:
                    trial.set_user_attr(INTERRUPTED, True)
                if value is None:
                    self._study.tell(trial, state=state.FAIL)
                else:
                    self._study.tell(trial, self._signed(value))
                if not result.finished:
                    print_stopped(result, "The same command continues the study, with a new trial.")

    def _counted(self) -> int:
        """Returns the number of finished trials, without those that were interrupted."""
        trials = self._study.trials
        return sum(t.state.is_finished() and INTERRUPTED not in t.user_attrs for t in trials)

    def best(self, count: int) -> list[Any]:
        """Returns the best finished trials, best first, with the metric as their `value`."""
        done = [t for t in self._study.trials if t.state.name == "COMPLETE"]
        done = sorted(done, key=lambda t: t.value)[:count]
        return [_WithValue(t.number, self._signed(t.value), t.params) for t in done]

    def counts(self) -> dict[str, int]:
        """Returns the number of trials by state: "complete", "pruned", "fail", "running"."""
        return dict(Counter(t.state.name.lower() for t in self._study.trials))

    def best_arguments(self) -> list[str] | None:
        """Returns the arguments of `metarl train` of the best trial; None without one."""
        best = self.best(1)
        if not best:
            return None
        return [*self._options, *as_arguments(self._settings, best[0].params)]

    def _train(self, trial: Any) -> tuple[float | None, TrainingResult]:
        """Trains with proposed values; returns the last metric, or None if it is not finite."""
        values = {dimension.name: dimension.suggest(trial) for dimension in self._space}
        settings = with_values(self._settings, values)
        components = self._experiment.build(settings)
        if components.validation is None:
            raise SettingsError(
                f"The experiment {self._experiment.name} has no validation tasks to compare by."
            )
        self._check_direction(components.learner, components.validation)
        loop = self._experiment.open(settings, components)
        trial.set_user_attr("folder", short_path(loop.folder))
        last: list[float] = []

        def on_curve(curve: AdaptationCurve) -> None:
            last[:] = [float(curve.values[-1].mean())]
            self._report(trial, loop, curve.metric, last[0])

        loop.on_curve = on_curve
        try:
            result = loop.run()
        finally:
            loop.logger.close()
        finite = bool(last) and result.finished and math.isfinite(last[0])
        return (last[0] if finite else None), result

    def _report(self, trial: Any, loop: OuterLoop, metric: str, value: float) -> None:
        """Reports a validation metric; raises PrunedError if the trial is worse than the median."""
        if not self.metric:
            self._study.set_user_attr("metric", metric)
        if not math.isfinite(value):
            return
        trial.report(self._signed(value), loop.iteration)
        if loop.iteration < loop.settings.iterations and trial.should_prune():
            raise PrunedError

    def _signed(self, value: float) -> float:
        """Returns a metric such that smaller is better, or the metric of such a value."""
        is_lower_better = self.metric in LOWER_IS_BETTER
        if self._direction is not None:
            is_lower_better = self._direction == "minimize"
        return value if is_lower_better else -value

    def _check_direction(self, learner: Learner | Adaptation, validation: TaskSource) -> None:
        """Checks before a training that it is known which values of its metric are better."""
        if self._direction is not None:
            return
        tasks = validation.sample(1, torch.Generator().manual_seed(0))
        metric = as_learner(learner).metric(tasks)
        if metric not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
            raise SettingsError(
                f"The name of the metric {metric} does not say which values are better: expected "
                "--direction minimize or --direction maximize."
            )

    def _opened(self, storage: str | None, pruning: bool, seed: int | None) -> Any:
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruners = optuna.pruners
        place = storage or str(Path(self._settings.runs) / "tune.log")

        def open_study() -> Any:
            kept: Any = place
            if "://" not in place:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                journal = optuna.storages.journal.JournalFileBackend(place)
                kept = optuna.storages.JournalStorage(journal)
            return optuna.create_study(
                storage=kept,
                study_name=self.name,
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=pruners.MedianPruner(STARTUP_TRIALS) if pruning else pruners.NopPruner(),
            )

        # Of several processes that make the tables of a database at once, all but one fail.
        for _ in range(TRIES - 1):
            with contextlib.suppress(Exception):
                return open_study()
            time.sleep(PAUSE)
        try:
            return open_study()
        except Exception as error:  # databases and their drivers raise anything
            raise SettingsError(
                f"Cannot open the storage {place} of the study: {type(error).__name__}: "
                f"{short_repr(str(error), 300)}. Expected a file, or the address of a database "
                "whose driver is installed."
            ) from error

    def _check_same(self) -> None:
        """Checks that the study was made with the same options and search space."""
        space = [_text_of(dimension) for dimension in self._space]
        direction = [] if self._direction is None else [self._direction]
        ours = {"options": self._options, "search": space, "direction": direction}
        for name, value in ours.items():
            known = self._study.user_attrs.get(name)
            if known is None:
                self._study.set_user_attr(name, value)
            elif known != value:
                raise SettingsError(
                    f"The study {self.name} was made with the {name} {' '.join(known) or 'none'}, "
                    f"got {' '.join(value) or 'none'}: results would not compare. Choose another "
                    "--study, or the same."
                )


@dataclasses.dataclass(frozen=True)
class _WithValue:
    number: int
    value: float
    params: dict[str, Any]


def _text_of(dimension: Any) -> str:
    """Returns a dimension as text."""
    return f"{dimension.name}={','.join(map(str, dimension.choices))}:{dimension.log}"
