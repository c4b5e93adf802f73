"""The interface of what writes the results of a run: TensorBoard, CSV, trackers of experiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WrittenRun:
    """What a writer needs to know of the run.

    Attributes:
        folder: The run folder, which exists; this process has locked it.
        resume_from: Meta-iterations done in the checkpoint that the run resumes from; None for a
            new run. Results of later iterations are void.
    """

    folder: Path
    resume_from: int | None = None

    @property
    def start(self) -> int:
        """The first iteration that this process may write."""
        return 0 if self.resume_from is None else self.resume_from + 1

    @property
    def name(self) -> str:
        """A name such as "sine/maml/20260712_103000_s0"."""
        return "/".join(self.folder.resolve().parts[-3:])


class Writer(ABC):
    """Interface of writers; a writer is made with a `WrittenRun`.

    Only `scalars` must be written; what a writer has no place for, it leaves out. `RunLogger` calls
    the methods from one thread. It raises a writer's MetarlError; after any other error it warns
    and training continues without the writer: a tracker that cannot be reached does not stop it.
    """

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one number per tag; NaN and infinity occur.

        Args:
            values: Numbers by tag.
            step: Meta-iterations done. Of tags that begin with "by_adaptation_steps/" it is the
                number of adaptation steps.
        """

    def settings(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes the settings of the run.

        Args:
            settings: Strings, numbers, booleans, None and lists, by name ("training.seed").
            metrics: Tags of the metrics by which runs are compared, the first one first.
        """
        del settings, metrics

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Writes an image, [height, width, 3] uint8."""
        del tag, pixels, step

    def film(self, tag: str, path: Path, size: tuple[int, int], step: int) -> None:
        """Writes a film, a GIF file.

        Args:
            tag: The tag.
            path: The file, in the run folder.
            size: Height and width in pixels.
            step: Meta-iterations done.
        """
        del tag, path, size, step

    def flush(self) -> None:
        """Writes what is pending; called before each checkpoint."""
        return

    def close(self) -> None:
        """Writes what is pending and frees everything; repeated calls have no effect."""
        return
