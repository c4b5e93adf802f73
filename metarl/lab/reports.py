"""What experiment scripts end with: test curves, logged, and as tables and figures."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from rich.table import Table

from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import TEST_SEED
from metarl.evaluation.curves import adaptation_curve
from metarl.evaluation.few_shot_protocol import few_shot_curves, few_shot_table, lake_errors
from metarl.evaluation.lake import LakeRuns, check_uncontaminated, load_lake_runs
from metarl.evaluation.sine_protocol import (
    PUBLISHED,
    STEPS,
    sine_curves,
    sine_panels,
    sine_table,
)
from metarl.evaluation.statistics import Summary
from metarl.plots.figures import adaptation_figure, save_figure, sine_figure
from metarl.plots.pictures import Picture, curve_picture, sine_picture
from metarl.tasks.episodes import FewShot
from metarl.training.loop import OuterLoop, TrainingResult


def sine_report(loop: OuterLoop, algorithm: str, num_tasks: int) -> Table:
    """Evaluates sine regression; writes `adaptation.png` and `fits.png` into the run folder.

    Args:
        loop: A finished training.
        algorithm: Its name; published values of the same name stand beside it.
        num_tasks: Test tasks.

    Returns:
        The table of mean squared errors.
    """
    curves = {}
    for shots, curve in sine_curves(loop.learner, num_tasks=num_tasks, device=loop.device).items():
        prefix = f"eval_test_{shots}_shot"
        curves[shots] = loop.logger.curve(curve, loop.iteration, prefix, {"shots": shots})
    published = PUBLISHED.get(algorithm, {})
    labelled = {f"{algorithm}, K={shots}": summaries for shots, summaries in curves.items()}
    points = {f"{algorithm}, K=5": published} if published else None
    figure = adaptation_figure(labelled, "mse", published=points)
    save_figure(figure, loop.folder / "adaptation.png")
    panels = sine_panels(loop.learner, device=loop.device)
    save_figure(sine_figure(panels), loop.folder / "fits.png")
    loop.logger.close()
    return sine_table(curves, published)


def show_sine(loop: OuterLoop, num_tasks: int, steps: int | None) -> Picture:
    """Fits test curves; see `Components.show`. Without a number of steps: 1 and 10."""
    last = STEPS if steps is None else steps
    shown = sorted({0, min(1, last), last})
    return sine_picture(
        sine_panels(loop.learner, steps=shown, num_tasks=num_tasks, device=loop.device)
    )


def few_shot_report(
    loop: OuterLoop,
    test: FewShot,
    *,
    num_tasks: int,
    steps: int,
    label: str,
    lake_runs: LakeRuns | None = None,
) -> Table:
    """Evaluates few-shot classification, and on Lake's runs where their archive is given.

    Args:
        loop: See `few_shot_results`, like `test`, `num_tasks`, `steps` and `lake_runs`.
        test: Distribution of the test tasks.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        label: What was trained on what, for the table.
        lake_runs: Lake's one-shot runs.

    Returns:
        The table of accuracies.
    """
    counts = {"num_tasks": num_tasks, "steps": steps}
    accuracies, lake = few_shot_results(loop, test, lake_runs=lake_runs, **counts)
    return few_shot_table(accuracies, lake, f"{label}, {test.way}-way {test.shots}-shot")


def few_shot_results(
    loop: OuterLoop,
    test: FewShot,
    *,
    num_tasks: int,
    steps: int,
    lake_runs: LakeRuns | None = None,
) -> tuple[dict[str, Summary], dict[str, float]]:
    """Judges a learner on test tasks and on Lake's runs, and logs that; closes the log.

    Args:
        loop: A finished training on the distribution that `test` is the test split of.
        test: Distribution of the test tasks.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        lake_runs: Lake's one-shot runs; see `lake_runs_for`.

    Returns:
        The accuracy after the last step and the error on Lake's runs in percent (nothing without
        them), each by kind of prediction: "transductive" (not of all learners) and
        "non-transductive".
    """
    device = loop.device
    curves = few_shot_curves(
        loop.learner, test.to(device), num_tasks=num_tasks, steps=steps, device=device
    )
    summaries = {}
    for name, curve in curves.items():
        prefix = "eval_test" if curve.transductive else "eval_test_single"
        summaries[name] = loop.logger.curve(curve, loop.iteration, prefix)[-1]
    lake = {}
    if lake_runs is not None:
        seen = test.split("train").alphabets
        lake = lake_errors(loop.learner, lake_runs, seen, steps=steps, device=device)
        loop.logger.scalars({f"lake/error/{k}": v for k, v in lake.items()}, loop.iteration)
    loop.logger.close()
    return summaries, lake


def show_few_shot(loop: OuterLoop, test: FewShot, num_tasks: int, steps: int) -> Picture:
    """Adapts to test episodes and shows their accuracies; see `Components.show`."""
    generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
    curve = adaptation_curve(
        loop.learner, test.to(loop.device), num_tasks=num_tasks, steps=steps, generator=generator
    )
    return curve_picture(curve)


def lake_runs_for(test: FewShot, path: Path | None, invert: bool = True) -> LakeRuns | None:
    """Loads Lake's runs for a learner trained beside those test tasks; None without a path.

    Called before training, so that what does not fit is told before time is spent.

    Args:
        test: The test tasks.
        path: The archive.
        invert: See `load_lake_runs`; as the test tasks.

    Raises:
        SettingsError: The tasks are other than 20-way 1-shot.
        ContaminationError: Training sees alphabets of the runs.
        DataError: The archive is missing or corrupt.
    """
    if path is None:
        return None
    if (test.way, test.shots) != (20, 1):
        raise SettingsError(
            f"Lake's runs are 20-way 1-shot, the tasks are {test.way}-way {test.shots}-shot; "
            "train with --way 20 --shots 1 or leave out --lake-runs."
        )
    check_uncontaminated(test.split("train").alphabets)
    return load_lake_runs(path, test.pool.images.shape[-1], invert=invert)


def print_report(table: Table, loop: OuterLoop, result: TrainingResult) -> None:
    """Prints a report's table, where the run lies and how to look at it."""
    console = Console()
    console.print(table)
    minutes = result.seconds / 60
    console.print(
        f"Trained for {minutes:.1f} minutes. Run folder:", str(loop.folder), soft_wrap=True
    )
    console.print("Look at it: tensorboard --logdir", str(loop.folder), soft_wrap=True)


def print_stopped(result: TrainingResult) -> NoReturn:
    """Prints how to go on with a run that a signal stopped.

    Ends as shells have it: with status 130 after SIGINT, 143 after SIGTERM.
    """
    Console().print(
        f"Stopped after {result.iteration} meta-iterations, all saved. "
        "Go on with the same command and --resume latest."
    )
    sys.exit(128 + signal.Signals[result.stopped_by])
