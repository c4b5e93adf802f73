"""Metric learners as functions of an ordinary module, as `MAML(net)` is one."""

from __future__ import annotations

import torch
from torch import nn

from metarl.errors import SettingsError
from metarl.learners.images.embeddings import Embedding
from metarl.learners.metric.comparisons import (
    Attention,
    Comparison,
    Distance,
    NearestNeighbour,
    Prototypes,
)
from metarl.learners.metric.full_context import ContextAttention
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.metric.reconstruction import Reconstruction
from metarl.learners.metric.relation import Relation
from metarl.learners.metric.siamese import WeightedDifference
from metarl.learners.module_embedding import ModuleEmbedding
from metarl.tasks.batches import parameter_type


def Prototypical(net: nn.Module) -> MetricLearner:  # noqa: N802
    """Prototypical networks (Snell et al. 2017) on the features of a module.

    Args:
        net: Maps a batch [N, *input] to features [N, D].
    """
    return _learner(net, Prototypes())


def Matching(  # noqa: N802
    net: nn.Module,
    distance: Distance = "cosine",
    scale: float = 10.0,
    *,
    context_steps: int = 0,
    features: int | None = None,
    generator: torch.Generator | None = None,
) -> MetricLearner:
    """Matching networks (Vinyals et al. 2016) on the features of a module.

    Args:
        net: Maps a batch [N, *input] to features [N, D].
        distance: "cosine", times a learned scale, or "euclidean".
        scale: Initial scale of the cosines, above 0.
        context_steps: Steps of the attention LSTM of full context embeddings; 0 for none.
        features: Number of features, D, for full context embeddings.
        generator: Source of the initial weights of full context embeddings.

    Raises:
        SettingsError: Full context embeddings lack `features` or `generator`.
    """
    if context_steps == 0:
        return _learner(net, Attention(distance, scale))
    if features is None or generator is None:
        raise SettingsError(
            "Full context embeddings have further weights: expected `features`, the number of "
            "features of the network, and a `generator`."
        )
    context = ContextAttention(features, generator, context_steps, distance, scale)
    return _learner(net, context)


def RelationNetwork(  # noqa: N802
    net: nn.Module, channels: int, size: int, generator: torch.Generator, units: int = 8
) -> MetricLearner:
    """Relation networks (Sung et al. 2018) on the feature maps of a module.

    Args:
        net: Maps a batch of images to feature maps [N, channels, size, size].
        channels: Channels of the maps.
        size: Height and width of the maps, at least 4.
        generator: Source of the initial weights of the relation module.
        units: Width of its hidden layer.
    """
    return _learner(net, Relation(channels, size, generator, units))


def ReconstructionNetwork(net: nn.Module) -> MetricLearner:  # noqa: N802
    """Feature map reconstruction (Wertheimer et al. 2021) on the feature maps of a module.

    Args:
        net: Maps a batch of images to feature maps [N, channels, H, W].
    """
    return _learner(net, Reconstruction())


def Siamese(net: nn.Module, features: int, generator: torch.Generator) -> MetricLearner:  # noqa: N802
    """Siamese networks (Koch et al. 2015) on the features of a module.

    Args:
        net: Maps a batch [N, *input] to features [N, features].
        features: Number of features.
        generator: Source of the initial weights of the weighted distance.
    """
    return _learner(net, WeightedDifference(features, generator))


def NearestNeighbours(net: nn.Module | None = None, scale: float = 10.0) -> MetricLearner:  # noqa: N802
    """Baseline: the class of the support example with the largest cosine similarity.

    Args:
        net: Maps a batch [N, *input] to features [N, D]; None: the inputs themselves.
        scale: Initial factor of the cosines in probabilities, above 0.
    """
    return _learner(net or nn.Flatten(), NearestNeighbour(scale))


def _learner(net: nn.Module, comparison: Comparison) -> MetricLearner:
    """Returns the learner, with the comparison in the type of the network, such as float64."""
    learner = MetricLearner(embedding_of(net), comparison)
    comparison.to(parameter_type(learner.embedding))
    return learner


def embedding_of(net: nn.Module) -> Embedding:
    """Returns an embedding as it is, and one of any other module."""
    return net if isinstance(net, Embedding) else ModuleEmbedding(net)
