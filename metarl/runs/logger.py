"""Writes what a run measures as TensorBoard events and as lines of JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import CheckpointError, MetarlError
from metarl.evaluation.curves import AdaptationCurve
from metarl.evaluation.statistics import Summary, summarise_curve
from metarl.runs.eval_file import append_line, cut_after, drop_lines, read_curves
from metarl.runs.event_files import event_files, keep_events
from metarl.runs.lock import RunLock
from metarl.runs.run_folder import to_json
from metarl.tasks.files import remove_parts, result_path

BOOTSTRAP_SEED = 20_200_713
_STATISTICS = [f.name for f in dataclasses.fields(Summary) if f.name != "count"]


class RunLogger:
    """Writes scalars, adaptation curves, images and settings of one run into its folder.

    No other process can write into the folder until the logger is closed or deleted. A disk that is
    full or gone raises CheckpointError at the next call; TensorBoard's thread may notice it late.
    An event that a crash has cut is the last of its file, which TensorBoard reads up to there.

    Tags: `train/<metric>/step_{k}`, `eval_<split>/<metric>/step_{k}`, `meta/loss`,
    `meta/grad_norm`, `inner/loss/step_{k}`, `perf/...`. The step of an event is the number of
    meta-iterations done. The means of curves of control tasks are written again under
    `by_environment_steps/`, where the step is the number of environment steps.

    Args:
        folder: The run folder.
        resume_from: Meta-iterations done in the checkpoint that the run resumes from, or None for
            a new run. Results of later iterations are dropped from eval.jsonl and from the event
            files. What is written again of the same iteration (the report of a finished run that is
            resumed) replaces its line and its events.
        curves: Prefixes of the adaptation curves that get charts in the custom-scalars dashboard,
            whose layout is written once. The prefix of the first curve is added.

    Raises:
        CheckpointError: The folder cannot be written, or another process writes into it.
    """

    def __init__(
        self,
        folder: Path | str,
        resume_from: int | None = None,
        curves: Sequence[str] = ("eval_validation", "eval_test"),
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = Path(folder)
        self._curves = tuple(curves)
        self._start = 0 if resume_from is None else resume_from + 1
        self._resumed_from = resume_from
        self._lock: RunLock | None = None
        self._failed = False
        self._old_events: list[Path] = []
        self._unrepeated: dict[str, tuple[list[float | None], int]] = {}
        num_lines = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._writing():
                remove_parts(self.folder)
                if resume_from is not None:
                    num_lines = cut_after(self.folder, resume_from)
                    self._old_events = event_files(self.folder)
                    keep_events(self._old_events, lambda event: event.step < self._start)
                # A TensorBoard that runs hides what it has read of this step and later ones.
                purge = None if resume_from is None else self._start
                self._writer = SummaryWriter(str(self.folder), purge_step=purge)
            self._has_layout = num_lines > 0
            if resume_from is not None:
                self._repeat()
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError) and not isinstance(error, MetarlError):
                raise self._unwritable(error) from error
            raise

    def __enter__(self) -> RunLogger:
        """Returns the logger; its files are open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self.close()

    def scalars(self, values: Mapping[str, float | Tensor], iteration: int) -> None:
        """Writes one number per tag.

        Args:
            values: Numbers, or tensors of one element, by tag.
            iteration: Meta-iterations done.
        """
        if self._unrepeated and iteration >= self._start:
            self._repeat_all()
        self._scalars(values, iteration)

    def curve(
        self,
        curve: AdaptationCurve,
        iteration: int,
        prefix: str = "eval_test",
        extra: Mapping[str, Any] | None = None,
        environment_steps: int | None = None,
        name: str = "",
    ) -> list[Summary]:
        """Writes an adaptation curve as scalars, as a figure and as a line of eval.jsonl.

        The scalars are the mean after every step, and all statistics after the last one. Further
        metrics of the curve are written in the same way, each as a curve with its own line.

        Args:
            curve: The metric per step and task.
            iteration: Meta-iterations done.
            prefix: First part of the tags: "eval_test", "eval_validation", "eval_test_5_shot", ...
            extra: Further entries of the line of eval.jsonl (the shots, the seed).
            environment_steps: Environment steps of training so far; None for supervised tasks.
            name: Name of the figure; by default the prefix.

        Returns:
            The summary of each step, with 95 % bootstrap confidence intervals over the tasks. The
            resamples are the same in every call, so that equal curves have equal intervals.
        """
        from metarl.plots.figures import adaptation_figure, figure_pixels

        generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
        summaries = summarise_curve(curve.values, generator)
        tag = f"{prefix}/{curve.metric}"
        self._layout(prefix, curve.metric)
        values = {f"{tag}/step_{k}": s.mean for k, s in enumerate(summaries)}
        values |= {f"{tag}/{name}": getattr(summaries[-1], name) for name in _STATISTICS}
        self.scalars(values, iteration)
        figure = adaptation_figure({prefix: summaries}, curve.metric, title=prefix)
        self.image(f"curve/{name or prefix}", figure_pixels(figure), iteration)
        head = {"iteration": iteration, "split": prefix.removeprefix("eval_")}
        head |= {"metric": curve.metric, "transductive": curve.transductive, **(extra or {})}
        if iteration == self._resumed_from:
            drop_lines(self.folder, json.loads(json.dumps(head)))
        columns = {n: [_number(getattr(s, n)) for s in summaries] for n in _STATISTICS}
        line: dict[str, Any] = {**head, "tasks": summaries[0].count}
        if environment_steps is not None:
            line["environment_steps"] = environment_steps
            self._by_environment_steps(tag, columns["mean"], environment_steps)
        self._append({**line, **columns})
        for other, values in curve.others.items():
            further = AdaptationCurve(other, values, curve.transductive)
            self.curve(further, iteration, prefix, extra, environment_steps, f"{prefix}_{other}")
        self.flush()
        return summaries

    def image(self, name: str, pixels: np.ndarray, iteration: int) -> None:
        """Writes an image as `adaptation/<name>`.

        Args:
            name: Last part of the tag.
            pixels: Shape [height, width, 3], uint8.
            iteration: Meta-iterations done.
        """
        tag = f"adaptation/{name}"
        with self._replacing([tag], iteration):
            self._writer.add_image(tag, pixels, iteration, dataformats="HWC")

    def frames(self, name: str, frames: Sequence[np.ndarray], fps: float, iteration: int) -> None:
        """Writes an animation: `<name>.gif` in the folder and the image `adaptation/<name>_film`.

        Args:
            name: Name of the file and part of the tag.
            frames: Each [height, width, 3] uint8.
            fps: Frames per second.
            iteration: Meta-iterations done.
        """
        from tensorboard.compat.proto import summary_pb2

        from metarl.plots.gif import encode_gif

        data = encode_gif(frames, fps)
        with result_path(self.folder / f"{name}.gif", "film") as path:
            path.write_bytes(data)
        height, width, channels = frames[0].shape
        # As `add_video` does, which requires moviepy.
        events = getattr(summary_pb2, "Summary")  # noqa: B009 - type checkers cannot see it
        image = events.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=data
        )
        tag = f"adaptation/{name}_film"
        summary = events(value=[events.Value(tag=tag, image=image)])
        with self._replacing([tag], iteration):
            writer = self._writer._get_file_writer()
            assert writer is not None
            writer.add_summary(summary, iteration)

    def settings(self, config: Any, metrics: Sequence[str] = ()) -> None:
        """Writes the settings as a table and, for a new run, as TensorBoard's hyper-parameters.

        Args:
            config: A dataclass or a dict.
            metrics: Tags of the metrics in the hyper-parameter dashboard.
        """
        from torch.utils.tensorboard.summary import hparams

        flat = flatten(to_json(config))
        rows = "\n".join(f"|{name}|{_cell(value)}|" for name, value in flat.items())
        with self._writing():
            self._writer.add_text("config", f"|setting|value|\n|-|-|\n{rows}", self._start)
            if self._resumed_from is None:
                # Not add_hparams: that one opens a second run folder.
                flat = {
                    k: v if isinstance(v, bool | int | float) else str(v) for k, v in flat.items()
                }
                for summary in hparams(flat, dict.fromkeys(metrics)):
                    self._writer._get_file_writer().add_summary(summary)
        self.flush()

    def flush(self) -> None:
        """Writes pending events; call it before each checkpoint, or a crash loses them."""
        with self._writing():
            self._writer.flush()

    def close(self) -> None:
        """Writes pending events, closes the files and lets other processes write here.

        Does not raise again what an earlier call has raised.
        """
        try:
            if self._lock is not None and not self._failed:
                self._repeat_all()
                with self._writing():
                    self._writer.close()
        finally:
            self._unlock()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Locks the folder; turns errors of writing into ones that name the folder."""
        if self._lock is None:
            self._lock = RunLock(self.folder)
        _leave_errors_to_callers()
        try:
            yield
        except MetarlError:
            raise
        except OSError as error:
            self._failed = True
            raise self._unwritable(error) from error

    @contextmanager
    def _replacing(self, tags: Iterable[str], iteration: int) -> Iterator[None]:
        """Like `_writing`; drops what the run wrote of these tags at the same iteration."""
        with self._writing():
            if iteration == self._resumed_from:
                names = set(tags)

                def wanted(event: Any) -> bool:
                    values = event.summary.value
                    return event.step != iteration or not any(v.tag in names for v in values)

                keep_events(self._old_events, wanted)
            yield

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"Cannot write to the run folder {self.folder}: {error}.")

    def _scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        with self._replacing(values, step):
            for tag, value in values.items():
                self._writer.add_scalar(tag, float(value), step)

    def _by_environment_steps(
        self, tag: str, means: Sequence[float | None], environment_steps: int
    ) -> None:
        self._unrepeated.pop(tag, None)
        values = {
            f"by_environment_steps/{tag}/step_{k}": math.nan if mean is None else mean
            for k, mean in enumerate(means)
        }
        self._scalars(values, environment_steps)

    def _repeat(self) -> None:
        """Writes the curves again that were dropped because environment steps exceed iterations.

        Those of the last iteration wait: the report of a finished run writes them itself.
        """
        for line in read_curves(self.folder):
            steps = line.get("environment_steps", -1)
            if steps >= self._start:
                tag = f"eval_{line['split']}/{line['metric']}"
                self._unrepeated[tag] = line["mean"], steps
                if line["iteration"] != self._resumed_from:
                    self._repeat_all()

    def _repeat_all(self) -> None:
        """Writes the curves that `_repeat` has left."""
        while self._unrepeated:
            tag, (means, steps) = self._unrepeated.popitem()
            self._by_environment_steps(tag, means, steps)

    def _layout(self, prefix: str, metric: str) -> None:
        """Writes the layout of the custom-scalars dashboard, once per run."""
        if self._has_layout:
            return
        self._has_layout = True
        charts: dict[str, list[Any]] = {}
        for name in dict.fromkeys((prefix, *self._curves)):
            tag = f"{name}/{metric}"
            # Multiline takes expressions that match from the start, Margin takes whole tags.
            steps = rf"{re.escape(tag)}/step_\d+$"
            charts[f"{tag}: mean per adaptation step"] = ["Multiline", [steps]]
            for kind in ("mean", "iqm"):
                tags = [f"{tag}/{kind}{end}" for end in ("", "_low", "_high")]
                charts[f"{tag}: {kind} after the last step, 95 % CI"] = ["Margin", tags]
        with self._writing():
            self._writer.add_custom_scalars({"adaptation": charts})

    def _append(self, line: dict[str, Any]) -> None:
        with self._writing():
            append_line(self.folder, line)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with names joined by dots."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _number(value: float) -> float | None:
    """Returns the number, or None for NaN and infinity, which JSON cannot represent."""
    return value if math.isfinite(value) else None


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _leave_errors_to_callers() -> None:
    """Keeps Python from printing errors of TensorBoard's threads, which `RunLogger` raises."""
    previous = threading.excepthook
    if getattr(previous, "is_of_metarl", False):
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(arguments.exc_value, OSError)):
            previous(arguments)

    vars(hook)["is_of_metarl"] = True
    threading.excepthook = hook
