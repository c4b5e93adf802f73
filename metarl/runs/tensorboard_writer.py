"""Writes the results of a run as TensorBoard's events."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.runs.writer import Writer, WrittenRun

BY_ADAPTATION_STEPS = "by_adaptation_steps"
BY_ENVIRONMENT_STEPS = "by_environment_steps"


class TensorBoardWriter(Writer):
    """Writes events into the run folder. TensorBoard hides those of iterations that are void.

    Args:
        run: The run.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, run: WrittenRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        purge = None if run.resume_from is None else run.start
        self._writer = SummaryWriter(str(run.folder), purge_step=purge)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

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
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def film(self, tag: str, path: Path, size: tuple[int, int], step: int) -> None:
        from tensorboard.compat.proto import summary_pb2

        # As `add_video` does, which requires moviepy.
        events = getattr(summary_pb2, "Summary")  # noqa: B009 - type checkers cannot see it
        image = events.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._add_summary(events(value=[events.Value(tag=tag, image=image)]), step)

    def layout(self, repeated: Mapping[str, str], final: Mapping[str, str]) -> None:
        """Writes the layout of the custom-scalars dashboard, which replaces an earlier one.

        Args:
            repeated: Prefix -> metric of the curves that are measured during training.
            final: The same of the curves of reports; those with one metric share a chart.
        """
        charts: dict[str, list[Any]] = {}
        for prefix, metric in repeated.items():
            tag = f"{prefix}/{metric}"
            # Multiline takes expressions that match from the start, Margin takes whole tags.
            steps = rf"{re.escape(tag)}/step_\d+$"
            charts[f"{tag}: mean per adaptation step"] = ["Multiline", [steps]]
            for kind in ("mean", "iqm"):
                tags = [f"{tag}/{kind}{end}" for end in ("", "_low", "_high")]
                charts[f"{tag}: {kind} after the last step, 95 % CI"] = ["Margin", tags]
        for metric in dict.fromkeys(final.values()):
            tags = [
                rf"{BY_ADAPTATION_STEPS}/{re.escape(prefix)}/{re.escape(metric)}$"
                for prefix, of_prefix in final.items()
                if of_prefix == metric
            ]
            charts[f"test {metric}: mean over adaptation steps"] = ["Multiline", tags]
        self._writer.add_custom_scalars({"adaptation": charts})

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add_summary(self, summary: Any, step: int | None = None) -> None:
        writer = self._writer._get_file_writer()
        assert writer is not None
        writer.add_summary(summary, step)


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
