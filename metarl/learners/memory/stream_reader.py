"""A learner of streams: it classifies each example before it receives the label."""

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
from metarl.learners.padding import noise_option, refuse_padding
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import checked_examples, label_range, parameter_type
from metarl.tasks.losses import nan_unless_finite
from metarl.tasks.streams import LabelCode, earlier_instances

LOGGED_COUNTS = (1, 4)  # training logs the accuracy after 1 and 4 earlier instances of a class


@dataclass(frozen=True)
class StreamInputs:
    """Inputs of one meta-iteration of a `StreamReader`.

    Attributes:
        tasks: The streams; dimension 0 of every tensor is the task.
        instances: Number of instances of the most frequent class, the minimum over the streams.
        noise: What dropout draws in the embedding, [T, *]; None for embeddings without.
    """

    tasks: TaskBatch
    instances: int
    noise: Tensor | None = None


class StreamReader(Learner):
    """A sequence network that reads streams (Santoro et al. 2016, section 2).

    At step t the input is the image x_t and the previous label y_{t-1}, and the output is the
    logits of y_t, one set for each character of the label. The loss is the mean over all steps of
    the cross-entropy of the whole label, summed over its characters. A prediction is correct if
    all characters are.

    Args:
        embedding: Maps images to features.
        network: Takes the features and the previous label, `code.width` numbers; has
            `code.width` outputs.
        code: Encoding of the labels.
        augment: Augments the training images [T, N, C, H, W]; None: no augmentation.
    """

    stores_in_buffers = True

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
        """Checks the streams, augments the images, and draws what dropout needs.

        Raises:
            TaskError: A label is outside the code, or the streams are too long for the network.
        """
        del iteration
        stream = self._check(tasks.query)
        if stream is not tasks.query:
            tasks = replace(tasks, support=stream, query=stream)
        instances = _count_instances(tasks.query)
        if self.augment is not None:
            stream = tasks.query._replace(inputs=self.augment(tasks.query.inputs, generator))
            tasks = replace(tasks, support=stream, query=stream)
        noise = self.embedding.started(tasks.query.inputs, generator)
        return StreamInputs(tasks, instances, noise)

    def forward(self, inputs: StreamInputs) -> MetaLoss:
        stream, moments = inputs.tasks.query, Moments()
        logits = self._read(stream, moments, **noise_option(inputs.noise))
        letters = self.code.spell(stream.targets)
        # L = -1/N sum_t y_t^T log p_t  (Santoro et al. 2016, who take the sum)
        entropies = F.cross_entropy(logits.flatten(0, 2), letters.flatten(), reduction="none")
        losses = entropies.view(letters.shape).sum(2).mean(1)
        correct, earlier = _correct(logits.detach(), letters), earlier_instances(stream.targets)
        counts = (k for k in LOGGED_COUNTS if k < inputs.instances)
        metrics = {f"train/accuracy/step_{k}": _accuracy_after(k, correct, earlier) for k in counts}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    def metric(self, tasks: TaskBatch) -> str:
        del tasks
        return "accuracy"

    @torch.no_grad()
    def evaluate(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Yields the accuracy after 0..steps earlier instances of the class, each [T].

        Raises:
            SettingsError: In one of the streams, no class has more than `steps` instances.
            TaskError: A label is outside the code, or the streams are too long for the network.
        """
        del generator
        stream = self._check(tasks.query)
        instances = _count_instances(stream)
        check_steps(steps, instances)
        correct = _correct(self._read(stream, None), self.code.spell(stream.targets))
        earlier = earlier_instances(stream.targets)
        for k in range(steps if last_only else 0, steps + 1):
            yield _accuracy_after(k, correct, earlier)

    def outputs(self, stream: Examples) -> Tensor:
        """Computes the logits of a stream, with the running batch-norm moments of evaluation.

        Args:
            stream: The stream of each task; labels [T, N], any integer type.

        Returns:
            Shape [T, N, characters, letters].

        Raises:
            TaskError: A label is outside the code, or the streams are too long for the network.
        """
        return self._read(self._check(stream), None)

    def _read(self, stream: Examples, moments: Moments | None, **noise: Tensor) -> Tensor:
        """Returns the logits of the labels, [T, N, characters, letters]."""
        features = self.embedding(stream.inputs, moments, **noise)
        inputs = torch.cat((features, self._previous_labels(stream.targets, features)), dim=2)
        logits, _ = self.network.run(inputs)
        return logits.unflatten(2, self.code)

    def _previous_labels(self, labels: Tensor, like: Tensor) -> Tensor:
        """Returns the label y_{t-1} for each step, [T, N, width]: one-hot, and 0 for step 1."""
        characters = self.code.spell(labels[:, :-1]).unsqueeze(3)
        one_hot = characters == torch.arange(self.code.letters, device=labels.device)
        return F.pad(one_hot.flatten(2).to(like.dtype), (0, 0, 1, 0))

    def _check(self, stream: Examples) -> Examples:
        """Returns the stream with labels as int64."""
        stream = checked_examples(stream, parameter_type(self))
        refuse_padding(self, stream)
        labels = stream.targets
        if labels.is_floating_point() or labels.dim() != 2:
            raise TaskError(
                f"Expected a stream with integer labels [T, N], got {labels.dtype} "
                f"{tuple(labels.shape)}; see `metarl.tasks.streams`."
            )
        low, high = label_range(labels)
        if low < 0 or high >= self.code.size:
            raise TaskError(
                f"Expected labels from 0 to {self.code.size - 1}, got {low} to {high}; build the "
                "learner for the `code` of the streams."
            )
        self.network.check_length(labels.shape[1])
        return stream


def _correct(logits: Tensor, letters: Tensor) -> Tensor:
    """Returns 1 where all characters are correct, else 0, and NaN where logits are not finite.

    Args:
        logits: Shape [T, N, characters, letters].
        letters: Index of each character's letter, [T, N, characters], int64.

    Returns:
        Shape [T, N].
    """
    largest, predictions = logits.max(3)
    correct = (predictions == letters).all(2).to(logits.dtype)
    return nan_unless_finite(correct, largest.sum(2))


def _accuracy_after(count: int, correct: Tensor, earlier: Tensor) -> Tensor:
    """Returns the accuracy, [T], on the steps with `count` earlier instances of their class.

    Args:
        count: Number of earlier instances.
        correct: 1 where the prediction is correct, [T, N].
        earlier: Number of earlier instances of the class at each step, [T, N].
    """
    mask = earlier == count
    return torch.where(mask, correct, 0.0).sum(1) / mask.sum(1)


def _count_instances(stream: Examples) -> int:
    """Returns the number of instances of the most frequent class, the minimum over the streams."""
    return 1 + int(earlier_instances(stream.targets).amax(1).min())


def check_steps(steps: int, instances: int) -> None:
    """Raises SettingsError unless classes come more often than there are steps of a curve."""
    if steps >= instances:
        raise SettingsError(
            f"Expected at most {instances - 1} steps: classes come {instances} times in these "
            f"streams, got {steps}. Lower `eval_steps` or raise the instances."
        )
