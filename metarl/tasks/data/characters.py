"""Texts as indices of their characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, short_repr

UNKNOWN = 1
"""The index of characters that are not among the known ones; 0 is padding."""


@dataclass(frozen=True)
class Characters:
    """Converts texts to indices: 0 for padding, 1 for unknown characters, then one per character.

    Attributes:
        known: The characters, each once; the index of `known[i]` is i + 2.
    """

    known: str

    def __post_init__(self) -> None:
        """Checks that it is a text in which no character repeats."""
        if not isinstance(self.known, str):
            raise SettingsError(
                "Expected the characters as a text, whose order gives their indices, such as "
                f"'abc' or Characters.of(texts), got {short_repr(self.known)}."
            )
        if len(set(self.known)) < len(self.known):
            repeated = next(c for c in self.known if self.known.count(c) > 1)
            raise SettingsError(f"The character {repeated!r} is given twice; give each once.")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Characters:
        """Returns the characters of texts, sorted.

        Pass the texts of training classes only, or a fixed alphabet, so that test texts determine
        nothing.
        """
        return cls("".join(sorted(set().union(*map(set, texts)))))

    @property
    def size(self) -> int:
        """The number of indices, for the size of an embedding: `len(known) + 2`."""
        return len(self.known) + 2

    def encode(self, text: str) -> Tensor:
        """Returns the indices of the characters of a text, [len(text)], int64."""
        index = {character: number + 2 for number, character in enumerate(self.known)}
        return torch.tensor([index.get(c, UNKNOWN) for c in text], dtype=torch.int64)

    def encode_all(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns the indices of all texts one after the other, and the length of each, int64.

        Raises:
            ShapeError: A text is empty.
        """
        index = {character: number + 2 for number, character in enumerate(self.known)}
        lengths = torch.tensor([len(text) for text in texts])
        if int(lengths.min()) == 0:
            raise ShapeError(f"The text of row {int(lengths.argmin())} is empty; leave it out.")
        indices = [index.get(c, UNKNOWN) for text in texts for c in text]
        return torch.tensor(indices, dtype=torch.int64), lengths

    def decode(self, indices: Tensor) -> str:
        """Returns the text of indices [L]; unknown characters are "?" and padding is left out."""
        return "".join("?" if i == UNKNOWN else self.known[i - 2] for i in indices.tolist() if i)
