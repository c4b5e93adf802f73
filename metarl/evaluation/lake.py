"""Lake's one-shot classification: within an alphabet, 20-way, runs of 20 trials.

Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015). Each run shows one drawing of 20 characters of one alphabet by one
drawer and asks for the character of 20 drawings by another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from metarl.errors import ContaminationError, DataError, ShapeError
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

Classify = Callable[[Tensor, Tensor], Tensor]
"""Maps training images [R, 20, 1, H, W] and test images, the same shape, to the index of the
training image that each test image belongs to, int64 [R, 20], or to distances [R, 20 test,
20 training], of which the smallest wins. Runs are tasks: no run may learn from another one."""


@dataclass(frozen=True, eq=False)
class LakeRuns:
    """R runs of 20 trials.

    Attributes:
        training: One drawing of each of 20 characters, [R, 20, 1, H, W] float32 in [0, 1].
        test: 20 drawings to classify, the same shape and type.
        answers: The index of the right training image of each test image, [R, 20] int64.
        names: The name of each run ("run01").
    """

    training: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    answers: Tensor = field(repr=False)
    names: tuple[str, ...]

    def tasks(self) -> TaskBatch:
        """Returns the runs as 20-way 1-shot tasks: training images as support, test as query."""
        targets = torch.arange(TRIALS, device=self.answers.device).expand_as(self.answers)
        return TaskBatch(
            Examples(self.training, targets.contiguous()), Examples(self.test, self.answers)
        )

    def to(self, device: torch.device | str) -> LakeRuns:
        """Returns the runs on `device`."""
        return LakeRuns(
            self.training.to(device), self.test.to(device), self.answers.to(device), self.names
        )


def load_lake_runs(
    path: str | os.PathLike[str], image_size: int = 28, *, invert: bool = True
) -> LakeRuns:
    """Loads runs from an archive in the format of the official `all_runs.zip`.

    Test and training images are in the order of their file names, answers in that of the lines of
    `class_labels.txt`, as in the official demo.

    Args:
        path: The archive, with folders `run01`, `run02` and so on.
        image_size: Side in pixels: 28 as `Omniglot`, 105 as drawn.
        invert: True for ink 1 on paper 0, False for the opposite, as the learner was trained.

    Raises:
        DataError: The archive is missing, corrupt, or not of this format.
    """
    path = Path(path)
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


def lake_mistakes(runs: LakeRuns, classify: Classify) -> Tensor:
    """Returns which trials are classified wrongly, shape [R, 20], bool.

    Raises:
        ShapeError: `classify` returns neither indices [R, 20] nor distances [R, 20, 20].
    """
    result = classify(runs.training, runs.test)
    if result.shape == (*runs.answers.shape, TRIALS):
        result = result.argmin(-1)
    if result.shape != runs.answers.shape or result.is_floating_point():
        shape = tuple(runs.answers.shape)
        raise ShapeError(
            f"Expected integer indices {shape} or distances {(*shape, TRIALS)} of the classifier, "
            f"got {result.dtype} {tuple(result.shape)}."
        )
    return result != runs.answers


def lake_error(runs: LakeRuns, classify: Classify) -> float:
    """Returns the share of wrong trials in percent; see `lake_mistakes`.

    Learners have to pass `check_uncontaminated` first.
    """
    return 100.0 * lake_mistakes(runs, classify).double().mean().item()


def check_uncontaminated(alphabets_seen: Iterable[str]) -> None:
    """Refuses weights trained or selected on an alphabet of the runs.

    Args:
        alphabets_seen: All alphabets of the training and validation characters.

    Raises:
        ContaminationError: One of them is an evaluation alphabet.
    """
    seen = sorted(set(alphabets_seen) & set(EVALUATION_ALPHABETS))
    if seen:
        raise ContaminationError(
            f"These weights have seen evaluation alphabets of Lake's runs: {', '.join(seen)}. "
            "Train on the split 'lake', 'minimal-1' or 'minimal-2' of Omniglot."
        )


def _load_run(
    path: Path, members: dict[str, bytes], label: str, image_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the training images, the test images and the answers of one run."""
    pairs = [line.split() for line in members[label].decode().splitlines() if line.strip()]
    if len(pairs) != TRIALS or any(len(pair) != 2 for pair in pairs):
        raise DataError(
            f"Expected {TRIALS} lines of a test and a training file in {label} of {path}, got "
            f"{len(pairs)} lines."
        )
    test_files, answers = zip(*pairs, strict=True)
    training_files = sorted(answers)
    # Paths are relative to the folder that holds the runs.
    parent = PurePosixPath(label).parent.parent

    def images(files: Iterable[str]) -> np.ndarray:
        return np.stack([_image(path, members, str(parent / name), image_size) for name in files])

    index = np.array([training_files.index(name) for name in answers], dtype=np.int64)
    return images(training_files), images(sorted(test_files)), index


def _image(path: Path, members: dict[str, bytes], name: str, image_size: int) -> np.ndarray:
    if name not in members:
        raise DataError(f"{path} lacks {name}, which its {LABELS} names; get a whole archive.")
    return decode(members[name], f"{name} in {path}", image_size)


def _to_tensor(images: np.ndarray, invert: bool) -> Tensor:
    images = 255 - images if invert else images
    return torch.from_numpy(images).unsqueeze(2).float().div_(255.0)
