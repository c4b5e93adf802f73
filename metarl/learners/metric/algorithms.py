"""Settings of each metric learner: frozen dataclasses that build it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from metarl.errors import SettingsError
from metarl.learners.images.embeddings import ConvEmbedding, Embedding, ImageShape, Pixels
from metarl.learners.images.pyramid import AveragedViews, PyramidEmbedding
from metarl.learners.metric.classifier import FeatureClassifier
from metarl.learners.metric.comparisons import Attention, Distance, NearestNeighbour, Prototypes
from metarl.learners.metric.full_context import ContextAttention
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.metric.relation import Relation, RelationEmbedding
from metarl.learners.metric.siamese import KOCH, SMALL, SiameseEmbedding, WeightedDifference
from metarl.registry import check_choice
from metarl.tasks.distortions import Distortion, distort

Network = Literal["conv4", "pyramid"]
SiameseLayers = Literal["small", "koch"]
VIEW = Distortion(tilt=8, shear=0.1, scale=0.1, shift=0.025, elastic=0.03)


class MetricSettings(ABC):
    """Interface: settings that build a metric learner for images."""

    @abstractmethod
    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """Builds the learner.

        Args:
            images: What it compares.
            filters: Filters of each convolution, if it has any.
            generator: The initial weights start from its draws.
        """


@dataclass(frozen=True)
class EmbeddingSettings:
    """The network that embeds images, and how many views of an image evaluation embeds."""

    network: Network = "conv4"
    """conv4: that of the papers; pyramid: filters double from block to block, maps kept whole."""
    bfloat16: bool = False
    """Trains the pyramid's convolutions in bfloat16."""
    views: int = 1
    """Views that evaluation takes the mean of; 1: the image itself."""
    view: Distortion = field(default_factory=lambda: VIEW)
    """How views but the first are distorted; strokes are left as they are."""

    def build(
        self, images: ImageShape, filters: int, generator: torch.Generator
    ) -> tuple[Embedding, int]:
        """Builds the embedding; returns it and its number of features. See `MetricSettings.build`.

        Raises:
            SettingsError: The network is unknown, it has no bfloat16, or a number is too small.
        """
        check_choice("network", self.network, get_args(Network))
        if self.network == "pyramid":
            network = PyramidEmbedding(images, generator, filters, bfloat16=self.bfloat16)
        elif self.bfloat16:
            raise SettingsError("Only the network 'pyramid' trains in bfloat16; choose that.")
        else:
            network = ConvEmbedding(images, generator, filters)
        if self.views == 1:
            return network, network.features
        averaged = AveragedViews(network, self.views, self.view, images, generator)
        return averaged, network.features


@dataclass(frozen=True)
class PrototypicalSettings(MetricSettings):
    """Prototypical networks (Snell et al. 2017)."""

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding, _ = self.embedding.build(images, filters, generator)
        return MetricLearner(embedding, Prototypes())


@dataclass(frozen=True)
class MatchingSettings(MetricSettings):
    """Matching networks (Vinyals et al. 2016)."""

    distance: Distance = "cosine"
    """cosine, times a learned scale, or euclidean: the squared distance, without a scale."""
    scale: float = 10.0
    """Initial scale of the cosines, above 0; 1 caps the probabilities."""
    context_steps: int = 0
    """Steps of the attention LSTM of full context embeddings, 3 in papers; 0 leaves them out."""
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding, features = self.embedding.build(images, filters, generator)
        similarity = (self.distance, self.scale)
        if self.context_steps == 0:
            return MetricLearner(embedding, Attention(*similarity))
        return MetricLearner(
            embedding,
            ContextAttention(features, generator, self.context_steps, *similarity),
        )


@dataclass(frozen=True)
class RelationSettings(MetricSettings):
    """Relation networks (Sung et al. 2018)."""

    units: int = 8
    """Width of the relation module's hidden layer."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding = RelationEmbedding(images, generator, filters)
        relation = Relation(filters, embedding.size, generator, self.units)
        return MetricLearner(embedding, relation)


@dataclass(frozen=True)
class SiameseSettings(MetricSettings):
    """Convolutional siamese networks (Koch et al. 2015)."""

    units: int = 512
    """Width of the layer whose outputs are compared; Koch et al.: 4096."""
    layers: SiameseLayers = "small"
    """small: for images of 28x28; koch: Koch et al.'s, for 105x105 and 64 filters."""
    distortions: bool = True
    """Trains on images that are distorted at random."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        layers = {"small": SMALL, "koch": KOCH}
        check_choice("layers", self.layers, layers)
        chosen = layers[self.layers]
        embedding = SiameseEmbedding(images, generator, filters, self.units, chosen)
        comparison = WeightedDifference(self.units, generator)
        return MetricLearner(embedding, comparison, distort if self.distortions else None)


@dataclass(frozen=True)
class NearestNeighbourSettings(MetricSettings):
    """Baseline: nearest neighbour by the cosine of the pixels."""

    scale: float = 10.0
    """Initial factor of the cosines in probabilities, above 0; it changes no decision."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        del filters, generator
        return MetricLearner(Pixels(images), NearestNeighbour(self.scale))


@dataclass(frozen=True)
class FeatureClassifierSettings:
    """Baseline: nearest neighbour by the cosine of the features of a classifier."""

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def build(
        self, images: ImageShape, filters: int, classes: int, generator: torch.Generator
    ) -> FeatureClassifier:
        """Builds the learner for a number of training classes; see `MetricSettings.build`."""
        embedding, features = self.embedding.build(images, filters, generator)
        return FeatureClassifier(embedding, features, classes, generator)
