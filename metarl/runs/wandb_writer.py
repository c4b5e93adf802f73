"""Writes the results of a run to Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.extras import import_extra
from metarl.runs.writer import Writer, WrittenRun
from metarl.tasks.files import read_text, write_bytes

ID_FILE = "wandb_id.txt"


class WandbWriter(Writer):
    """Writes to Weights & Biases, whose variables of the environment it obeys.

    WANDB_PROJECT names the project ("metarl" by default); with WANDB_MODE=offline the run is kept
    in the run folder until `wandb sync`. A resumed run continues under the same id. What Weights &
    Biases has received is not taken back: values of iterations that are void stay there.

    Args:
        run: The run.

    Raises:
        SettingsError: The package is not installed.
    """

    def __init__(self, run: WrittenRun) -> None:
        self._wandb = import_extra("wandb", "wandb")
        path = run.folder / ID_FILE
        if not path.exists():
            write_bytes(path, f"{uuid.uuid4().hex[:16]}\n".encode())
        project = os.environ.get("WANDB_PROJECT") or "metarl"
        self._run = self._wandb.init(
            project=project, dir=str(run.folder), id=read_text(path), name=run.name,
            resume="allow", reinit="create_new",
        )  # fmt: skip
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def settings(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({tag: self._wandb.Image(pixels), "step": step})

    def film(self, tag: str, path: Path, size: tuple[int, int], step: int) -> None:
        self._run.log({tag: self._wandb.Video(str(path), format="gif"), "step": step})

    def close(self) -> None:
        self._run.finish()
