"""The metric algorithms: frozen dataclasses of options that build the learners of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from metarl.learners.images.embeddings import ConvEmbedding, Embedding, Pixels
from metarl.learners.images.maps import MapEmbedding
from metarl.learners.images.pyramid import PyramidEmbedding
from metarl.learners.images.views import AveragedViews
from metarl.learners.metric.classifier import FeatureClassifier
from metarl.learners.metric.comparisons import Attention, Distance, NearestNeighbour, Prototypes
from metarl.learners.metric.full_context import ContextAttention
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.metric.reconstruction import Reconstruction
from metarl.learners.metric.relation import Relation, RelationEmbedding
from metarl.learners.metric.siamese import KOCH, SMALL, SiameseEmbedding, WeightedDifference
from metarl.learners.problem import ImageProblem
from metarl.models.described import FUNCTIONS, described
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WIDTH, check_fields
from metarl.registry import check_choice
from metarl.tasks.distortions import Distortion, distort

described(Distortion)
FUNCTIONS.register("distort", distort)

Network = Literal["conv4", "pyramid"]
VIEW = Distortion(tilt=8, shear=0.1, scale=0.1, shift=0.025, elastic=0.03)
SiameseLayers = Literal["small", "koch"]


@dataclass(frozen=True)
class EmbeddingSettings:
    """The network that embeds images, and the number of views that evaluation embeds."""

    network: Network = "conv4"
    """conv4: the papers' network; pyramid: filters double in each block, maps keep their size."""
    bfloat16: bool = False
    """Trains the convolutions in bfloat16, as `--training.precision bfloat16` does."""
    views: int = 1
    """Views of an image that evaluation averages; 1: the image itself."""
    view: Distortion = field(default_factory=lambda: VIEW)
    """How all views except the first are distorted; strokes stay as they are."""

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_fields(self, views=COUNT)

    def make(self, problem: ImageProblem) -> tuple[Embedding, int]:
        """Builds the embedding; returns it and its number of features.

        Raises:
            SettingsError: The network is unknown, or a number is too small.
        """
        check_choice("network", self.network, get_args(Network))
        shape = (problem.images, problem.generator, problem.filters)
        kind = PyramidEmbedding if self.network == "pyramid" else ConvEmbedding
        network = kind(*shape, bfloat16=self.bfloat16)
        return _averaged(network, self.views, self.view, problem), network.features


@dataclass(frozen=True)
class PrototypicalAlgorithm:
    """Prototypical networks (Snell et al. 2017)."""

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        embedding, _ = self.embedding.make(problem)
        return MetricLearner(embedding, Prototypes())


@dataclass(frozen=True)
class MatchingAlgorithm:
    """Matching networks (Vinyals et al. 2016)."""

    only_at_start: ClassVar[tuple[str, ...]] = ("scale",)

    distance: Distance = "cosine"
    """cosine, times a learned scale; or euclidean: the squared distance, without a scale."""
    scale: float = 10.0
    """Initial scale of the cosines, above 0; with 1, as in the paper, no probability is high."""
    context_steps: int = 0
    """Steps of the LSTM of full context embeddings, 3 in Ravi & Larochelle 2017; 0: none."""
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, scale=POSITIVE, context_steps=NOT_NEGATIVE)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        embedding, features = self.embedding.make(problem)
        similarity = (self.distance, self.scale)
        if self.context_steps == 0:
            return MetricLearner(embedding, Attention(*similarity))
        return MetricLearner(
            embedding,
            ContextAttention(features, problem.generator, self.context_steps, *similarity),
        )


@dataclass(frozen=True)
class RelationAlgorithm:
    """Relation networks (Sung et al. 2018)."""

    units: int = 8
    """Width of the relation module's hidden layer."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, units=WIDTH)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        embedding = RelationEmbedding(problem.images, problem.generator, problem.filters)
        relation = Relation(problem.filters, embedding.size, problem.generator, self.units)
        return MetricLearner(embedding, relation)


@dataclass(frozen=True)
class ReconstructionAlgorithm:
    """Feature map reconstruction (Wertheimer et al. 2021), of queries and of classes."""

    bfloat16: bool = False
    """Trains the convolutions in bfloat16, as `--training.precision bfloat16` does."""
    views: int = 1
    """Views of an image that evaluation averages; 1: the image itself."""
    view: Distortion = field(default_factory=lambda: VIEW)
    """How all views except the first are distorted; strokes stay as they are."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, views=COUNT)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        shape = (problem.images, problem.generator, problem.filters)
        network = MapEmbedding(*shape, bfloat16=self.bfloat16)
        embedding = _averaged(network, self.views, self.view, problem)
        return MetricLearner(embedding, Reconstruction())


@dataclass(frozen=True)
class SiameseAlgorithm:
    """Convolutional siamese networks (Koch et al. 2015)."""

    units: int = 512
    """Width of the layer whose outputs are compared; Koch et al.: 4096."""
    layers: SiameseLayers = "small"
    """small: for images of 28x28; koch: Koch et al.'s, for 105x105 and 64 filters."""
    distortions: bool = True
    """Trains on randomly distorted images."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, units=WIDTH)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        layers = {"small": SMALL, "koch": KOCH}
        check_choice("layers", self.layers, layers)
        embedding = SiameseEmbedding(
            problem.images, problem.generator, problem.filters, self.units, layers[self.layers]
        )
        comparison = WeightedDifference(self.units, problem.generator)
        return MetricLearner(embedding, comparison, distort if self.distortions else None)


@dataclass(frozen=True)
class NearestNeighbourAlgorithm:
    """Baseline: nearest neighbour by the cosine of the pixels."""

    only_at_start: ClassVar[tuple[str, ...]] = ("scale",)

    scale: float = 10.0
    """Initial factor of the cosines in probabilities, above 0; it does not change predictions."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, scale=POSITIVE)

    def build(self, problem: ImageProblem, /) -> MetricLearner:
        """Builds the learner; see `ImageAlgorithm.build`."""
        return MetricLearner(Pixels(problem.images), NearestNeighbour(self.scale))


@dataclass(frozen=True)
class FeatureClassifierAlgorithm:
    """Baseline: nearest neighbour by the cosine of the features of a classifier."""

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self)

    def build(self, problem: ImageProblem, /) -> FeatureClassifier:
        """Builds the learner; see `ImageAlgorithm.build`."""
        embedding, features = self.embedding.make(problem)
        return FeatureClassifier(embedding, features, problem.classes, problem.generator)


def _averaged(network: Embedding, views: int, view: Distortion, problem: ImageProblem) -> Embedding:
    """Returns a network that averages views in evaluation, or the network itself for one view."""
    if views == 1:
        return network
    return AveragedViews(network, views, view, problem.images, problem.generator)
