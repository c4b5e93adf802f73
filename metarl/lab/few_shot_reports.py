"""Reports of few-shot classification: test curves, logged and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.evaluation.few_shot_protocol import (
    TEST_SEED,
    few_shot_curves,
    few_shot_table,
    lake_errors,
)
from metarl.evaluation.lake import LakeRuns, check_uncontaminated, load_lake_runs
from metarl.evaluation.statistics import Summary
from metarl.runs.watching import progress_bar
from metarl.tasks.episodes import FewShot
from metarl.training.loop import OuterLoop

if TYPE_CHECKING:
    from metarl.plots.pictures import Picture


def few_shot_report(
    loop: OuterLoop,
    learner: SupervisedLearner,
    test: FewShot,
    *,
    num_tasks: int,
    steps: int,
    label: str,
    lake_runs: LakeRuns | None = None,
) -> Table:
    """Evaluates few-shot classification, and Lake's runs if they are given.

    Args:
        loop: See `few_shot_results`, like `learner`, `test`, `num_tasks`, `steps`, `lake_runs`.
        learner: The learner of the loop.
        test: Distribution of the test tasks.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        label: Title of the table: the algorithm and the data.
        lake_runs: Lake's one-shot runs.

    Returns:
        The table of the learner's metric, by default the accuracy.
    """
    counts = {"num_tasks": num_tasks, "steps": steps}
    results, lake = few_shot_results(loop, learner, test, lake_runs=lake_runs, **counts)
    generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
    metric = learner.metric(test.to(loop.device).sample(1, generator))
    return few_shot_table(results, lake, f"{label}, {test.way}-way {test.shots}-shot", metric)


def few_shot_results(
    loop: OuterLoop,
    learner: SupervisedLearner,
    test: FewShot,
    *,
    num_tasks: int,
    steps: int,
    lake_runs: LakeRuns | None = None,
) -> tuple[dict[str, Summary], dict[str, float]]:
    """Evaluates a learner on test tasks and on Lake's runs, and logs the results; closes the log.

    Args:
        loop: A finished training on the distribution that `test` is the test split of.
        learner: The learner of the loop.
        test: Distribution of the test tasks.
        num_tasks: Test tasks.
        steps: Adaptation steps.
        lake_runs: Lake's one-shot runs; see `lake_runs_for`.

    Returns:
        The accuracy after the last step and the error on Lake's runs in percent (empty without
        them), each by kind of prediction: "transductive" (not of all learners) and
        "non-transductive".
    """
    device = loop.device
    curves = few_shot_curves(
        learner, test.to(device), num_tasks=num_tasks, steps=steps, device=device,
        watch=progress_bar,
    )  # fmt: skip
    summaries = {}
    for name, curve in curves.items():
        prefix = "eval_test" if curve.transductive else "eval_test_single"
        summaries[name] = loop.logger.curve(curve, loop.iteration, prefix)[-1]
    lake = {}
    if lake_runs is not None:
        alphabets = test.split("train").alphabets
        lake = lake_errors(
            learner, lake_runs, alphabets, steps=steps, device=device, watch=progress_bar
        )
        loop.logger.scalars({f"lake/error/{k}": v for k, v in lake.items()}, loop.iteration)
    loop.logger.close()
    return summaries, lake


def show_few_shot(
    loop: OuterLoop, learner: SupervisedLearner, test: FewShot, num_tasks: int, steps: int
) -> Picture:
    """Adapts to the first test tasks of the report and draws their accuracies."""
    from metarl.plots.pictures import curve_picture

    generator = torch.Generator(loop.device).manual_seed(TEST_SEED)
    curve = adaptation_curve(
        learner, test.to(loop.device), num_tasks=num_tasks, steps=steps, generator=generator,
        transductive=True,
    )  # fmt: skip
    return curve_picture(curve)


def lake_runs_for(test: FewShot, path: Path | None, invert: bool = True) -> LakeRuns | None:
    """Loads Lake's runs for a learner of the training split of `test`; None without a path.

    It is called before training, so that unsuitable settings are reported at once.

    Args:
        test: The test tasks.
        path: The archive.
        invert: See `load_lake_runs`; as for the test tasks.

    Raises:
        SettingsError: The tasks are not 20-way 1-shot.
        ContaminationError: The training split contains alphabets of the runs.
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
    return load_lake_runs(path, test.pool.example_shape[-1], invert=invert)
