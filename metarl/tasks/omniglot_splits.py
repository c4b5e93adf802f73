"""Published splits of Omniglot's characters into train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from metarl.errors import DataError, SettingsError
from metarl.ranges import SEED, check_fields
from metarl.registry import check_choice
from metarl.tasks.base import Split

Scheme = Literal["vinyals", "random", "lake", "minimal-1", "minimal-2"]
Names = Sequence[str]
SplitNames = dict[Split, list[str]]

ARCHIVES: dict[str, tuple[str, str]] = {
    "vinyals": ("images_background", "images_evaluation"),
    "random": ("images_background", "images_evaluation"),
    "lake": ("images_background", "images_evaluation"),
    "minimal-1": ("images_background_small1", "images_background_small2"),
    "minimal-2": ("images_background_small2", "images_background_small1"),
}
"""The two archives that each scheme reads."""

# The split of Vinyals et al. 2016 as used by Snell et al. 2017: 1028, 172 and 423 characters. The
# training split has all characters in neither list, and those of Gurmukhi except for the last four.
VINYALS_VALIDATION = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)
VINYALS_TEST = (
    "Gurmukhi",
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)
GURMUKHI_TEST = tuple(f"Gurmukhi/character{number}" for number in (42, 43, 44, 45))

RANDOM_SHARE = 1200 / 1623  # of all characters, for training and validation (Santoro et al. 2016)
VALIDATION_SHARE = {"random": 1 / 12, "lake": 1 / 6, "minimal-1": 0.0, "minimal-2": 0.0}


@dataclass(frozen=True)
class SplitSettings:
    """Settings of a split of Omniglot.

    Attributes:
        scheme: "vinyals": by alphabet, as in Prototypical Networks (33, 5 and 13 alphabets;
            Gurmukhi is in both train and test). "random": 1200 random characters of any alphabet
            for training and validation, the other 423 for testing. "lake": the 30 background
            alphabets for training and validation, the 20 evaluation alphabets for testing.
            "minimal-1" and "minimal-2": one of the two small background sets of five alphabets for
            training and validation; for testing, those alphabets of the other set that the first
            does not have.
        seed: Seed of the characters of "random" and of all validation splits but that of "vinyals".
        validation_fraction: Fraction, in [0, 1), of the training characters ("lake": of the
            training alphabets) that is held out for validation. None is the usual fraction: 1/12
            for "random" (100 characters), 1/6 for "lake" (5 alphabets), 0 for the minimal sets.
            "vinyals" has a fixed validation split.
    """

    scheme: Scheme = "vinyals"
    seed: int = 0
    validation_fraction: float | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_fields(self, seed=SEED)
        check_choice("split scheme", self.scheme, get_args(Scheme))
        if self.validation_fraction is None:
            return
        if self.scheme == "vinyals":
            raise SettingsError(
                "The split 'vinyals' has validation alphabets of its own; leave out "
                "validation_fraction, or use another scheme."
            )
        if not 0 <= self.validation_fraction < 1:
            raise SettingsError(
                f"Expected a validation_fraction in [0, 1), got {self.validation_fraction}."
            )


def split_names(settings: SplitSettings, first: Names, second: Names) -> SplitNames:
    """Splits characters into disjoint splits.

    Args:
        settings: How to split.
        first: Characters ("Alphabet/character01") of the first of the scheme's `ARCHIVES`.
        second: Characters of the second.

    Returns:
        Split -> names of its characters.

    Raises:
        DataError: If the archives lack an alphabet that the scheme names.
    """
    if settings.scheme == "vinyals":
        return _vinyals([*first, *second])
    if settings.scheme == "random":
        return _random([*first, *second], settings)
    if settings.scheme == "lake":
        return _lake(first, second, settings)
    return _minimal(first, second, settings)


def alphabet_of(name: str) -> str:
    """Returns the alphabet of a character: "Greek" of "Greek/character01"."""
    return name.rpartition("/")[0]


def _vinyals(names: Names) -> SplitNames:
    missing = {*VINYALS_VALIDATION, *VINYALS_TEST} - {alphabet_of(name) for name in names}
    if missing:
        raise DataError(
            f"The archives lack alphabets of the split 'vinyals': {', '.join(sorted(missing))}. "
            "Use the official images_background.zip and images_evaluation.zip."
        )
    test = [n for n in names if alphabet_of(n) in VINYALS_TEST[1:] or n in GURMUKHI_TEST]
    validation = [name for name in names if alphabet_of(name) in VINYALS_VALIDATION]
    return _assign_splits(names, validation, test)


def _random(names: Names, settings: SplitSettings) -> SplitNames:
    order = _shuffled(names, settings.seed)
    background = order[: round(len(order) * RANDOM_SHARE)]
    validation = background[: _validation_size(len(background), settings)]
    return _assign_splits(names, validation, order[len(background) :])


def _lake(background: Names, evaluation: Names, settings: SplitSettings) -> SplitNames:
    alphabets = _shuffled(sorted({alphabet_of(name) for name in background}), settings.seed)
    validation_alphabets = alphabets[: _validation_size(len(alphabets), settings)]
    validation = [name for name in background if alphabet_of(name) in validation_alphabets]
    return _assign_splits([*background, *evaluation], validation, evaluation)


def _minimal(own: Names, other: Names, settings: SplitSettings) -> SplitNames:
    own_alphabets = {alphabet_of(name) for name in own}
    test = [name for name in other if alphabet_of(name) not in own_alphabets]
    validation = _shuffled(own, settings.seed)[: _validation_size(len(own), settings)]
    return _assign_splits([*own, *test], validation, test)


def _assign_splits(names: Names, validation: Names, test: Names) -> SplitNames:
    """Returns the three splits in the order of `names`; all other names are for training."""
    validation_set, test_set = set(validation), set(test)
    return {
        "train": [name for name in names if name not in validation_set | test_set],
        "validation": [name for name in names if name in validation_set],
        "test": [name for name in names if name in test_set],
    }


def _validation_size(total: int, settings: SplitSettings) -> int:
    """Returns the size of the validation split out of `total` characters or alphabets."""
    share = settings.validation_fraction
    return round(total * (VALIDATION_SHARE[settings.scheme] if share is None else share))


def _shuffled(names: Names, seed: int) -> list[str]:
    """Orders names by a hash of seed and name, so that the order is the same on all platforms."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
