"""What few-shot algorithms are built for: the images, the classes and the size of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.learners.images.embeddings import ImageShape
from metarl.models import Conv4, Model, ResNet12, from_module
from metarl.models.modules import is_network_file, network_file
from metarl.registry import check_choice

NETWORKS = ("conv4", "resnet12")


@dataclass(frozen=True)
class ImageProblem:
    """Few-shot classification of images, and what a learner for it needs to know.

    Attributes:
        images: Shape of the images.
        way: Classes of a test task.
        filters: Filters of each convolution.
        classes: Number of training classes, rotations included.
        generator: Source of all initial weights.
        train_way: Classes of a training task; None for `way`.
        network_name: The network of gradient algorithms: "conv4", "resnet12" or the path
            of a file that `metarl.models.save_module` wrote.
    """

    images: ImageShape
    way: int
    filters: int
    classes: int
    generator: torch.Generator
    train_way: int | None = None
    network_name: str = "conv4"

    def outputs(self) -> int:
        """Returns the number of outputs of a network with an output per class.

        Raises:
            SettingsError: Training tasks have more or fewer classes than test tasks.
        """
        if self.train_way not in (None, self.way):
            raise SettingsError(
                "The network of this algorithm has an output per class: expected a train_way of "
                f"{self.way}, got {self.train_way}. Metric learners take any, "
                "Meta Networks fewer."
            )
        return self.way

    def network(self) -> Model:
        """Builds the network that adapts.

        ResNet-12 has the proportions of its paper: 1, 2.5, 5 and 10 times `filters`.

        Raises:
            SettingsError: The network is unknown.
        """
        if is_network_file(self.network_name):
            return from_module(network_file(self.network_name))
        check_choice("network", self.network_name, NETWORKS)
        if self.network_name == "resnet12":
            widths = [max(1, self.filters * factor // 2) for factor in (2, 5, 10, 20)]
            net = ResNet12(self.outputs(), self.generator, self.images.channels, widths)
            return from_module(net, init=net.initial)
        return Conv4(
            self.outputs(), self.generator,
            image_size=self.images.size, filters=self.filters, pooling="stride",
        )  # fmt: skip

    def learner(self, adaptation: Adaptation) -> GradientLearner:
        """Builds the learner of an adaptation of the network."""
        return GradientLearner(adaptation)


@runtime_checkable
class ImageAlgorithm(Protocol):
    """Interface of the options of an algorithm for few-shot images: a frozen dataclass."""

    def build(self, problem: ImageProblem, /) -> SupervisedLearner:
        """Builds the learner of a problem.

        Raises:
            SettingsError: The algorithm does not suit the problem.
        """
        ...
