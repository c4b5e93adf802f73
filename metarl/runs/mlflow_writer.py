"""Writes the results of a run to MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.extras import import_extra
from metarl.runs.writer import Writer, WrittenRun
from metarl.tasks.files import read_text, write_bytes

ID_FILE = "mlflow_run.txt"
_MOST_PARAMETERS = 100  # per request
_MOST_LETTERS = 6000  # per parameter


class MlflowWriter(Writer):
    """Writes to MLflow, whose variables of the environment it obeys.

    MLFLOW_TRACKING_URI names the server or the folder, MLFLOW_EXPERIMENT_NAME the experiment
    ("metarl" by default). A resumed run continues the same run of MLflow, which keeps what it has
    received.

    Args:
        run: The run.

    Raises:
        SettingsError: The package is not installed.
    """

    def __init__(self, run: WrittenRun) -> None:
        self._mlflow = import_extra("mlflow", "mlflow")
        self._client = self._mlflow.MlflowClient()
        self._entities = import_extra("mlflow.entities", "mlflow")
        path = run.folder / ID_FILE
        if path.exists():
            self._id = read_text(path)
            self._client.set_terminated(self._id, "RUNNING")
        else:
            self._id = self._created(run)
            write_bytes(path, f"{self._id}\n".encode())

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(t, v, now, step) for t, v in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def settings(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes parameters; those of a resumed run that changed keep their first value."""
        known = self._client.get_run(self._id).data.params
        new = [
            self._entities.Param(name, str(value)[:_MOST_LETTERS])
            for name, value in settings.items()
            if name not in known
        ]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[start : start + _MOST_PARAMETERS])

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self._client.log_image(self._id, pixels, artifact_file=f"{tag}/{step:06d}.png")

    def film(self, tag: str, path: Path, size: tuple[int, int], step: int) -> None:
        self._client.log_artifact(self._id, str(path), tag.rpartition("/")[0])

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _created(self, run: WrittenRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "metarl"
        experiment = self._client.get_experiment_by_name(name)
        key = experiment.experiment_id if experiment else self._client.create_experiment(name)
        return self._client.create_run(key, run_name=run.name).info.run_id
