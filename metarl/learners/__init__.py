"""Learners that adapt without a gradient."""

from metarl.learners.comparisons import (
    Attention,
    Comparison,
    NearestNeighbour,
    Prototypes,
    Reference,
)
from metarl.learners.context import ContextAttention
from metarl.learners.embeddings import ConvEmbedding, Embedding, ImageShape, Pixels, Thumbnail
from metarl.learners.episode_reader import EpisodeInputs, EpisodeReader, Recollection
from metarl.learners.fast_weights import AugmentedNetwork, GradientMap, GradientReader
from metarl.learners.meta_network import FastWeights, MetaNetwork, MetaNetworkInputs
from metarl.learners.metric_learner import MetricInputs, MetricLearner
from metarl.learners.relation import Relation, RelationEmbedding
from metarl.learners.sequences import (
    Feedforward,
    MemoryAugmented,
    Recurrent,
    SequenceNetwork,
)
from metarl.learners.siamese import SiameseEmbedding, WeightedDifference
from metarl.learners.stream_reader import StreamInputs, StreamReader

__all__ = [
    "Attention",
    "AugmentedNetwork",
    "Comparison",
    "ContextAttention",
    "ConvEmbedding",
    "Embedding",
    "EpisodeInputs",
    "EpisodeReader",
    "FastWeights",
    "Feedforward",
    "GradientMap",
    "GradientReader",
    "ImageShape",
    "MemoryAugmented",
    "MetaNetwork",
    "MetaNetworkInputs",
    "MetricInputs",
    "MetricLearner",
    "NearestNeighbour",
    "Pixels",
    "Prototypes",
    "Recollection",
    "Recurrent",
    "Reference",
    "Relation",
    "RelationEmbedding",
    "SequenceNetwork",
    "SiameseEmbedding",
    "StreamInputs",
    "StreamReader",
    "Thumbnail",
    "WeightedDifference",
]
