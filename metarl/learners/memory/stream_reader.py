"""The learner of streams: it names each example, then is told what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.learner import Learner, MetaLoss
from metarl.errors import SettingsError, TaskError
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.memory.sequences import SequenceNetwork
from metarl.learners.metric.metric_learner import Augment
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.streams import LabelCode, earlier_instances

SHOWN = (1, 4)  # earlier instances whose accuracy training logs: the 2nd and the 5th instance


@dataclass(frozen=True)
class StreamInputs:
    """All that one meta-iteration of a `StreamReader` computes on.

    Attributes:
        tasks: The streams; the tasks lead every tensor.
        instances: How often some class comes in each of them.
    """

    tasks: TaskBatch
    instances: int


class StreamReader(Learner):
    """A network that reads streams (Santoro et al. 2016, section 2).

    At step t it sees the image x_t beside the label y_{t-1} of the image before and gives the
    logits of y_t, place by place for labels of several characters. The loss is the mean over all
    steps of the cross-entropy of the whole label; a label is right if all of its characters are.

    Args:
        embedding: Maps images to features.
        network: Reads these beside the label before, `code.width` numbers; `code.width` outputs.
        code: How labels are written.
        augment: Changes the images [T, N, C, H, W] of training at random; None: as they are.
    """

    def __init__(
        self,
        embedding: Embedding,
        network: SequenceNetwork,
        code: LabelCode,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.network = network
        self.code = code
        self.augment = augment

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> StreamInputs:
        """See `Learner.collect`.

        Raises:
            TaskError: A label is not one of the code, or the streams are too long for the network.
        """
        del iteration
        self._check(tasks.query)
        instances = _instances(tasks.query)
        if self.augment is not None:
            stream = tasks.query._replace(inputs=self.augment(tasks.query.inputs, generator))
            tasks = replace(tasks, support=stream, query=stream)
        return StreamInputs(tasks, instances)

    def forward(self, inputs: StreamInputs) -> MetaLoss:
        """See `Learner.forward`."""
        stream, moments = inputs.tasks.query, Moments()
        logits, letters = self._read(stream, moments), self.code.spell(stream.targets)
        entropies = F.cross_entropy(logits.flatten(0, 2), letters.flatten(), reduction="none")
        losses = entropies.view(letters.shape).sum(2).mean(1)
        right, earlier = _right(logits.detach(), letters), earlier_instances(stream.targets)
        shown = (k for k in SHOWN if k < inputs.instances)
        metrics = {f"train/accuracy/step_{k}": _after(k, right, earlier) for k in shown}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; takes up the batch-norm moments."""
        absorb_moments(self, carry)

    def metric(self, tasks: TaskBatch) -> str:
        del tasks
        return "accuracy"

    @torch.no_grad()
    def evaluate(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Yields the accuracy on the examples that come after 0, 1, ... of their class, [T].

        Raises:
            SettingsError: No class comes more than `steps` times in one of the streams.
            TaskError: As of `collect`.
        """
        del generator
        stream = tasks.query
        self._check(stream)
        instances = _instances(stream)
        if steps >= instances:
            raise SettingsError(
                f"Expected at most {instances - 1} steps: classes come {instances} times in these "
                f"streams, got {steps}. Lower `eval_steps` or raise the instances."
            )
        right = _right(self._read(stream, None), self.code.spell(stream.targets))
        earlier = earlier_instances(stream.targets)
        for k in range(steps if last_only else 0, steps + 1):
            yield _after(k, right, earlier)

    def outputs(self, stream: Examples) -> Tensor:
        """Returns the logits for a stream, [T, N, characters, letters], as at evaluation."""
        self._check(stream)
        return self._read(stream, None)

    def _read(self, stream: Examples, moments: Moments | None) -> Tensor:
        features = self.embedding(stream.inputs, moments)
        inputs = torch.cat((features, self._labels_before(stream.targets, features)), dim=2)
        logits, _ = self.network.run(inputs)
        return logits.unflatten(2, self.code)

    def _labels_before(self, labels: Tensor, like: Tensor) -> Tensor:
        """Returns the label before each step, [T, N, width]: one-hot, zero before the first."""
        spelled = self.code.spell(labels[:, :-1]).unsqueeze(3)
        letters = spelled == torch.arange(self.code.letters, device=labels.device)
        return F.pad(letters.flatten(2).to(like.dtype), (0, 0, 1, 0))

    def _check(self, stream: Examples) -> None:
        labels = stream.targets
        if labels.is_floating_point() or labels.dim() != 2:
            raise TaskError(
                f"Expected a stream with integer labels [T, N], got {labels.dtype} "
                f"{tuple(labels.shape)}; see `metarl.tasks.streams`."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.code.size:
            raise TaskError(
                f"Expected labels from 0 to {self.code.size - 1}, got {low} to {high}; build the "
                "learner for the `code` of the streams."
            )
        self.network.check_length(labels.shape[1])


def _right(logits: Tensor, letters: Tensor) -> Tensor:
    """Returns 1 where all letters are right, [T, N], for logits [T, N, places, letters]."""
    return (logits.argmax(3) == letters).all(2).to(logits.dtype)


def _after(count: int, right: Tensor, earlier: Tensor) -> Tensor:
    """Returns the mean of `right` [T, N] over what has so many earlier instances, [T]."""
    chosen = (earlier == count).to(right.dtype)
    return (chosen * right).sum(1) / chosen.sum(1)


def _instances(stream: Examples) -> int:
    """Returns how often some class comes in each of the streams."""
    return 1 + int(earlier_instances(stream.targets).amax(1).min())
