"""Reports of sine regression: test curves, logged, as a table and as figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from metarl.adaptation.learner import SupervisedLearner
from metarl.evaluation.sine_protocol import PUBLISHED, STEPS, sine_curves, sine_panels, sine_table
from metarl.runs.watching import progress_bar
from metarl.training.loop import OuterLoop

if TYPE_CHECKING:
    from metarl.plots.pictures import Picture


def sine_report(
    loop: OuterLoop, learner: SupervisedLearner, algorithm: str, num_tasks: int
) -> Table:
    """Evaluates sine regression; writes `adaptation.png` and `fits.png` into the run folder.

    Args:
        loop: A finished training.
        learner: The learner of the loop.
        algorithm: Its name; published values of the same name are added.
        num_tasks: Test tasks.

    Returns:
        The table of the learner's metric, by default the mean squared error.
    """
    from metarl.plots.figures import adaptation_figure, save_figure, sine_figure

    curves, metric = {}, "mse"
    measured = sine_curves(learner, num_tasks=num_tasks, device=loop.device, watch=progress_bar)
    for shots, curve in measured.items():
        prefix = f"eval_test_{shots}_shot"
        curves[shots] = loop.logger.curve(curve, loop.iteration, prefix, {"shots": shots})
        metric = curve.metric
    published = PUBLISHED.get(algorithm, {}) if metric == "mse" else {}
    labelled = {f"{algorithm}, K={shots}": summaries for shots, summaries in curves.items()}
    figure = adaptation_figure(labelled, metric, published={f"{algorithm}, K=5": published})
    save_figure(figure, loop.folder / "adaptation.png")
    panels = sine_panels(learner, device=loop.device)
    save_figure(sine_figure(panels), loop.folder / "fits.png")
    loop.logger.close()
    return sine_table(curves, published, metric)


def show_sine(
    loop: OuterLoop, learner: SupervisedLearner, num_tasks: int, steps: int | None
) -> Picture:
    """Fits test tasks and draws the curves after 0, 1 and `steps` steps (None: 10)."""
    from metarl.plots.pictures import sine_picture

    last = STEPS if steps is None else steps
    columns = sorted({0, min(1, last), last})
    return sine_picture(
        sine_panels(learner, steps=columns, num_tasks=num_tasks, device=loop.device)
    )
