"""Streams: the images of a few classes one by one, each to be named before its label is shown.

The protocol of Santoro et al. 2016, section 4.1: every class comes equally often, in a random
order, under a label that is drawn anew for every stream, so nothing can be learned but to remember.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_num_tasks
from metarl.tasks.episodes import FewShot

Labels = Literal["one-hot", "strings"]
CHARACTERS = 5  # of a string, each one of as many letters, a to e


class LabelCode(NamedTuple):
    """How labels are written: `characters` places with one of `letters` letters each.

    Attributes:
        characters: Places.
        letters: Letters.
    """

    characters: int
    letters: int

    @property
    def size(self) -> int:
        """The number of labels that there are."""
        return self.letters**self.characters

    @property
    def width(self) -> int:
        """The numbers that one-hot letters take, place by place."""
        return self.letters * self.characters

    def spell(self, labels: Tensor) -> Tensor:
        """Returns the letters of labels [*], int64, place by place: [*, characters]."""
        powers = self.letters ** torch.arange(self.characters, device=labels.device)
        return labels.unsqueeze(-1) // powers % self.letters


@dataclass(frozen=True, eq=False)
class Streams:
    """A distribution over streams; a `TaskDistribution` whose support and query are the same.

    Each example of a stream is a query first and support afterwards.

    Attributes:
        episodes: Whose classes and images the streams are made of: `way` classes, `shots` and
            `queries` together the instances of each.
        labels: "one-hot": as many labels as classes; "strings": five letters of a to e, 3125 in
            all, so that a class cannot be guessed from what is left over.
    """

    episodes: FewShot
    labels: Labels = "one-hot"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice("labels", self.labels, get_args(Labels))

    def split(self, name: Split) -> Streams:
        """See `TaskDistribution.split`."""
        return replace(self, episodes=self.episodes.split(name))

    def to(self, device: torch.device | str) -> Streams:
        """Returns the same distribution with its images on `device`."""
        return replace(self, episodes=self.episodes.to(device))

    @property
    def code(self) -> LabelCode:
        """How its labels are written."""
        if self.labels == "strings":
            return LabelCode(CHARACTERS, CHARACTERS)
        return LabelCode(1, self.episodes.way)

    @property
    def instances(self) -> int:
        """How often each class comes."""
        return self.episodes.shots + self.episodes.queries

    @property
    def length(self) -> int:
        """Examples of a stream."""
        return self.episodes.way * self.instances

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """See `TaskDistribution.sample`.

        Returns:
            Inputs float32 [T, N, C, H, W] in [0, 1] and labels int64 [T, N] from 0 to
            `code.size` - 1, in the order of the stream; support and query are the same.
        """
        check_num_tasks(num_tasks)
        episodes = self.episodes.sample(num_tasks, generator)
        parts = zip(episodes.support, episodes.query, strict=True)
        inputs, classes = (torch.cat(part, dim=1) for part in parts)
        labels = _distinct(num_tasks, self.code.size, self.episodes.way, generator)
        order = _distinct(num_tasks, self.length, self.length, generator)
        rows = torch.arange(num_tasks, device=generator.device).unsqueeze(1)
        stream = Examples(inputs[rows, order], labels.gather(1, classes.gather(1, order)))
        return TaskBatch(stream, stream, episodes.info)


def earlier_instances(labels: Tensor) -> Tensor:
    """Returns how many examples before each one of a stream have its label, [T, N], int64."""
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    return same.tril(-1).sum(2)


def _distinct(rows: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` different numbers below `size` in a random order, [rows, count], int64."""
    scores = torch.rand(rows, size, generator=generator, device=generator.device)
    return scores.topk(count, dim=1).indices
