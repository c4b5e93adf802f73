"""Learners that adapt without a gradient."""

from metarl.learners.ensemble import Ensemble
from metarl.learners.images.embeddings import (
    ConvEmbedding,
    Embedding,
    ImageShape,
    Pixels,
    Thumbnail,
)
from metarl.learners.memory.episode_reader import EpisodeInputs, EpisodeReader, Recollection
from metarl.learners.memory.fast_weights import AugmentedNetwork, GradientMap, GradientReader
from metarl.learners.memory.meta_network import FastWeights, MetaNetwork, MetaNetworkInputs
from metarl.learners.memory.sequences import (
    Feedforward,
    MemoryAugmented,
    Recurrent,
    SequenceNetwork,
)
from metarl.learners.memory.stream_reader import StreamInputs, StreamReader
from metarl.learners.metric.comparisons import (
    Attention,
    Comparison,
    NearestNeighbour,
    Prototypes,
    Reference,
)
from metarl.learners.metric.full_context import ContextAttention
from metarl.learners.metric.metric_learner import MetricInputs, MetricLearner
from metarl.learners.metric.of_modules import (
    Matching,
    NearestNeighbours,
    Prototypical,
    ReconstructionNetwork,
    RelationNetwork,
    Siamese,
)
from metarl.learners.metric.reconstruction import Reconstruction
from metarl.learners.metric.relation import Relation, RelationEmbedding
from metarl.learners.metric.siamese import SiameseEmbedding, WeightedDifference
from metarl.learners.metric.zero_shot import ZeroShotInputs, ZeroShotPrototypes
from metarl.learners.module_embedding import ModuleEmbedding

__all__ = [
    "Attention",
    "AugmentedNetwork",
    "Comparison",
    "ContextAttention",
    "ConvEmbedding",
    "Embedding",
    "Ensemble",
    "EpisodeInputs",
    "EpisodeReader",
    "FastWeights",
    "Feedforward",
    "GradientMap",
    "GradientReader",
    "ImageShape",
    "Matching",
    "MemoryAugmented",
    "MetaNetwork",
    "MetaNetworkInputs",
    "MetricInputs",
    "MetricLearner",
    "ModuleEmbedding",
    "NearestNeighbour",
    "NearestNeighbours",
    "Pixels",
    "Prototypes",
    "Prototypical",
    "Recollection",
    "Reconstruction",
    "ReconstructionNetwork",
    "Recurrent",
    "Reference",
    "Relation",
    "RelationEmbedding",
    "RelationNetwork",
    "SequenceNetwork",
    "Siamese",
    "SiameseEmbedding",
    "StreamInputs",
    "StreamReader",
    "Thumbnail",
    "WeightedDifference",
    "ZeroShotInputs",
    "ZeroShotPrototypes",
]
