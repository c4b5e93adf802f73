"""Which characters to learn: Omniglot where its data is at hand, drawn glyphs elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from metarl.tasks.episodes import FewShot
from metarl.tasks.glyphs import Glyphs
from metarl.tasks.omniglot import DATA_VARIABLE, Omniglot
from metarl.tasks.omniglot_splits import Scheme


def _folder_of_the_environment() -> Path | None:
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


@dataclass(frozen=True)
class CharacterSettings:
    """The tasks: N-way K-shot episodes of handwritten characters."""

    data_dir: Path | None = field(default_factory=_folder_of_the_environment)
    """Folder of Omniglot's archives, METARL_DATA where that is set. None: drawn glyphs."""
    scheme: Scheme = "minimal-1"
    """How Omniglot's characters are split; see metarl.tasks.omniglot_splits."""
    way: int = 5
    """Classes per task."""
    train_way: int | None = None
    """Classes per task in training, where they differ (prototypical networks)."""
    shots: int = 1
    """Support images per class."""
    train_shots: int | None = None
    """Support images per class in training, where they differ (Reptile)."""
    queries: int = 1
    """Query images per class."""
    invert: bool = True
    """Ink 1 on paper 0, as most papers. --no-invert: ink 0 on paper 1, as Reptile's."""

    def train(self) -> FewShot:
        """Returns the training tasks; rotated by quarter turns a character is four classes.

        Raises:
            SettingsError: The numbers do not fit the data.
            DataError: An archive is corrupt, or missing and cannot be downloaded.
        """
        shape = (self.train_way or self.way, self.train_shots or self.shots, self.queries)
        if self.data_dir is None:
            return Glyphs(*shape, rotations="classes", invert=self.invert)
        return Omniglot(
            self.scheme, *shape, data_dir=self.data_dir, rotations="classes", invert=self.invert
        )

    def test(self, train: FewShot) -> FewShot:
        """Returns the test tasks beside those training tasks: characters as they were drawn."""
        test = train.with_shape(self.way, self.shots).split("test")
        return replace(test, rotations="none")

    def validation(self, train: FewShot) -> FewShot | None:
        """Returns the validation tasks beside those training tasks; None where there are none."""
        if train.splits["validation"].numel() == 0:
            return None
        return train.with_shape(self.way, self.shots).split("validation")

    @property
    def label(self) -> str:
        """What the characters are, for tables."""
        return "glyphs" if self.data_dir is None else f"Omniglot {self.scheme}"
