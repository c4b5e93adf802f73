"""Learners that adapt without a gradient."""

from metarl.learners.comparisons import (
    Attention,
    Comparison,
    NearestNeighbour,
    Prototypes,
    Reference,
)
from metarl.learners.context import ContextAttention
from metarl.learners.embeddings import ConvEmbedding, Embedding, ImageShape, Pixels
from metarl.learners.metric_learner import MetricInputs, MetricLearner
from metarl.learners.relation import Relation, RelationEmbedding
from metarl.learners.siamese import SiameseEmbedding, WeightedDifference

__all__ = [
    "Attention",
    "Comparison",
    "ContextAttention",
    "ConvEmbedding",
    "Embedding",
    "ImageShape",
    "MetricInputs",
    "MetricLearner",
    "NearestNeighbour",
    "Pixels",
    "Prototypes",
    "Reference",
    "Relation",
    "RelationEmbedding",
    "SiameseEmbedding",
    "WeightedDifference",
]
