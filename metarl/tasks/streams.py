"""Streams of labelled images, each to be classified before its label is shown.

The protocol of Santoro et al. 2016, section 4.1: all classes of a stream are equally frequent, in a
random order. Labels are assigned to the classes at random in every stream, so that a learner has to
remember them within the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_sampling
from metarl.tasks.episodes import FewShot

Labels = Literal["one-hot", "strings"]
CHARACTERS = 5  # of a string label, each one of five letters, a to e


class LabelCode(NamedTuple):
    """The code of labels: strings of `characters` characters, each one of `letters` letters.

    Attributes:
        characters: Length of a string.
        letters: Size of the alphabet.
    """

    characters: int
    letters: int

    @property
    def size(self) -> int:
        """The number of labels, letters^characters."""
        return self.letters**self.characters

    @property
    def width(self) -> int:
        """The size of a label's encoding as concatenated one-hot letters."""
        return self.letters * self.characters

    def spell(self, labels: Tensor) -> Tensor:
        """Returns the letters of labels [*], int64, as [*, characters], int64."""
        # letter_i = floor(label / letters^i) mod letters
        powers = self.letters ** torch.arange(self.characters, device=labels.device)
        return labels.unsqueeze(-1) // powers % self.letters


@dataclass(frozen=True, eq=False)
class Streams:
    """A `TaskDistribution` of streams, whose support and query are the same examples.

    Each example of a stream is a query first and support afterwards.

    Attributes:
        episodes: Distribution of the classes and images of a stream: it has `way` classes with
            `shots + queries` instances each.
        labels: "one-hot": as many labels as classes; "strings": strings of five letters a to e,
            3125 in all, so that a label cannot be guessed by excluding the labels seen so far.
    """

    episodes: FewShot
    labels: Labels = "one-hot"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice("labels", self.labels, get_args(Labels))
        if self.episodes.has_padding:
            raise SettingsError(
                "A stream has as many examples of every class: use episodes without "
                "small_classes='take' and `fewest_shots`."
            )

    def split(self, name: Split) -> Streams:
        """Returns the distribution over the tasks of one split."""
        return replace(self, episodes=self.episodes.split(name))

    def to(self, device: torch.device | str) -> Streams:
        """Returns the same distribution with its images on `device`."""
        return replace(self, episodes=self.episodes.to(device))

    @property
    def code(self) -> LabelCode:
        """The code of the labels."""
        if self.labels == "strings":
            return LabelCode(CHARACTERS, CHARACTERS)
        return LabelCode(1, self.episodes.way)

    @property
    def instances(self) -> int:
        """The number of instances of each class in a stream."""
        return self.episodes.shots + self.episodes.queries

    @property
    def length(self) -> int:
        """The number of examples of a stream."""
        return self.episodes.way * self.instances

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of streams.

        Returns:
            Inputs [T, N, C, H, W], float32 in [0, 1], and labels [T, N], int64 from 0 to
            `code.size` - 1, in the order of the stream; support and query are the same.
        """
        check_sampling(num_tasks, generator)
        episodes = self.episodes.sample(num_tasks, generator)
        support, query = episodes.support, episodes.query
        inputs = torch.cat((support.inputs, query.inputs), dim=1)
        classes = torch.cat((support.targets, query.targets), dim=1)
        labels = _distinct(num_tasks, self.code.size, self.episodes.way, generator)
        order = _distinct(num_tasks, self.length, self.length, generator)
        rows = torch.arange(num_tasks, device=generator.device).unsqueeze(1)
        mask = None
        if support.mask is not None and query.mask is not None:
            mask = torch.cat((support.mask, query.mask), dim=1)[rows, order]
        targets = labels.gather(1, classes.gather(1, order))
        stream = Examples(inputs[rows, order], targets, mask=mask)
        return TaskBatch(stream, stream, episodes.info)


def earlier_instances(labels: Tensor) -> Tensor:
    """Returns the number of earlier examples with the same label as each example of a stream.

    Args:
        labels: Shape [T, N], int64.

    Returns:
        Shape [T, N], int64.
    """
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    return same.tril(-1).sum(2)


def _distinct(rows: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Samples `count` of the numbers 0 to `size` - 1 without replacement, [rows, count], int64."""
    scores = torch.rand(rows, size, generator=generator, device=generator.device)
    return scores.topk(count, dim=1).indices
