"""Writes what a run measures: TensorBoard's events, lines of JSON, and further loggers."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import CheckpointError, MetarlError, SettingsError
from metarl.evaluation.curves import AdaptationCurve
from metarl.evaluation.statistics import Summary, summarise_curve
from metarl.runs.eval_file import append_line, cut_after, drop_lines, read_curves
from metarl.runs.lock import RunLock
from metarl.runs.run_folder import to_json
from metarl.runs.tensorboard_writer import (
    TensorBoardWriter,
    leave_errors_to_callers,
    over_adaptation_steps,
)
from metarl.runs.writer import Writer, WrittenRun
from metarl.runs.writers import WRITERS
from metarl.tasks.files import remove_parts, result_path

BOOTSTRAP_SEED = 20_200_713
STATISTICS = [f.name for f in dataclasses.fields(Summary) if f.name != "count"]
"""The columns of eval.jsonl."""


class RunLogger:
    """Writes scalars, adaptation curves, images and settings of one run into its folder.

    No other process can write into the folder until the logger is closed or deleted. A disk that is
    full or gone raises CheckpointError at the next call; TensorBoard's thread may notice it late.

    Tags: `train/<metric>/step_{k}`, `eval_validation/<metric>/step_{k}`, `meta/loss`,
    `meta/grad_norm`, `inner/loss/step_{k}`, `perf/...`, whose step is the number of meta-iterations
    done, and `by_adaptation_steps/eval_<split>/<metric>` of the curves of reports, whose step is
    the number of adaptation steps. The means of curves of control tasks during training are written
    again under `by_environment_steps/`, where the step is the number of environment steps.

    Args:
        folder: The run folder.
        resume_from: Meta-iterations done in the checkpoint that the run resumes from, or None for
            a new run. Results of later iterations are dropped from eval.jsonl and from the event
            files. What is written again of the same iteration (the report of a finished run that is
            resumed) replaces its line and its events.
        repeated: Prefixes of the adaptation curves that are measured again and again during
            training; the others are those of a report.
        loggers: Names of further writers, each once; see `metarl.runs.writers`.

    Raises:
        CheckpointError: The folder cannot be written, or another process writes into it.
        UnknownNameError: No writer has such a name.
        SettingsError: The package of a writer is not installed, or the writer cannot start.
    """

    def __init__(
        self,
        folder: Path | str,
        resume_from: int | None = None,
        repeated: Sequence[str] = ("eval_validation",),
        loggers: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self._repeated = tuple(repeated)
        self._curves: dict[tuple[str, str], None] = {}
        self._resumed_from = resume_from
        self._lock: RunLock | None = None
        self._failed = False
        self._others: list[Writer] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._writing():
                remove_parts(self.folder)
                run = WrittenRun(self.folder, resume_from)
                # Before curves and events are cut: one that cannot start leaves them as they are.
                self._others += [_made(name, run) for name in dict.fromkeys(loggers)]
                if resume_from is not None:
                    cut_after(self.folder, resume_from)
                self._board = TensorBoardWriter(run)
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
        numbers = {tag: float(value) for tag, value in values.items()}
        self._each(lambda writer: writer.scalars(numbers, iteration))

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

        The scalars of a curve during training are the mean after every step and all statistics
        after the last one, over meta-iterations. Those of a report are the mean over adaptation
        steps: one tag, so one chart. Further metrics of the curve are written in the same way, each
        as a curve with its own line.

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
        self._layout(prefix, curve.metric)
        self._curve_scalars(curve, summaries, iteration, prefix)
        figure = adaptation_figure(
            {prefix: summaries}, curve.metric, title=prefix, first_step=curve.first_step
        )
        self.image(f"curve/{name or prefix}", figure_pixels(figure), iteration)
        self._curve_line(curve, summaries, iteration, prefix, extra, environment_steps)
        for other, measured in curve.others.items():
            further = dataclasses.replace(curve, metric=other, values=measured, others={})
            self.curve(further, iteration, prefix, extra, environment_steps, f"{prefix}_{other}")
        self.flush()
        return summaries

    def _curve_scalars(
        self, curve: AdaptationCurve, summaries: Sequence[Summary], iteration: int, prefix: str
    ) -> None:
        """Writes a curve over meta-iterations if training repeats it, else over its steps."""
        tag = f"{prefix}/{curve.metric}"
        if prefix not in self._repeated:
            means = [s.mean for s in summaries]
            for values, step in over_adaptation_steps(tag, means, curve.first_step):
                self.scalars(values, step)
            return
        numbered = enumerate(summaries, curve.first_step)
        values = {f"{tag}/step_{k}": s.mean for k, s in numbered}
        values |= {f"{tag}/{n}": getattr(summaries[-1], n) for n in STATISTICS}
        self.scalars(values, iteration)

    def _curve_line(
        self,
        curve: AdaptationCurve,
        summaries: Sequence[Summary],
        iteration: int,
        prefix: str,
        extra: Mapping[str, Any] | None,
        environment_steps: int | None,
    ) -> None:
        """Appends a curve to eval.jsonl; of a resumed run, in place of the line it has already."""
        head = {"iteration": iteration, "split": prefix.removeprefix("eval_")}
        head |= {"metric": curve.metric, "transductive": curve.transductive, **(extra or {})}
        if iteration == self._resumed_from:
            drop_lines(self.folder, json.loads(json.dumps(head)))
        columns = {n: [_number(getattr(s, n)) for s in summaries] for n in STATISTICS}
        line: dict[str, Any] = {**head, "tasks": summaries[0].count}
        if curve.first_step:
            line["first_step"] = curve.first_step
        if environment_steps is not None:
            line["environment_steps"] = environment_steps
            if prefix in self._repeated:
                tag = f"{prefix}/{curve.metric}"
                with self._writing():
                    self._board.by_environment_steps(tag, columns["mean"], environment_steps)
        self._append({**line, **columns})

    def image(self, name: str, pixels: np.ndarray, iteration: int) -> None:
        """Writes an image as `adaptation/<name>`.

        Args:
            name: Last part of the tag.
            pixels: Shape [height, width, 3], uint8.
            iteration: Meta-iterations done.
        """
        self._each(lambda writer: writer.image(f"adaptation/{name}", pixels, iteration))

    def frames(self, name: str, frames: Sequence[np.ndarray], fps: float, iteration: int) -> None:
        """Writes an animation: `<name>.gif` in the folder and the image `adaptation/<name>_film`.

        Args:
            name: Name of the file and part of the tag.
            frames: Each [height, width, 3] uint8.
            fps: Frames per second.
            iteration: Meta-iterations done.
        """
        from metarl.plots.gif import encode_gif

        file = self.folder / f"{name}.gif"
        with result_path(file, "film") as path:
            path.write_bytes(encode_gif(frames, fps))
        height, width, _ = frames[0].shape
        tag = f"adaptation/{name}_film"
        self._each(lambda writer: writer.film(tag, file, (height, width), iteration))

    def settings(self, config: Any, metrics: Sequence[str] = ()) -> None:
        """Writes the settings as a table and, for a new run, as TensorBoard's hyper-parameters.

        Args:
            config: A dataclass or a dict.
            metrics: Tags of the metrics in the hyper-parameter dashboard.
        """
        flat = flatten(to_json(config))
        self._each(lambda writer: writer.settings(flat, metrics))
        self.flush()

    def flush(self) -> None:
        """Writes pending events; call it before each checkpoint, or a crash loses them."""
        self._each(lambda writer: writer.flush())

    def close(self) -> None:
        """Writes pending events, closes the files and lets other processes write here.

        Does not raise again what an earlier call has raised.
        """
        try:
            if self._lock is not None and not self._failed:
                self._each(lambda writer: writer.close())
        finally:
            self._unlock()

    def _each(self, action: Callable[[Writer], None]) -> None:
        """Applies an action to all writers; leaves out those of others that have failed."""
        with self._writing():
            action(self._board)
            for writer in tuple(self._others):
                try:
                    action(writer)
                except MetarlError:
                    self._others.remove(writer)  # or closing it raises again
                    raise
                except Exception as error:  # trackers raise anything
                    self._others.remove(writer)
                    warnings.warn(
                        f"{type(writer).__name__} failed, and the run continues without it: "
                        f"{type(error).__name__}: {error}",
                        RuntimeWarning,
                        stacklevel=3,
                    )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Locks the folder; turns errors of writing into ones that name the folder."""
        if self._lock is None:
            self._lock = RunLock(self.folder)
        leave_errors_to_callers()
        try:
            yield
        except MetarlError:
            raise
        except OSError as error:
            self._failed = True
            raise self._unwritable(error) from error

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"Cannot write to the run folder {self.folder}: {error}.")

    def _repeat(self) -> None:
        """Gives TensorBoard the curves of an earlier process, whose events may be cut."""
        lines = read_curves(self.folder)
        lines = [line for line in lines if {"split", "metric", "mean"} <= line.keys()]
        with self._writing():
            self._board.repeat(lines, self._repeated)
        self._curves |= {(f"eval_{line['split']}", line["metric"]): None for line in lines}
        if self._curves:  # that of MetaRL 0.1 named other tags
            self._write_layout()

    def _layout(self, prefix: str, metric: str) -> None:
        """Writes the layout of the custom-scalars dashboard when a curve is new."""
        if (prefix, metric) in self._curves:
            return
        self._curves[prefix, metric] = None
        self._write_layout()

    def _write_layout(self) -> None:
        repeated = [curve for curve in self._curves if curve[0] in self._repeated]
        final = [curve for curve in self._curves if curve[0] not in self._repeated]
        with self._writing():
            self._board.layout(repeated, final)

    def _append(self, line: dict[str, Any]) -> None:
        with self._writing():
            append_line(self.folder, line)


def _made(name: str, run: WrittenRun) -> Writer:
    try:
        writer = WRITERS.get(name)(run)
    except MetarlError:
        raise
    except Exception as error:  # trackers raise anything
        raise SettingsError(
            f"The logger {name!r} cannot start: {type(error).__name__}: {error}"
        ) from error
    methods = [n for n, f in vars(Writer).items() if callable(f) and not n.startswith("_")]
    missing = [n for n in methods if not callable(getattr(writer, n, None))]
    if missing:
        raise SettingsError(
            f"Expected the logger {name!r} to be a class of metarl.runs.writer.Writer, got a "
            f"{type(writer).__name__} without {', '.join(missing)}. Subclass Writer: only "
            "`scalars` must then be written."
        )
    return writer


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
