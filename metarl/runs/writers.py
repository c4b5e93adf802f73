"""The writers by name, for `--training.loggers`."""

from __future__ import annotations

from collections.abc import Callable

from metarl.registry import PluginRegistry
from metarl.runs.csv_writer import CsvWriter
from metarl.runs.mlflow_writer import MlflowWriter
from metarl.runs.wandb_writer import WandbWriter
from metarl.runs.writer import Writer, WrittenRun

WRITERS: PluginRegistry[Callable[[WrittenRun], Writer]] = PluginRegistry("logger", "metarl.loggers")
"""Name -> what makes a writer of a run. TensorBoard's events and eval.jsonl are always written."""

WRITERS.register("csv", CsvWriter)
WRITERS.register("wandb", WandbWriter)
WRITERS.register("mlflow", MlflowWriter)
