"""Episodes and learners to try."""

import pytest
import torch

from metarl.learners import ConvEmbedding, ImageShape
from metarl.learners.images.layers import SharedNorm
from metarl.tasks import Glyphs


@pytest.fixture
def glyphs():
    return Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)


@pytest.fixture
def embedding(generator):
    """An embedding whose running moments are not those it was born with."""
    embedding = ConvEmbedding(ImageShape(), generator, filters=4)
    for norm in embedding.modules():
        if isinstance(norm, SharedNorm):
            norm.mean.uniform_(-0.5, 0.5, generator=generator)
            norm.variance.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():  # scales of both signs
                norm.weight.uniform_(-1, 1, generator=generator)
                norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return embedding
