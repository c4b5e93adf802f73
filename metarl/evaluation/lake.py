"""Lake's one-shot classification: 20-way within an alphabet, in runs of 20 trials.

Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015). The support of a run is one drawing of each of 20 characters of an
alphabet, all by one drawer; its query is 20 drawings of these characters by another drawer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import ContaminationError, DataError
from metarl.ranges import user_path
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.images import decode, read_members

LABELS = "class_labels.txt"
TRIALS = 20
EVALUATION_ALPHABETS = (
    "Atlantean",
    "Ge_ez",
    "Glagolitic",
    "Gurmukhi",
    "Kannada",
    "Malayalam",
    "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)",
    "Tengwar",
    "Tibetan",
)
"""The alphabets of the 20 runs, two runs from each."""


@dataclass(frozen=True, eq=False)
class LakeRuns:
    """R runs of 20 trials.

    Attributes:
        training: One drawing of each of 20 characters, [R, 20, 1, H, W] float32 in [0, 1].
        test: 20 drawings to classify, the same shape and type.
        answers: The index of the correct training image of each test image, [R, 20] int64.
        names: The name of each run ("run01").
    """

    training: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    answers: Tensor = field(repr=False)
    names: tuple[str, ...]

    def tasks(self) -> TaskBatch:
        """Returns the runs as 20-way 1-shot tasks: training images are support, test are query."""
        targets = torch.arange(TRIALS, device=self.answers.device).expand_as(self.answers)
        return TaskBatch(
            Examples(self.training, targets.contiguous()), Examples(self.test, self.answers)
        )

    def to(self, device: torch.device | str) -> LakeRuns:
        """Returns the runs on `device`; see `metarl.devices.resolve_device`."""
        device = resolve_device(device)
        return LakeRuns(
            self.training.to(device), self.test.to(device), self.answers.to(device), self.names
        )


def load_lake_runs(
    path: str | os.PathLike[str], image_size: int = 28, *, invert: bool = True
) -> LakeRuns:
    """Loads runs from an archive in the format of the official `all_runs.zip`.

    Training and test images are sorted by file name, answers are in the order of the lines of
    `class_labels.txt`, as in the official demo.

    Args:
        path: The archive, with folders `run01`, `run02` and so on.
        image_size: Height and width in pixels: 28 as in `Omniglot`; the original images have 105.
        invert: True for ink 1 on paper 0, False for ink 0 on paper 1; the learner's training
            images must be the same.

    Raises:
        DataError: If the archive is missing, corrupt, or of another format.
    """
    path = user_path(path)
    members = read_members(path)
    labels = sorted(name for name in members if PurePosixPath(name).name == LABELS)
    if not labels:
        raise DataError(f"{path} has no {LABELS}; expected the official archive all_runs.zip.")
    runs = [_load_run(path, members, label, image_size) for label in labels]
    training, test, answers = (np.stack(values) for values in zip(*runs, strict=True))
    names = tuple(PurePosixPath(label).parent.name for label in labels)
    return LakeRuns(
        _to_tensor(training, invert), _to_tensor(test, invert), torch.from_numpy(answers), names
    )


def check_uncontaminated(alphabets_seen: Iterable[str]) -> None:
    """Checks that a learner was neither trained nor selected on an alphabet of the runs.

    Args:
        alphabets_seen: All alphabets of the training and validation characters.

    Raises:
        ContaminationError: If one of them is an evaluation alphabet.
    """
    overlap = sorted(set(alphabets_seen) & set(EVALUATION_ALPHABETS))
    if overlap:
        raise ContaminationError(
            f"These weights have seen evaluation alphabets of Lake's runs: {', '.join(overlap)}. "
            "Train on the split 'lake', 'minimal-1' or 'minimal-2' of Omniglot."
        )


def _load_run(
    path: Path, members: dict[str, bytes], label: str, image_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the training images and test images, uint8 [20, H, W], and the answers of a run."""
    pairs = [line.split() for line in members[label].decode().splitlines() if line.strip()]
    if len(pairs) != TRIALS or any(len(pair) != 2 for pair in pairs):
        raise DataError(
            f"Expected {TRIALS} lines of a test and a training file in {label} of {path}, got "
            f"{len(pairs)} lines."
        )
    test_files, answers = zip(*pairs, strict=True)
    training_files = sorted(answers)
    # Paths are relative to the folder that contains the runs.
    parent = PurePosixPath(label).parent.parent

    def images(files: Iterable[str]) -> np.ndarray:
        return np.stack([_image(path, members, str(parent / name), image_size) for name in files])

    index = np.array([training_files.index(name) for name in answers], dtype=np.int64)
    return images(training_files), images(sorted(test_files)), index


def _image(path: Path, members: dict[str, bytes], name: str, image_size: int) -> np.ndarray:
    if name not in members:
        raise DataError(f"{path} lacks {name}, which its {LABELS} names; get a whole archive.")
    return decode(members[name], f"{name} in {path}", image_size, "L", ("PNG",))


def _to_tensor(images: np.ndarray, invert: bool) -> Tensor:
    """Returns images [R, 20, H, W], uint8 with ink 0, as [R, 20, 1, H, W] in [0, 1]."""
    images = 255 - images if invert else images
    return torch.from_numpy(images).unsqueeze(2).float().div_(255.0)
