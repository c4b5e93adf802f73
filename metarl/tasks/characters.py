"""Which characters to learn: Omniglot where its data is at hand, drawn glyphs elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from metarl.errors import SettingsError
from metarl.tasks.base import Split
from metarl.tasks.distortions import Distortion
from metarl.tasks.episodes import FewShot, Grouping, Rotations
from metarl.tasks.glyphs import IMAGE_SIZE, Glyphs
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
    rotations: Rotations = "classes"
    """Of training characters. classes: quarter turns are four classes; reflected: with mirror
    images eight; episode: turned at random, the same class; none. Test characters never are."""
    grouping: Grouping = "none"
    """Of training episodes. alphabets: the classes of each are of one alphabet; drawers: besides,
    one drawer for each shot and query."""
    test_grouping: Grouping = "none"
    """The same of validation and test episodes; drawers is as in Lake's runs."""
    distortion: Distortion = field(default_factory=Distortion)
    """Of training images only."""
    image_size: int = 28
    """Height and width of Omniglot's images in pixels; drawn with 105."""
    invert: bool = True
    """Ink 1 on paper 0, as most papers. --no-invert: ink 0 on paper 1, as Reptile's."""

    def train(self) -> FewShot:
        """Returns the training tasks; rotated by quarter turns a character is four classes.

        Raises:
            SettingsError: The numbers do not fit the data.
            DataError: An archive is corrupt, or missing and cannot be downloaded.
        """
        shape = (self.train_way or self.way, self.train_shots or self.shots, self.queries)
        common = {"rotations": self.rotations, "invert": self.invert}
        if self.data_dir is None:
            if self.image_size != IMAGE_SIZE:
                raise SettingsError(
                    f"Glyphs have {IMAGE_SIZE} pixels, an image_size of {self.image_size} is "
                    "Omniglot's: give its data_dir too."
                )
            tasks = Glyphs(*shape, **common)
        else:
            size = self.image_size
            tasks = Omniglot(self.scheme, *shape, data_dir=self.data_dir, image_size=size, **common)
        distortion = None if self.distortion == Distortion() else self.distortion
        return replace(tasks, grouping=self.grouping, distortion=distortion)

    def test(self, train: FewShot) -> FewShot:
        """Returns the test tasks beside those training tasks: characters as they were drawn."""
        return replace(self._judged(train, "test"), rotations="none")

    def validation(self, train: FewShot) -> FewShot | None:
        """Returns the validation tasks beside those training tasks; None where there are none."""
        if train.splits["validation"].numel() == 0:
            return None
        return self._judged(train, "validation")

    def _judged(self, train: FewShot, part: Split) -> FewShot:
        """Returns undistorted tasks of another split; all is changed at once, as it is checked."""
        return replace(
            train,
            part=part,
            way=self.way,
            shots=self.shots,
            grouping=self.test_grouping,
            distortion=None,
        )

    @property
    def label(self) -> str:
        """What the characters are and what was done to them, for tables."""
        parts = ["glyphs" if self.data_dir is None else f"Omniglot {self.scheme}"]
        if self.image_size != IMAGE_SIZE:
            parts.append(f"{self.image_size} pixels")
        if self.rotations == "reflected":
            parts.append("trained on reflections")
        if self.distortion != Distortion():
            parts.append("trained on distortions")
        if self.test_grouping != "none":
            parts.append("within alphabets")
        return ", ".join(parts)
