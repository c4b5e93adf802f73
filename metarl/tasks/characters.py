"""Settings for episodes of handwritten characters: Omniglot, or glyphs where it is missing."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from metarl.errors import SettingsError
from metarl.ranges import COUNT, check_fields
from metarl.tasks.base import Split
from metarl.tasks.distortions import Distortion
from metarl.tasks.episodes import FewShot, Grouping, Rotations
from metarl.tasks.glyphs import IMAGE_SIZE, Glyphs, undrawn_glyphs
from metarl.tasks.omniglot import DATA_VARIABLE, OmniglotImages
from metarl.tasks.omniglot_splits import Scheme


def _default_data_dir() -> Path | None:
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


@dataclass(frozen=True)
class CharacterSettings:
    """N-way K-shot episodes of handwritten characters."""

    only_at_start: ClassVar[tuple[str, ...]] = ("scheme",)
    """With another split, a resumed run would be tested on characters that it was trained on."""

    data_dir: Path | None = field(default_factory=_default_data_dir)
    """Folder with Omniglot's archives, by default the environment variable METARL_DATA. None: drawn
    glyphs."""
    scheme: Scheme = "minimal-1"
    """How Omniglot's characters are split; see metarl.tasks.omniglot_splits."""
    way: int = 5
    """Classes per task."""
    train_way: int | None = None
    """Classes per task in training, where they differ (metric learners; Meta Networks: fewer).
    None: `way`."""
    shots: int = 1
    """Support images per class."""
    train_shots: int | None = None
    """Support images per class in training, where they differ (Reptile). None: `shots`."""
    queries: int = 1
    """Query images per class."""
    rotations: Rotations = "classes"
    """Rotations of training characters. classes: the four rotations of a character by multiples
    of 90 degrees are separate classes; reflected: these and their mirror images are eight classes;
    episode: each class of an episode has one random rotation; none. Test characters are not
    rotated."""
    grouping: Grouping = "none"
    """Grouping of training episodes. alphabets: all classes of an episode are from one alphabet;
    drawers: in addition, each shot and each query is by one drawer."""
    test_grouping: Grouping = "none"
    """Grouping of validation and test episodes; drawers is the setting of Lake's runs."""
    distortion: Distortion = field(default_factory=Distortion)
    """Random distortions of training images."""
    image_size: int = 28
    """Height and width of Omniglot's images in pixels; the original images have 105."""
    invert: bool = True
    """Ink 1 on paper 0, as in most papers. --no-invert: ink 0 on paper 1, as in Reptile's paper."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(
            self,
            way=COUNT, train_way=COUNT, shots=COUNT, train_shots=COUNT, queries=COUNT,
        )  # fmt: skip

    def train(self) -> FewShot:
        """Builds the training tasks.

        Raises:
            SettingsError: If the settings do not fit the data.
            DataError: If an archive is corrupt, or missing and cannot be downloaded.
        """
        shape = (self.train_way or self.way, self.train_shots or self.shots, self.queries)
        if self.data_dir is None:
            if self.image_size != IMAGE_SIZE:
                raise SettingsError(
                    f"Glyphs have {IMAGE_SIZE} pixels, an image_size of {self.image_size} is "
                    "Omniglot's: give its data_dir too."
                )
            if self.scheme != CharacterSettings.scheme:
                warnings.warn(
                    "Without `data_dir`, glyphs are drawn, of which there is one split: the "
                    f"scheme {self.scheme} is Omniglot's and changes nothing. Name the folder of "
                    "its archives: --data-dir DIR.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._check_splits(undrawn_glyphs(*shape, rotations=self.rotations))
            tasks = Glyphs(*shape, rotations=self.rotations, invert=self.invert)
        else:
            images = OmniglotImages(self.scheme, self.data_dir, image_size=self.image_size)
            self._check_splits(images.empty_episodes(*shape, self.rotations))
            tasks = images.episodes(*shape, self.rotations, self.invert)
        return self._training_tasks(tasks)

    def test(self, train: FewShot) -> FewShot:
        """Returns the test tasks of the same images as `train`: unrotated characters."""
        return replace(self._evaluation_tasks(train, "test"), rotations="none")

    def validation(self, train: FewShot) -> FewShot | None:
        """Returns the validation tasks of the same images as `train`; None if there are none."""
        if train.splits["validation"].numel() == 0:
            return None
        return self._evaluation_tasks(train, "validation")

    def _check_splits(self, empty: FewShot) -> None:
        """Checks the tasks of all splits before images are drawn or decoded: that takes seconds."""
        train = self._training_tasks(empty)
        self.test(train)
        self.validation(train)

    def _training_tasks(self, tasks: FewShot) -> FewShot:
        distortion = None if self.distortion == Distortion() else self.distortion
        return replace(tasks, grouping=self.grouping, distortion=distortion)

    def _evaluation_tasks(self, train: FewShot, part: Split) -> FewShot:
        """Returns the undistorted tasks of another split."""
        # One `replace` for all fields: each construction checks the combination.
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
        """The data set and the variations of it, for tables."""
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
