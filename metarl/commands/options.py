"""Options that several commands share; they have the names of the options of `metarl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A run folder, whose newest valid checkpoint is used; `RUN/best`; a checkpoint; or `latest`."""

_TASKS = tyro.conf.arg(aliases=["--tasks"])
_STEPS = tyro.conf.arg(aliases=["--steps"])

TestTasks = Annotated[int, _TASKS]
TestSteps = Annotated[int, _STEPS]
OptionalTestTasks = Annotated[int | None, _TASKS]
OptionalTestSteps = Annotated[int | None, _STEPS]
Device = Annotated[str | None, tyro.conf.arg(name="training.device", aliases=["--device"])]
