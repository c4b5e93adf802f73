"""Published evaluations of few-shot classification: many test tasks, and Lake's runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from rich.markup import escape
from rich.table import Table

from metarl.adaptation.learner import SupervisedLearner
from metarl.devices import seeded_generator
from metarl.errors import SettingsError
from metarl.evaluation.curves import AdaptationCurve, adaptation_curve, warn_if_not_finite
from metarl.evaluation.lake import LakeRuns, check_uncontaminated
from metarl.evaluation.statistics import Summary
from metarl.evaluation.tables import interval_cell, report_table
from metarl.evaluation.watch import Watch, unwatched, watched
from metarl.tasks.base import TaskDistribution

TEST_SEED = 3_000_003


def few_shot_curves(
    learner: SupervisedLearner,
    test: TaskDistribution,
    *,
    num_tasks: int,
    steps: int,
    device: torch.device | str = "cpu",
    watch: Watch = unwatched,
) -> dict[str, AdaptationCurve]:
    """Measures the accuracy on test tasks, the same for every learner.

    Args:
        learner: A trained learner.
        test: Distribution of the test tasks.
        num_tasks: Number of tasks.
        steps: Adaptation steps.
        device: The learner's device.
        watch: Watches the evaluation.

    Returns:
        "transductive": after 0..steps steps, with batch-norm statistics shared among queries, for
        learners that allow it; "non-transductive": after the last step, each query alone.
    """
    return {
        name: adaptation_curve(
            learner,
            test,
            num_tasks=num_tasks,
            steps=steps,
            generator=seeded_generator(device, TEST_SEED),
            chunk_size=20,
            transductive=name == "transductive",
            last_only=name != "transductive",
            watch=watch,
            name=f"test tasks, {name}",
        )
        for name in _predictions(learner)
    }


def lake_errors(
    learner: SupervisedLearner,
    runs: LakeRuns,
    alphabets_seen: Iterable[str],
    *,
    steps: int,
    device: torch.device | str = "cpu",
    watch: Watch = unwatched,
) -> dict[str, float]:
    """Measures a 20-way learner on Lake's one-shot runs; see `lake.load_lake_runs`.

    Args:
        learner: A trained learner with 20 outputs.
        runs: The runs, drawn as the training images were.
        alphabets_seen: All alphabets of its training and validation characters.
        steps: Adaptation steps.
        device: The learner's device.
        watch: Watches the evaluation.

    Returns:
        Error in percent, "transductive" (the 20 test images of a run share batch-norm statistics;
        for learners that allow it) and "non-transductive". An interval that takes the trials as
        independent does not cover the choice of alphabets and drawers, of which there are few.

    Raises:
        ContaminationError: The learner was trained on an evaluation alphabet.
        SettingsError: The learner has another metric than the accuracy.
    """
    check_uncontaminated(alphabets_seen)
    tasks = runs.to(device).tasks()
    if learner.metric(tasks) != "accuracy":
        raise SettingsError(
            f"Errors on Lake's runs are 1 - accuracy, and the metric is {learner.metric(tasks)}; "
            'leave out the runs, or use metric="accuracy".'
        )
    errors = {}
    for name in _predictions(learner):
        generator = seeded_generator(device, TEST_SEED)
        rows = learner.evaluate(
            tasks, steps, generator, last_only=True, transductive=name == "transductive"
        )
        with watch(f"Lake's runs, {name}", len(runs.names)) as advance:
            (accuracy,) = watched(rows, advance)
        warn_if_not_finite(accuracy.unsqueeze(0), "accuracy", "run")
        errors[name] = 100 * (1 - accuracy.double().mean().item())
    return errors


def few_shot_table(
    summaries: Mapping[str, Summary],
    lake: Mapping[str, float],
    label: str,
    metric: str = "accuracy",
) -> Table:
    """Returns a table of accuracies in percent, or of another metric, with 95 % intervals.

    The intervals cover the choice of the test tasks, drawn from a fixed set of classes. They do not
    cover the choice of these classes or of the training seed; see `statistics.summarise`.

    Args:
        summaries: "transductive" and "non-transductive" -> summary of the accuracy.
        lake: The result of `lake_errors`, or an empty mapping.
        label: Title of the table ("maml, 5-way 1-shot").
        metric: Name of the metric.
    """
    percent = metric == "accuracy"
    factor, digits = (100, 1) if percent else (1, 3)
    count = next(iter(summaries.values())).count
    title = f"{label}, {count} test tasks"
    lines = ["mean [95 % interval]"]
    if "transductive" in summaries:
        lines.append("transductive: the queries of a task share batch-norm statistics")
    lines.append("non-transductive: each query is classified alone")
    table = report_table(title, "\n".join(lines))
    table.add_column("predictions", no_wrap=True)
    table.add_column("accuracy, %" if percent else escape(metric), justify="right", no_wrap=True)
    if lake:
        table.add_column("error on Lake's runs, %", justify="right")
    for name, s in summaries.items():
        interval = interval_cell(s, digits, factor)
        table.add_row(name, interval, *([f"{lake[name]:.1f}"] if lake else []))
    return table


def _predictions(learner: SupervisedLearner) -> tuple[str, ...]:
    """Returns the kinds of predictions of a learner."""
    return ("transductive", "non-transductive") if learner.transduces else ("non-transductive",)
