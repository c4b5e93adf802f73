"""What experiment scripts end with: test curves, logged, and as tables and figures."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from metarl.errors import SettingsError
from metarl.evaluation.few_shot_protocol import few_shot_curves, few_shot_table, lake_errors
from metarl.evaluation.figures import adaptation_figure, save_figure, sine_figure
from metarl.evaluation.lake import load_lake_runs
from metarl.evaluation.sine_protocol import PUBLISHED, sine_curves, sine_panels, sine_table
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
    return sine_table(curves, published)


def few_shot_report(
    loop: OuterLoop,
    test: FewShot,
    *,
    num_tasks: int,
    steps: int,
    lake_runs: Path | None = None,
) -> Table:
    """Evaluates few-shot classification, and on Lake's runs where their archive is given.

    Args:
        loop: A finished training on the distribution that `test` is the test split of.
        test: Distribution of the test tasks.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        lake_runs: Archive of Lake's one-shot runs.

    Returns:
        The table of accuracies.

    Raises:
        SettingsError: Lake's runs were asked for with other than 20 ways and 1 shot.
        ContaminationError: The learner has seen alphabets of the runs.
    """
    if lake_runs is not None and (test.way, test.shots) != (20, 1):
        raise SettingsError(
            f"Lake's runs are 20-way 1-shot, the learner is {test.way}-way {test.shots}-shot; "
            "train with --way 20 --shots 1 or leave out --lake-runs."
        )
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
        runs = load_lake_runs(lake_runs)
        seen = test.split("train").alphabets
        lake = lake_errors(loop.learner, runs, seen, steps=steps, device=device)
        loop.logger.scalars({f"lake/error/{k}": v for k, v in lake.items()}, loop.iteration)
    return few_shot_table(summaries, lake, f"{test.way}-way {test.shots}-shot")


def print_report(table: Table, loop: OuterLoop, result: TrainingResult) -> None:
    """Prints a report's table, where the run lies and how to look at it."""
    console = Console()
    console.print(table)
    minutes = result.seconds / 60
    console.print(
        f"Trained for {minutes:.1f} minutes. Run folder:", str(loop.folder), soft_wrap=True
    )
    console.print("Look at it: tensorboard --logdir", str(loop.folder), soft_wrap=True)


def print_stopped(result: TrainingResult) -> None:
    """Prints how to go on with a run that a signal stopped."""
    Console().print(
        f"Stopped after {result.iteration} meta-iterations, all saved. "
        "Go on with the same command and --resume latest."
    )
