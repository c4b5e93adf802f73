"""What an experiment is: settings, the components they build, and training up to the report."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast

import torch
from rich.markup import escape
from rich.table import Table

from metarl import ranks
from metarl.adaptation.learner import Learner
from metarl.console import OutputConsole, run_script, say, short_path
from metarl.devices import resolve_device, set_threads
from metarl.errors import MetarlError, SettingsError, UntrustedError, short_repr
from metarl.lab.command_line import parse_settings
from metarl.lab.installed import installed_file
from metarl.lab.trust import TRUST, check_trusted
from metarl.runs.best import best_on_validation
from metarl.runs.lock import RunLock
from metarl.runs.run_folder import create_run_folder, to_json, write_config
from metarl.runs.run_search import BEST, ResumePoint
from metarl.runs.signals import exit_status
from metarl.tasks.background import Background
from metarl.tasks.base import TaskSource
from metarl.tasks.episodes import FewShot
from metarl.tasks.grouped import GroupTasks
from metarl.tasks.series import SeriesTasks
from metarl.tasks.streams import Streams
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.other_worlds import warn_of_other_worlds
from metarl.training.outer_update import OuterUpdate
from metarl.training.settings import TrainingSettings

if TYPE_CHECKING:
    from metarl.plots.film import Film
    from metarl.plots.pictures import Picture


class ExperimentSettings(Protocol):
    """The fields that the settings of every experiment have; frozen dataclasses."""

    @property
    def algorithm(self) -> str:
        """Name of the configuration that provided the defaults."""
        ...

    @property
    def training(self) -> TrainingSettings:
        """The outer loop's settings."""
        ...

    @property
    def runs(self) -> Path:
        """Folder of the run folders."""
        ...


S = TypeVar("S", bound=ExperimentSettings)
_MOVABLE = (FewShot, GroupTasks, SeriesTasks, Streams, Background)

_OUT_OF_MEMORY = re.compile(r"memory|alloc|overflow", re.IGNORECASE)
"""What torch and Python say of sizes that no memory has."""


@dataclass(frozen=True)
class Components:
    """What the settings of an experiment build.

    Attributes:
        learner: The learner to train.
        tasks: Distribution of the training tasks.
        report: Evaluates the learner of a loop on test tasks, logs the results and returns a table.
        validation: Distribution of the tasks for adaptation curves during training; None for none.
        update: The outer update; None for the optimiser of the training settings.
        show: Adapts the learner of a loop to a number of test tasks, in a number of steps (None for
            the experiment's default), and draws the adaptation; None if there is no picture.
        film: Films the same; None if there is no film.
    """

    learner: Learner
    tasks: TaskSource
    report: Callable[[OuterLoop], Table]
    validation: TaskSource | None = None
    update: OuterUpdate | None = None
    show: Callable[[OuterLoop, int, int | None], Picture] | None = None
    film: Callable[[OuterLoop, int, int | None], Film] | None = None


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """An experiment: all that training, resuming and evaluating a run again need.

    A script keeps its experiment as EXPERIMENT. A package offers its experiments as entry points of
    the group "metarl.experiments", so that `metarl train NAME` finds them.

    Attributes:
        name: Its name, and the first folder below `runs`.
        configs: Default settings by algorithm, frozen dataclasses; the first one is the default.
        build: Builds the components from settings.
        script: The file that defines the experiment; None for the file that defines `build`.
        minutes: Algorithm -> CPU minutes of a whole training on the machine of `lab.machine`, for
            `metarl list`; `python -m benchmarks.minutes` measures them.
    """

    name: str
    configs: Mapping[str, S]
    build: Callable[[S], Components]
    script: str | None = None
    minutes: Mapping[str, float] = field(default_factory=dict)

    def run(self, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
        """Parses the command line, trains and reports; prints errors without a traceback.

        Args:
            arguments: The arguments; by default those of the process.
            prog: Name of the command in its help; by default that of the script.
        """
        run_script(lambda: self.main(arguments, prog))

    def open(
        self, settings: S, components: Components, resume: ResumePoint | None = None
    ) -> OuterLoop:
        """Returns the outer loop of a new run folder, or of a resumed one at its checkpoint."""
        set_threads(settings.training.threads)  # before versions.json records them
        if resume is not None:
            with _locked(resume):  # before anything is written
                loop = _loop(settings, components, *resume, to_json(settings))
                if ranks.is_first():
                    write_config(resume.folder, settings)  # later resumptions keep the changes
            say(_resumed(loop))
            return loop
        resolve_device(settings.training.device)  # raises before a folder is created
        folder = ranks.from_first(
            lambda: create_run_folder(
                settings.runs, self.name, settings.algorithm, settings.training.seed, settings,
                script=self._script(),
            )
        )  # fmt: skip
        try:
            return _loop(settings, components, folder, None, to_json(settings))
        except BaseException:  # the run never began
            if not ranks.is_first():
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def reopen(self, settings: S, checkpoint: Path, folder: Path) -> tuple[OuterLoop, Components]:
        """Returns the outer loop at a checkpoint, and its components, to evaluate the learner.

        Args:
            settings: The settings of the run.
            checkpoint: The checkpoint.
            folder: Folder for reports and logs; not that of the run.
        """
        training = replace(settings.training, loggers=())  # an evaluation is no second run
        settings = replace(cast(Any, settings), training=training)
        set_threads(settings.training.threads)
        components = self._build(settings)
        return _loop(settings, components, folder, checkpoint), components

    def main(self, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
        """Trains and reports as `run`, but raises errors.

        Raises:
            MetarlError: An argument, a setting or the data is not usable, or training failed.
        """
        ranks.start()
        settings, resume = parse_settings(self.configs, self.name, arguments, prog)
        # Before the components are built, which may take long.
        with _locked(resume):
            components = self._build(settings)
            loop = self.open(settings, components, resume)
            result = loop.run()
            if not result.finished:
                folder = shlex.quote(short_path(loop.folder))
                print_stopped(result, f"Go on with the same command and --resume {folder}.")
            ranks.leave()
            if not ranks.is_first():
                return  # the first rank reports
            with _naming_finished_run(loop):
                table = components.report(loop)
        play = components.show is not None
        print_report(table, loop, result, self._play_options(settings, loop) if play else None)

    def _build(self, settings: S) -> Components:
        """Builds the components; raises SettingsError if they do not fit into the memory."""
        try:
            return self.build(settings)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MetarlError) or not _OUT_OF_MEMORY.search(repr(error)):
                raise
            raise SettingsError(
                "What the settings describe does not fit into the memory: lower its sizes (widths, "
                f"filters, ways). {short_repr(str(error), 200)}"
            ) from error

    def _play_options(self, settings: S, loop: OuterLoop) -> str:
        """Returns the options without which `metarl play` would refuse a run."""
        script = self._script()
        options = "" if script is None else f" --script {shlex.quote(str(script))}"
        try:
            check_trusted(settings, loop.folder)
        except UntrustedError:
            return f"{options} {TRUST}"
        return options

    def _script(self) -> Path | None:
        """Returns the file that defines the experiment, or None if its package is installed."""
        build: Any = self.build
        while isinstance(build, functools.partial):
            build = build.func
        code = build if inspect.isroutine(build) else type(build)
        script = Path(self.script or inspect.getfile(code)).resolve()
        return None if script == installed_file(self.name) else script


def _locked(resume: ResumePoint | None) -> AbstractContextManager[Any]:
    """Returns the lock of a run that is resumed; the first rank holds it."""
    return RunLock(resume.folder) if resume and ranks.is_first() else nullcontext()


def _loop(
    settings: ExperimentSettings,
    components: Components,
    folder: Path,
    checkpoint: Path | None,
    config: dict[str, Any] | None = None,
) -> OuterLoop:
    device = resolve_device(settings.training.device)
    if checkpoint is not None and ranks.is_first():
        warn_of_other_worlds(checkpoint, components.learner)
    return OuterLoop(
        components.learner,
        _on_device(components.tasks, device),
        settings.training,
        folder,
        validation=_on_device(components.validation, device),
        update=components.update,
        resume=checkpoint,
        config=config,
    )


def _resumed(loop: OuterLoop) -> str:
    """Returns a line about where a resumed run begins."""
    folder, done, total = short_path(loop.folder), loop.iteration, loop.settings.iterations
    if done < total:
        return f"Resuming {folder} at meta-iteration {done} of {total}."
    return (
        f"{folder} has trained for {done} meta-iterations, --training.iterations is {total}: only "
        "its report is made again. A larger number trains it further."
    )


def _on_device(tasks: Any, device: torch.device) -> Any:
    """Moves examples to the device; other distributions sample on the generator's device."""
    return tasks.to(device) if isinstance(tasks, _MOVABLE) else tasks


def print_report(
    table: Table, loop: OuterLoop, result: TrainingResult, play_options: str | None = None
) -> None:
    """Prints the table of a report, the run folder, its figures and how to look at them.

    Args:
        table: The table.
        loop: The loop after its report.
        result: How the training ended.
        play_options: Options of `metarl play`; None if it has no picture of an adaptation.
    """
    console = OutputConsole()
    console.print_whole(table)
    seconds = result.seconds
    time = f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
    trained = f"Trained for {time}. " if result.iteration else ""
    folder = short_path(loop.folder)
    quoted = shlex.quote(folder)
    lines = {
        f"{trained}Run folder:": folder,
        "Figures in it:": ", ".join(figures(loop.folder)),
        "The best on validation tasks:": _best(loop),
        "An adaptation:": "" if play_options is None else f"metarl play {quoted}{play_options}",
        "The curves:": f"tensorboard --logdir {quoted}",
    }
    for name, value in lines.items():
        if value:
            console.print(name, escape(value), soft_wrap=True, highlight=False)


def _best(loop: OuterLoop) -> str:
    """Returns which checkpoint was better on validation tasks than the last one; "" for none."""
    best = best_on_validation(loop.folder)
    if best is None or best.iteration == loop.iteration:
        return ""
    return (
        f"{best.metric} {best.value:.4g} after {best.iteration} meta-iterations, the checkpoint "
        f"{short_path(loop.folder / BEST)}"
    )


def figures(folder: Path) -> list[str]:
    """Returns the names of the figures and films in a run folder."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".gif"))


def print_stopped(result: TrainingResult, advice: str) -> NoReturn:
    """Prints that a signal stopped a run, and what to do.

    Exits as shells expect: with 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, 141 if the
    reader of the progress was closed.

    Args:
        result: How the training ended.
        advice: How to continue.
    """
    with contextlib.suppress(OSError):  # the terminal may be gone
        OutputConsole().print(
            f"Stopped after {result.iteration} meta-iterations, all saved. {escape(advice)}",
            soft_wrap=True,
            highlight=False,
        )
    sys.exit(exit_status(result.stopped_by))


@contextmanager
def _naming_finished_run(loop: OuterLoop) -> Iterator[None]:
    """Adds to an interrupt or an error in the report that the training is saved."""
    try:
        yield
    except (KeyboardInterrupt, MetarlError) as error:
        folder = short_path(loop.folder)
        note = (
            f"The training is finished and saved in {folder}; --resume {shlex.quote(folder)} "
            "makes the report again."
        )
        error.add_note(note)
        raise
