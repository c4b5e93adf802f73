"""Options that several commands share; they have the names of the options of `metarl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

Run = Annotated[Path, tyro.conf.Positional]
"""A run folder, whose newest valid checkpoint is used; a checkpoint; or `latest`."""

TestTasks = Annotated[int, tyro.conf.arg(aliases=["--tasks"])]
TestSteps = Annotated[int, tyro.conf.arg(aliases=["--steps"])]
Device = Annotated[str | None, tyro.conf.arg(name="training.device", aliases=["--device"])]
