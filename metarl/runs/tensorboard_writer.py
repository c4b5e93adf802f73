"""Writes the results of a run as TensorBoard's events."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.runs.event_files import event_files, keep_events
from metarl.runs.writer import Writer, WrittenRun

BY_ADAPTATION_STEPS = "by_adaptation_steps"
BY_ENVIRONMENT_STEPS = "by_environment_steps"

Points = list[tuple[dict[str, float], int]]
"""Numbers by tag, and their step."""


class TensorBoardWriter(Writer):
    """Writes events into the run folder; those that a resumed run writes again are cut out of it.

    An event that a crash has cut is the last of its file, which TensorBoard reads up to there.

    What is written again of the iteration that the run resumes from, such as the report of a
    finished run, replaces its events. A curve over adaptation steps replaces that of an earlier
    process.

    Args:
        run: The run.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, run: WrittenRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        self._old_events: list[Path] = []
        self._unrepeated: dict[str, Points] = {}
        if run.resume_from is not None:
            self._old_events = event_files(run.folder)
            keep_events(self._old_events, self._is_valid)
        # A TensorBoard that runs hides what it has read of this step and later ones.
        purge = None if run.resume_from is None else run.start
        self._writer = SummaryWriter(str(run.folder), purge_step=purge)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if any(map(_is_over_adaptation_steps, values)):
            for tag in values:
                self._unrepeated.pop(tag, None)
        else:
            if step >= self._run.start:
                self._repeat_all(BY_ENVIRONMENT_STEPS)
            self._drop(values, step)
        self._add([(dict(values), step)])

    def by_environment_steps(
        self, tag: str, means: Sequence[float | None], environment_steps: int
    ) -> None:
        """Writes the means of a curve again over environment steps; TensorBoard has one axis.

        Args:
            tag: The tag of the curve ("eval_validation/return").
            means: The mean after each adaptation step; None if it is not finite.
            environment_steps: Environment steps of training so far.
        """
        self._unrepeated.pop(f"{BY_ENVIRONMENT_STEPS}/{tag}", None)
        points = _over_environment_steps(tag, means, environment_steps)
        for values, step in points:
            self._drop(values, step)
        self._add(points)

    def repeat(self, lines: Iterable[Mapping[str, Any]], repeated: Sequence[str]) -> None:
        """Writes curves again that were cut because their steps are not meta-iterations.

        Those of the last iteration and of reports wait: a report that is made again replaces them.

        Args:
            lines: Lines of eval.jsonl, with split and metric.
            repeated: Prefixes of the curves that are measured during training.
        """
        for line in lines:
            prefix, means = f"eval_{line['split']}", line["mean"]
            tag, steps = f"{prefix}/{line['metric']}", line.get("environment_steps", -1)
            if prefix not in repeated:
                points = over_adaptation_steps(tag, means, line.get("first_step", 0))
                self._unrepeated[f"{BY_ADAPTATION_STEPS}/{tag}"] = points
            elif steps >= self._run.start:
                points = _over_environment_steps(tag, means, steps)
                if line["iteration"] == self._run.resume_from:
                    self._unrepeated[f"{BY_ENVIRONMENT_STEPS}/{tag}"] = points
                else:
                    self._add(points)

    def settings(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes a table and, for a new run, TensorBoard's hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        rows = "\n".join(f"|{name}|{_cell(value)}|" for name, value in settings.items())
        self._writer.add_text("config", f"|setting|value|\n|-|-|\n{rows}", self._run.start)
        if self._run.resume_from is None:
            # Not add_hparams: that one opens a second run folder.
            simple = {
                k: v if isinstance(v, bool | int | float) else str(v) for k, v in settings.items()
            }
            for summary in hparams(simple, dict.fromkeys(metrics)):
                self._add_summary(summary)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self._drop([tag], step)
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def film(self, tag: str, path: Path, size: tuple[int, int], step: int) -> None:
        from tensorboard.compat.proto import summary_pb2

        self._drop([tag], step)
        # As `add_video` does, which requires moviepy.
        events = getattr(summary_pb2, "Summary")  # noqa: B009 - type checkers cannot see it
        image = events.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._add_summary(events(value=[events.Value(tag=tag, image=image)]), step)

    def layout(self, repeated: Iterable[tuple[str, str]], final: Sequence[tuple[str, str]]) -> None:
        """Writes the layout of the custom-scalars dashboard, which replaces an earlier one.

        Args:
            repeated: Prefix and metric of the curves that are measured during training.
            final: The same of the curves of reports; those with one metric share a chart.
        """
        charts: dict[str, list[Any]] = {}
        for prefix, metric in repeated:
            tag = f"{prefix}/{metric}"
            # Multiline takes expressions that match from the start, Margin takes whole tags.
            steps = rf"{re.escape(tag)}/step_\d+$"
            charts[f"{tag}: mean per adaptation step"] = ["Multiline", [steps]]
            for kind in ("mean", "iqm"):
                tags = [f"{tag}/{kind}{end}" for end in ("", "_low", "_high")]
                charts[f"{tag}: {kind} after the last step, 95 % CI"] = ["Margin", tags]
        for metric in dict.fromkeys(metric for _, metric in final):
            tags = [
                rf"{BY_ADAPTATION_STEPS}/{re.escape(prefix)}/{re.escape(metric)}$"
                for prefix, of_prefix in final
                if of_prefix == metric
            ]
            charts[f"test {metric}: mean over adaptation steps"] = ["Multiline", tags]
        self._writer.add_custom_scalars({"adaptation": charts})

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._repeat_all()
        self._writer.close()

    def _is_valid(self, event: Any) -> bool:
        """Whether an event stays when the run is resumed; curves of reports are written again."""
        values = event.summary.value
        return event.step < self._run.start and not any(
            _is_over_adaptation_steps(value.tag) for value in values
        )

    def _drop(self, tags: Iterable[str], step: int) -> None:
        """Drops what earlier processes wrote of these tags at this step."""
        if not self._old_events or step >= self._run.start:
            return
        names = set(tags)

        def wanted(event: Any) -> bool:
            return event.step != step or not any(v.tag in names for v in event.summary.value)

        keep_events(self._old_events, wanted)

    def _add(self, points: Points) -> None:
        for values, step in points:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def _repeat_all(self, kind: str = "") -> None:
        """Writes the curves that `repeat` has left; `kind` is the first part of their tags."""
        for tag in [tag for tag in self._unrepeated if tag.startswith(kind)]:
            self._add(self._unrepeated.pop(tag))

    def _add_summary(self, summary: Any, step: int | None = None) -> None:
        writer = self._writer._get_file_writer()
        assert writer is not None
        writer.add_summary(summary, step)


def over_adaptation_steps(tag: str, means: Sequence[float | None], first_step: int = 0) -> Points:
    """Returns the means of a curve over adaptation steps, under one tag.

    Args:
        tag: The tag of the curve ("eval_test/mse").
        means: The mean after each adaptation step; None if it is not finite.
        first_step: The adaptation steps of the first mean.
    """
    tag = f"{BY_ADAPTATION_STEPS}/{tag}"
    return [({tag: _float(m)}, k) for k, m in enumerate(means, first_step)]


def _over_environment_steps(
    tag: str, means: Sequence[float | None], environment_steps: int
) -> Points:
    tags = [f"{BY_ENVIRONMENT_STEPS}/{tag}/step_{k}" for k in range(len(means))]
    return [(dict(zip(tags, map(_float, means), strict=True)), environment_steps)]


def _float(mean: float | None) -> float:
    return math.nan if mean is None else mean


def _is_over_adaptation_steps(tag: str) -> bool:
    return tag.startswith(f"{BY_ADAPTATION_STEPS}/")


def leave_errors_to_callers() -> None:
    """Keeps Python from printing errors of TensorBoard's threads, which its writer raises."""
    previous = threading.excepthook
    if getattr(previous, "is_of_metarl", False):
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(arguments.exc_value, OSError)):
            previous(arguments)

    vars(hook)["is_of_metarl"] = True
    threading.excepthook = hook


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
