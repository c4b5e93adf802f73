"""Reports of control tasks: returns, logged, as tables, figures and films."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from rich.table import Table

from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import (
    TEST_SEED,
    ControlProtocol,
    protocol_curve,
    return_table,
    trial_protocols,
)
from metarl.evaluation.curves import AdaptationCurve, adaptation_curve
from metarl.evaluation.statistics import Summary, summarise_curve
from metarl.rl.control_learner import ControlLearner
from metarl.rl.policy_learner import PolicyLearner
from metarl.runs.logger import BOOTSTRAP_SEED
from metarl.runs.watching import progress_bar
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.training.loop import OuterLoop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from metarl.plots.film import Film
    from metarl.plots.pictures import Picture

Draw = Callable[[PolicyLearner, ControlTasks, int, torch.Generator], "Picture"]
"""Adapts a learner to tasks, in a number of steps, and draws the adaptation."""

DRAWN_TASKS = 3


class ReportSettings(Protocol):
    """The settings that a report reads."""

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        ...

    @property
    def test_tasks(self) -> int:
        """Test tasks of the table."""
        ...

    @property
    def test_steps(self) -> int:
        """Adaptation steps of the table."""
        ...

    @property
    def film(self) -> int:
        """Test tasks in a film; 0 for none."""
        ...


class ControlReports:
    """The reports, pictures and films of one experiment on control tasks.

    Args:
        learner: The learner that is trained.
        family: The family; its test split is evaluated.
        settings: Counts and the name of the algorithm; published values of the same name are added.
        protocols: Published evaluations to add.
        draw: Draws an adaptation; None for a table of returns.
    """

    def __init__(
        self,
        learner: ControlLearner,
        family: TaskFamily,
        settings: ReportSettings,
        protocols: Sequence[ControlProtocol] = (),
        draw: Draw | None = None,
    ) -> None:
        self._learner = learner
        self._test = family.split("test")
        self._settings = settings
        # Learners that train in an evaluation would take as long again for each of these.
        self._protocols = () if learner.learns_in_evaluation else protocols
        if learner.plays_trials:
            self._protocols = trial_protocols(self._protocols)
        self._draw = None if learner.learns_in_evaluation else draw

    def show(self, loop: OuterLoop, num_tasks: int, steps: int | None) -> Picture:
        """Draws an adaptation to test tasks; `steps` None for those of the settings."""
        from metarl.plots.pictures import curve_picture

        tasks, steps, generator = self._sample(loop, num_tasks, steps)
        learner = self._learner
        if self._draw is not None and isinstance(learner, PolicyLearner):
            return self._draw(learner, tasks, steps, generator)
        values = torch.stack(list(learner.evaluate(tasks, steps, generator))).cpu()
        return curve_picture(AdaptationCurve(learner.metric(tasks), values, True))

    def film(self, loop: OuterLoop, num_tasks: int, steps: int | None) -> Film:
        """Films an adaptation to test tasks; `steps` None for those of the settings."""
        from metarl.plots.film import film_adaptation

        return film_adaptation(self._learner, *self._sample(loop, num_tasks, steps))

    def report(self, loop: OuterLoop) -> Table:
        """Evaluates the test tasks and the protocols, and logs the results; closes the log.

        Writes `adaptation.png`, `tasks.csv` (a row per test task) and `tasks.png` (the returns over
        the range of tasks) into the run folder. If an adaptation step takes a known number of
        environment steps of its task, the curve of the test tasks is also logged against these, as
        `adaptation/return`, to compare it with baselines that learn from scratch.

        Returns:
            The table of returns.
        """
        settings = self._settings
        if settings.film and self._learner.worlds is not None:
            log_film(loop, lambda: self.film(loop, settings.film, None))
        if self._draw is not None:
            self._log_picture(loop)
        curves = self._curves(loop)
        rows = {name: self._log_curve(loop, name, curve) for name, curve in curves.items()}
        others = {
            metric: {name: summarise_others(curve)[metric] for name, curve in curves.items()}
            for metric in curves["test tasks"].others
        }
        test = curves["test tasks"]
        self._log_by_adaptation_cost(loop, rows["test tasks"])
        trial = self._log_trial(loop, test)
        published = {p.name: p.published.get(settings.algorithm, {}) for p in self._protocols}
        self._write_figures(loop, test, rows, published)
        loop.logger.close()
        title = f"{settings.algorithm} on {self._test.name}"
        protocols = [p.extended(settings.test_steps) for p in self._protocols]
        return return_table(rows, published, title, trial, others, protocols)

    def _log_picture(self, loop: OuterLoop) -> None:
        """Logs what `draw` gives; prints the reason if it fails, so that there is a report."""
        try:
            picture = self.show(loop, DRAWN_TASKS, None)
            log_figure(loop, picture.name, picture.figure)
        except Exception as error:
            print(f"There is no picture: {type(error).__name__}: {error}", file=sys.stderr)

    def _sample(
        self, loop: OuterLoop, num_tasks: int, steps: int | None
    ) -> tuple[ControlTasks, int, torch.Generator]:
        generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
        steps = self._settings.test_steps if steps is None else steps
        return self._test.sample(num_tasks, generator), steps, generator

    def _curves(self, loop: OuterLoop) -> dict[str, AdaptationCurve]:
        steps = self._settings.test_steps
        generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
        curves = {
            "test tasks": adaptation_curve(
                self._learner, self._test,
                num_tasks=self._settings.test_tasks, steps=steps, generator=generator,
                transductive=True, watch=progress_bar,
            )
        }  # fmt: skip
        for p in self._protocols:
            curves[p.name] = protocol_curve(
                self._learner, p.extended(steps), loop.device, progress_bar
            )
        return curves

    def _log_curve(self, loop: OuterLoop, name: str, curve: AdaptationCurve) -> list[Summary]:
        prefix = "eval_test" if name == "test tasks" else f"eval_{name}"
        environment_steps = self._learner.environment_steps
        return loop.logger.curve(curve, loop.iteration, prefix, environment_steps=environment_steps)

    def _log_by_adaptation_cost(self, loop: OuterLoop, summaries: Sequence[Summary]) -> None:
        cost = self._learner.adaptation_cost
        for k, summary in enumerate(summaries if cost else ()):
            loop.logger.scalars({"adaptation/return": summary.mean}, k * cost)

    def _log_trial(self, loop: OuterLoop, curve: AdaptationCurve) -> Summary | None:
        """Logs the return of whole trials, if steps are the episodes of a trial."""
        if not (self._settings.test_steps and self._learner.plays_trials):
            return None
        total = curve.values.sum(0, keepdim=True)
        summary = summarise_curve(total, torch.Generator().manual_seed(0))[0]
        loop.logger.scalars({"eval_test/return/trial": summary.mean}, loop.iteration)
        return summary

    def _write_figures(
        self,
        loop: OuterLoop,
        test: AdaptationCurve,
        rows: dict[str, list[Summary]],
        published: Mapping[str, Mapping[int, float]],
    ) -> None:
        from metarl.plots.figures import adaptation_figure, save_figure
        from metarl.plots.per_task import TASKS_FILE, tasks_figure, write_tasks

        title = f"{self._settings.algorithm}, {self._test.name}"
        labels = {name: name.replace("_", " ") for name in rows}
        curves = {labels[name]: summaries for name, summaries in rows.items()}
        points = {labels[name]: values for name, values in published.items()}
        figure = adaptation_figure(curves, "return", published=points, title=title)
        save_figure(figure, loop.folder / "adaptation.png")
        write_tasks(test, loop.folder / TASKS_FILE)
        figure = tasks_figure(test, title)
        if figure is not None:
            log_figure(loop, "tasks", figure)


def summarise_others(curve: AdaptationCurve) -> dict[str, list[Summary]]:
    """Returns the summary of each step of a curve's further metrics, as the log has it."""
    return {
        name: summarise_curve(values, torch.Generator().manual_seed(BOOTSTRAP_SEED))
        for name, values in curve.others.items()
    }


def log_figure(loop: OuterLoop, name: str, figure: Figure) -> None:
    """Writes a figure into the run folder, `<name>.png`, and as an image, `adaptation/<name>`."""
    from metarl.plots.figures import figure_pixels, save_figure

    save_figure(figure, loop.folder / f"{name}.png")
    loop.logger.image(name, figure_pixels(figure), loop.iteration)


def log_film(loop: OuterLoop, make: Callable[[], Film]) -> None:
    """Makes a film and logs it; prints the reason if it cannot be made.

    Args:
        loop: A finished training.
        make: Makes the film.
    """
    try:
        film = make()
    except SettingsError as error:
        print(f"There is no film: {error}", file=sys.stderr)
        return
    if film.note:
        print(film.note, file=sys.stderr)
    loop.logger.frames(film.name, film.frames, film.fps, loop.iteration)
