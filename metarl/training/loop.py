"""The outer loop: one for all algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl import ranks
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.gradient_learner import as_learner
from metarl.adaptation.learner import Learner
from metarl.errors import CheckpointError, MetarlError, NonFiniteError, SimulationError
from metarl.evaluation.curves import AdaptationCurve
from metarl.ranges import user_path
from metarl.runs.best import best_on_validation
from metarl.runs.checkpoints import Checkpoints, load_checkpoint, load_weights, not_finite
from metarl.runs.lock import RunLock
from metarl.runs.networks import save_networks
from metarl.runs.progress import Progress
from metarl.runs.run_folder import check_no_run
from metarl.runs.run_search import checkpoint_of
from metarl.runs.signals import StopSignals
from metarl.runs.silent import logger_of_rank, silent_console
from metarl.sim.same_worlds import check_same_worlds
from metarl.tasks.base import TaskSource, check_source
from metarl.training.captured_tasks import CapturedTasks
from metarl.training.divergence import not_finite_message
from metarl.training.late_results import LateResults, read_means, store_if_finite
from metarl.training.learner_file import LearnerFile
from metarl.training.meta_step import chosen_update
from metarl.training.optimizers import OptimizerFactory, SchedulerFactory
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings, checked_result
from metarl.training.settings import TrainingSettings
from metarl.training.validation import dashboard_tags, validation_curve
from metarl.trees import to_device


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        iteration: Meta-iterations done.
        finished: False if a signal stopped it before its last iteration.
        seconds: Time spent in training, over all resumptions.
        stopped_by: Name of that signal ("SIGTERM"), or an empty string; "SIGPIPE" if the reader of
            the progress was closed.
    """

    iteration: int
    finished: bool
    seconds: float
    stopped_by: str = ""


class OuterLoop:
    """Samples tasks, computes meta-gradients, updates, logs, evaluates and checkpoints.

    Args:
        learner: The learner to train, or an adaptation for supervised tasks (`MAML(net)`); it is
            moved to the device of the settings.
        tasks: Distribution of the training tasks.
        settings: See `TrainingSettings`.
        folder: The run folder for checkpoints and logs; of a new run, one that holds no run yet.
            No other process can write into it while the loop or its logger is open.
        validation: Distribution of the tasks for adaptation curves during training; None for no
            curves.
        update: The outer update, or its settings; None for an optimiser (`MetaStep`).
        optimizer: An optimiser of the learner's parameters, or a function that makes one of named
            parameters, such as `torch.optim.AdamW`; None for that of `settings`. See `MetaStep`.
        scheduler: A function that makes a scheduler of the optimiser, or one of an optimiser that
            is given; None for the schedule of `settings`.
        resume: The checkpoint to resume from, or a run folder, of which the newest one is taken;
            None for a new run.
        config: Settings of the whole experiment, for the logs.

    Attributes:
        on_curve: Called with each validation curve after it is logged; an error that it raises ends
            the training, whose state is saved.

    Raises:
        CheckpointError: The folder holds another run, or cannot be written; another process writes
            into it; or the checkpoint cannot be read.
        SettingsError: There are two optimisers, or one together with an `update`; or no tasks can
            be sampled, or those of worlds that the learner does not play in.
    """

    def __init__(
        self,
        learner: Learner | Adaptation,
        tasks: TaskSource,
        settings: TrainingSettings,
        folder: Path | str,
        *,
        validation: TaskSource | None = None,
        update: OuterUpdate | UpdateSettings | None = None,
        optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        resume: Path | str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        ranks.start()
        self.folder = user_path(folder, "folder").absolute()  # environments may call os.chdir
        checkpoint = None if resume is None else _checkpoint(resume, self.folder)
        if ranks.is_first():
            check_no_run(self.folder, checkpoint)
        self.device = settings.prepare_process()
        learner = as_learner(learner)
        self.learner = learner.to(self.device)
        if settings.precision == "bfloat16":
            learner.use_bfloat16()
        _check_tasks(learner, tasks, "training tasks")
        if validation is not None:
            _check_tasks(learner, validation, "validation tasks")
        self.tasks = tasks
        self.validation = validation
        self.settings = settings
        self.update = chosen_update(learner, settings, update, optimizer, scheduler)
        self.update.read_late()
        self._results, self._draw = LateResults(), CapturedTasks()
        self.checkpoints = Checkpoints(self.folder / "checkpoints", settings.keep_checkpoints)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        self.iteration = 0
        self._seconds, self._network_notes = 0.0, list[str]()
        if checkpoint is not None:
            self._restore(checkpoint)
        done = None if checkpoint is None else self.iteration
        self.logger = logger_of_rank(self.folder, done, settings.loggers)
        if config is not None:
            tags = dashboard_tags(learner, validation, settings, self.device)
            self.logger.settings(config, tags)
        self._keep_best()
        self.on_curve: Callable[[AdaptationCurve], None] | None = None
        self.label = "/".join(self.folder.parts[-3:-1])
        resumed = None if checkpoint is None else checkpoint.parent.parent
        self._description = LearnerFile(self.folder, self.learner, tasks, resumed)

    def run(self) -> TrainingResult:
        """Trains to the last iteration, or until a signal of `StopSignals`; saves either way.

        A second SIGINT raises KeyboardInterrupt, whose note names the newest checkpoint.

        Raises:
            NonFiniteError: A loss or a weight is infinite or not a number; the message names the
                iteration, the tasks and the last good checkpoint.
            CheckpointError: The run folder cannot be written, such as on a full disk; the message
                says whether the state could be saved, and where.
        """
        console = None if ranks.is_first() else silent_console()
        progress = Progress(self.settings.iterations, self.label, self.iteration, console=console)
        lock = RunLock(self.folder) if ranks.is_first() else nullcontext()
        ranks.limit_waiting(self.settings.rank_timeout)
        try:
            with lock, StopSignals() as stop, progress:
                self._train(stop, progress)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"Stopped at meta-iteration {self.iteration} without saving. {self._last_good()}"
            )
            raise
        finished = self.iteration >= self.settings.iterations
        stopped_by = "" if finished else stop.signal_name
        return TrainingResult(self.iteration, finished, self._seconds, stopped_by)

    def _train(self, stop: StopSignals, progress: Progress) -> None:
        settings = self.settings
        total = settings.iterations
        saved, noted = self.iteration, False
        with self._saving_on_full_disk():
            if ranks.is_first():  # a resumed run may be in another folder, with changed code
                self._network_notes = save_networks(self.learner, self.folder)
            if saved == 0:
                self._save()
        while self.iteration < total and not self._stops(stop):
            started = time.perf_counter()
            result = self._iterate()
            if not noted:
                noted = True
                for line in (*self.learner.notes(), *self._network_notes):
                    progress.note(line)
            self.iteration += 1
            last = self.iteration == total
            logs = last or self.iteration % settings.log_every == 0
            if logs:
                self._check_finite()  # the time of what is queued counts
            self._seconds += time.perf_counter() - started
            with self._saving_on_full_disk():
                if logs:
                    progress.metrics(_headline(self._log(result)))
                evaluates = last or self.iteration % (settings.eval_every or total + 1) == 0
                is_best = settings.eval_every > 0 and evaluates and self._evaluate()
                if is_best or self.iteration % settings.checkpoint_every == 0:
                    saved = self._save()
            progress.advance()
            if progress.reader_closed:
                stop.request("SIGPIPE")
        if saved != self.iteration:
            with self._saving_on_full_disk():
                self._save()

    def _stops(self, stop: StopSignals) -> bool:
        """Returns whether a signal has arrived, here or at another rank."""
        requested = ranks.any_true(stop.requested)
        if requested and not stop.requested:
            stop.request("SIGTERM")
        return requested

    def _iterate(self) -> MetaResult:
        before = self.generator.get_state()
        with self._saving_on_error():
            tasks = self._draw(self.tasks, self.settings.meta_batch_size, self.generator)
            inputs = self.learner.collect(tasks, self.generator, self.iteration)
        if self.iteration % self.settings.log_every == 0:
            self._description.see(inputs)
        if not self.learner.collects_own:
            inputs = ranks.own(inputs, inputs.tasks.num_tasks)
        result = checked_result(self.update(inputs, self.iteration), self.update)
        self._results.add(self.iteration, before, result)
        self._check_finite(wait=False)
        store_if_finite(self.learner, result)
        return result

    def _check_finite(self, *, wait: bool = True) -> None:
        """Checks the results so far; without `wait`, those whose flags have arrived on the host.

        Raises:
            NonFiniteError: One is not finite. The state before it is saved: no later iteration
                has changed it.
        """
        bad = self._results.first_bad(wait)
        if bad is None:
            return
        self.iteration = bad.iteration
        self.update.read_late()  # allows updates again
        saved_note = self._save_before(bad.generator)
        raise NonFiniteError(not_finite_message(bad.result, bad.iteration, saved_note))

    @contextmanager
    def _saving_on_error(self) -> Iterator[None]:
        """Saves the state before a user's code ran, if it raises, and names the checkpoint."""
        before = self.generator.get_state()
        try:
            yield
        except Exception as error:
            saved_note = self._save_before(before)
            if isinstance(error, SimulationError):
                end = "\n" if "\n" in str(error) else " "  # a user's traceback may be in it
                raise SimulationError(f"{error}{end}{saved_note}") from error
            error.add_note(saved_note)
            raise

    @contextmanager
    def _saving_on_full_disk(self) -> Iterator[None]:
        """Saves the state, if possible, when the run folder cannot be written; says where."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} Stopped after meta-iteration {self.iteration}. {self._saved()} Free some "
                "space or bring the disk back, and resume the run."
            ) from error

    def _save_before(self, generator: Tensor) -> str:
        """Saves the state before this iteration, whose tasks a resumed run will draw again."""
        self.generator.set_state(generator)
        return f"Stopped at meta-iteration {self.iteration}. {self._saved()}"

    def _saved(self) -> str:
        """Saves the state if possible, and returns what is saved where."""
        if not ranks.is_first():
            return f"Rank 0 writes the checkpoints. {self._last_good()}"
        try:
            with suppress(CheckpointError):  # what matters is the checkpoint
                self.logger.flush()
            path = self._write_checkpoint()
        except NonFiniteError as error:
            return str(error)
        except MetarlError as error:
            return f"The state could not be saved ({error}). {self._last_good()}"
        return f"Nothing is lost: the last good checkpoint is {path}, from just before."

    def _last_good(self) -> str:
        good = self.checkpoints.newest_good()
        if good is None:
            return f"There is no good checkpoint in {self.checkpoints.folder}."
        return f"The last good checkpoint is {good}."

    def _log(self, result: MetaResult) -> dict[str, float]:
        values = {"meta/loss": result.losses, "meta/grad_norm": result.grad_norm}
        scalars = read_means({**result.metrics, **values})
        rate = self.update.rate(self.iteration - 1)
        if rate is not None:
            scalars["meta/outer_lr"] = rate
        scalars["perf/iterations_per_s"] = self.iteration / self._seconds
        if self.learner.environment_steps is not None:
            scalars["perf/environment_steps"] = self.learner.environment_steps
        scalars |= self.learner.performance()
        self.logger.scalars(scalars, self.iteration)
        return scalars

    def _evaluate(self) -> bool:
        """Logs a curve on validation tasks; returns whether it is the best so far."""
        if self.validation is None:
            return False
        self._check_finite()
        with self._saving_on_error():
            curve = validation_curve(self.learner, self.validation, self.settings, self.device)
        self.logger.curve(
            curve,
            self.iteration,
            "eval_validation",
            environment_steps=self.learner.environment_steps,
        )
        if self.on_curve is not None:
            with self._saving_on_error():
                self.on_curve(curve)
        return self._keep_best()

    def _keep_best(self) -> bool:
        """Keeps the checkpoint of the best validation value; returns whether that is due now."""
        best = best_on_validation(self.folder) if ranks.is_first() else None
        self.checkpoints.kept = None if best is None else best.iteration
        return ranks.any_true(self.checkpoints.kept == self.iteration)

    def _save(self) -> int:
        ranks.take_over(list(self.learner.state_dict().values()))
        self.logger.flush()  # events up to the checkpoint outlive a crash
        self._write_checkpoint()
        self._description.write()
        return self.iteration

    def _write_checkpoint(self) -> Path:
        """Writes a checkpoint of weights that are finite.

        Raises:
            NonFiniteError: A weight is infinite or not a number; nothing was written. Or a result
                was not finite that was not read yet; the state before it was then written.
            CheckpointError: The checkpoint cannot be written.
        """
        self._check_finite()
        weights = self.learner.state_dict()
        names = not_finite(weights)
        if names:
            raise NonFiniteError(
                f"The weights after meta-iteration {self.iteration} are not finite "
                f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) and were not saved. "
                f"{self._last_good()} Lower the outer rate (`outer_lr`, `final_lr`) and resume it."
            )
        state = {
            "optimizer": self.update.state_dict(),
            "generator": self.generator.get_state(),
            "carried": self.learner.extra_state(),
            "seconds": self._seconds,
        }
        if not ranks.is_first():
            return self.checkpoints.folder
        return self.checkpoints.save(self.iteration, weights, state)

    def _restore(self, path: Path) -> None:
        checkpoint = ranks.from_first(lambda: load_checkpoint(path))
        try:
            load_weights(self.learner, checkpoint.weights)
            self.update.load_state_dict(checkpoint.state["optimizer"])
            self.generator.set_state(checkpoint.state["generator"].cpu())
            self.learner.load_extra_state(to_device(checkpoint.state["carried"], self.device))
            self._seconds = float(checkpoint.state["seconds"])
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"The checkpoint {path} was made with another network, algorithm or optimiser; "
                f"resume it with the settings in its run's config.json. ({error})"
            ) from error
        self.iteration = checkpoint.iteration


def _checkpoint(resume: Path | str, folder: Path) -> Path:
    """Returns the checkpoint to resume from, the same on all ranks."""
    named = user_path(resume, "resume")
    return ranks.from_first(lambda: checkpoint_of(named, folder.parent))


def _check_tasks(learner: Learner, tasks: TaskSource, what: str) -> None:
    """Raises SettingsError unless tasks can be sampled, and the learner plays in their worlds."""
    check_source(tasks, what)
    check_same_worlds(getattr(learner, "family", None), tasks, what)


def _headline(scalars: dict[str, float]) -> dict[str, float]:
    """Picks what the progress bar shows: the training metric after the last step, or the loss."""
    metric_tags = [tag for tag in scalars if tag.startswith("train/")]
    tag = metric_tags[-1] if metric_tags else "meta/loss"
    return {tag.removeprefix("train/"): scalars[tag]}
