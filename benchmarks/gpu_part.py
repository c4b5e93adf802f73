"""One part of `gpu_report`, in a process that may fail or be ended: writes its rows one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.devices import resolve_device, set_threads

TRAINING_SHARE = 0.8
"""Share of a training's time after which it ends; the rest is for the curve at the end."""


@dataclass(frozen=True)
class PartSettings:
    """Settings of a part."""

    kind: Annotated[Literal["speed", "train", "train-long"], tyro.conf.Positional]
    """What it does."""
    name: tyro.conf.Positional[str]
    """Name of the function in `gpu_speed` or `gpu_iterations`, or of the training."""
    device: str = "auto"
    """See `metarl.devices.resolve_device`."""
    rows: Path = Path("rows.jsonl")
    """File to which rows are added."""
    runs: Path = Path("runs")
    """Folder of the run of a training."""
    seconds: float = 60.0
    """Seconds until the part is ended."""
    began: float = 0.0
    """When they began, as `time.time()`; 0 for now."""
    small: bool = False
    """Whether little is measured, to test the program."""
    compiled: bool = False
    """Whether meta-iterations are compiled."""


def main(settings: PartSettings) -> None:
    """Runs the part."""
    with settings.rows.open("a") as file:
        for row in _rows(settings):
            file.write(json.dumps(row) + "\n")
            file.flush()


def _rows(settings: PartSettings) -> Iterator[dict[str, Any]]:
    device = resolve_device(settings.device)
    if settings.kind == "speed":
        from benchmarks import gpu_iterations, gpu_speed

        set_threads(1)
        sizes = gpu_speed.SMALL if settings.small else gpu_speed.Sizes()
        options = {"compiled": True} if settings.compiled else {}
        measure = gpu_iterations.PARTS.get(settings.name) or getattr(gpu_speed, settings.name)
        yield from measure(device, sizes, **options)
        return
    from benchmarks.gpu_training import SHORT, long_trainings, train

    training = (SHORT if settings.kind == "train" else long_trainings())[settings.name]
    until = (settings.began or time.time()) + TRAINING_SHARE * settings.seconds
    yield from train(training, settings.runs, str(device), until, settings.small)


if __name__ == "__main__":
    main(tyro.cli(PartSettings))
