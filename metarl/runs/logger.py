"""What a run measures, as TensorBoard events and as lines of JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from matplotlib.figure import Figure
from tensorboard.compat.proto import summary_pb2
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.errors import CheckpointError
from metarl.evaluation.curves import AdaptationCurve
from metarl.plots.figures import adaptation_figure, figure_pixels, save_figure
from metarl.plots.film import Film, gif
from metarl.plots.pictures import Picture
from metarl.evaluation.statistics import Summary, summarise_curve
from metarl.tasks.files import atomic_path
from metarl.runs.run_folder import to_json

EVAL_FILE = "eval.jsonl"
BOOTSTRAP_SEED = 20_200_713
_STATISTICS = [f.name for f in dataclasses.fields(Summary) if f.name != "count"]


class RunLogger:
    """Writes scalars, adaptation curves and settings of one run into its folder.

    Tags: `train/<metric>/step_{k}`, `eval_<split>/<metric>/step_{k}`, `meta/loss`,
    `meta/grad_norm`, `inner/loss/step_{k}`, `perf/...`. The step of an event is the number of
    meta-iterations done when it was measured; the means of curves of control tasks stand a second
    time below `by_environment_steps/`, where it is the number of environment steps.

    Args:
        folder: The run folder.
        resume_from: Meta-iterations done in the checkpoint that the run goes on from, or None for
            a new run. What was written of later iterations is dropped: TensorBoard hides these
            events, and eval.jsonl is cut. A curve of that very iteration (the report of a finished
            run, resumed) takes the place of the line it had.
        curves: Prefixes of the adaptation curves that get charts in the custom-scalars dashboard,
            whose layout can be written only once. That of the first curve is added.

    Raises:
        CheckpointError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        resume_from: int | None = None,
        curves: Sequence[str] = ("eval_validation", "eval_test"),
    ) -> None:
        self.folder = Path(folder)
        self._curves = tuple(curves)
        self._start = 0 if resume_from is None else resume_from + 1
        self._resumed_from = resume_from
        kept = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume_from is not None:
                kept = _cut(self.folder / EVAL_FILE, resume_from)
            # Events of this step and later ones are hidden.
            purge = None if resume_from is None else self._start
            self._writer = SummaryWriter(str(self.folder), purge_step=purge)
        except OSError as error:
            raise CheckpointError(f"Cannot write to the run folder {folder}: {error}.") from error
        self._has_layout = kept > 0
        if resume_from is not None:
            self._repeat()

    def __enter__(self) -> RunLogger:
        """Does nothing; the files are open."""
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
        for tag, value in values.items():
            self._writer.add_scalar(tag, float(value), iteration)

    def curve(
        self,
        curve: AdaptationCurve,
        iteration: int,
        prefix: str = "eval_test",
        extra: Mapping[str, Any] | None = None,
        environment_steps: int | None = None,
    ) -> list[Summary]:
        """Writes an adaptation curve as scalars, as a figure and as a line of eval.jsonl.

        The scalars are the mean after every step, and all statistics after the last one.

        Args:
            curve: The metric per step and task.
            iteration: Meta-iterations done.
            prefix: First part of the tags: "eval_test", "eval_validation", "eval_test_5_shot", ...
            extra: More for the line of eval.jsonl (the shots, the seed).
            environment_steps: Environment steps of training so far; None for supervised tasks.

        Returns:
            The summary of each step, with 95 % bootstrap confidence intervals over the tasks. The
            resamples are the same ones every time, so that equal curves have equal intervals.
        """
        generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
        summaries = summarise_curve(curve.values, generator)
        tag = f"{prefix}/{curve.metric}"
        self._layout(prefix, curve.metric)
        values = {f"{tag}/step_{k}": s.mean for k, s in enumerate(summaries)}
        values |= {f"{tag}/{name}": getattr(summaries[-1], name) for name in _STATISTICS}
        self.scalars(values, iteration)
        figure = adaptation_figure({prefix: summaries}, curve.metric, title=prefix)
        self._writer.add_image(
            f"adaptation/curve/{prefix}", figure_pixels(figure), iteration, dataformats="HWC"
        )
        head = {"iteration": iteration, "split": prefix.removeprefix("eval_")}
        head |= {"metric": curve.metric, "transductive": curve.transductive, **(extra or {})}
        if iteration == self._resumed_from:
            _drop(self.folder / EVAL_FILE, json.loads(json.dumps(head)))
        columns = {n: [_number(getattr(s, n)) for s in summaries] for n in _STATISTICS}
        line: dict[str, Any] = {**head, "tasks": summaries[0].count}
        if environment_steps is not None:
            line["environment_steps"] = environment_steps
            self._by_environment_steps(tag, columns["mean"], environment_steps)
        self._append({**line, **columns})
        self.flush()
        return summaries

    def picture(self, picture: Picture, iteration: int) -> None:
        """Writes a picture's figure into the folder and as an image, `adaptation/<name>`.

        Args:
            picture: The picture.
            iteration: Meta-iterations done.
        """
        self.figure(picture.name, picture.figure, iteration)

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        """Writes a figure into the folder, `<name>.png`, and as an image, `adaptation/<name>`."""
        save_figure(figure, self.folder / f"{name}.png")
        pixels = figure_pixels(figure)
        self._writer.add_image(f"adaptation/{name}", pixels, iteration, dataformats="HWC")

    def film(self, film: Film, iteration: int) -> None:
        """Writes a film, `<name>.gif` in the folder and the image `adaptation/<name>_film`."""
        data = gif(film)
        with atomic_path(self.folder / f"{film.name}.gif") as path:
            path.write_bytes(data)
        height, width, channels = film.frames[0].shape
        # What `add_video` does, which would need moviepy.
        events = getattr(summary_pb2, "Summary")  # noqa: B009 - type checkers cannot see it
        image = events.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=data
        )
        summary = events(value=[events.Value(tag=f"adaptation/{film.name}_film", image=image)])
        writer = self._writer._get_file_writer()
        assert writer is not None
        writer.add_summary(summary, iteration)

    def settings(self, config: Any, metrics: Sequence[str] = ()) -> None:
        """Writes the settings as a table and, for a new run, as TensorBoard's hyper-parameters.

        Args:
            config: A dataclass or a dict.
            metrics: Tags that the hyper-parameter dashboard shows beside the settings.
        """
        flat = flatten(to_json(config))
        rows = "\n".join(f"|{name}|{_cell(value)}|" for name, value in flat.items())
        self._writer.add_text("config", f"|setting|value|\n|-|-|\n{rows}", self._start)
        if self._resumed_from is None:
            # Not add_hparams: that one opens a second run folder.
            known = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in flat.items()}
            for summary in hparams(known, dict.fromkeys(metrics)):
                self._writer._get_file_writer().add_summary(summary)
        self.flush()

    def flush(self) -> None:
        """Writes out what is pending; call it before each checkpoint, or a crash loses events."""
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is pending and closes the files."""
        self._writer.close()

    def _by_environment_steps(
        self, tag: str, means: Sequence[float | None], environment_steps: int
    ) -> None:
        values = {
            f"by_environment_steps/{tag}/step_{k}": math.nan if mean is None else mean
            for k, mean in enumerate(means)
        }
        self.scalars(values, environment_steps)

    def _repeat(self) -> None:
        """Writes again what was hidden though it is kept: environment steps outrun iterations."""
        for line in read_curves(self.folder):
            steps = line.get("environment_steps", -1)
            if steps >= self._start:
                tag = f"eval_{line['split']}/{line['metric']}"
                self._by_environment_steps(tag, line["mean"], steps)

    def _layout(self, prefix: str, metric: str) -> None:
        """Lays the custom-scalars dashboard out, once per run."""
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
        self._writer.add_custom_scalars({"adaptation": charts})

    def _append(self, line: dict[str, Any]) -> None:
        path = self.folder / EVAL_FILE
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise CheckpointError(f"Cannot write {path}: {error}.") from error


def read_curves(folder: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of a run's eval.jsonl, oldest first; a line cut short is left out."""
    return [line for _, line in _lines(Path(folder) / EVAL_FILE)]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with names joined by dots."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _cut(path: Path, iteration: int) -> int:
    """Drops the lines of later iterations and one cut short; returns how many are left."""
    return _keep(path, lambda line: line["iteration"] <= iteration)


def _drop(path: Path, head: dict[str, Any]) -> None:
    """Drops the lines that say what `head` says."""
    _keep(path, lambda line: line != {**line, **head})


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Keeps the lines that are wanted and whole; returns how many these are."""
    if not path.exists():
        return 0
    kept = [text for text, line in _lines(path) if wanted(line)]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    return len(kept)


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the whole lines of an eval.jsonl, as text and decoded."""
    lines = []
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(texts):
        try:
            lines.append((text, json.loads(text)))
        except json.JSONDecodeError as error:
            if number + 1 < len(texts):  # only the last line can have been cut by a crash
                raise CheckpointError(
                    f"Line {number + 1} of {path} is not JSON: {error}. Repair or delete it."
                ) from error
    return lines


def _number(value: float) -> float | None:
    """Returns the number, or None for one that JSON has no word for."""
    return value if math.isfinite(value) else None


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
