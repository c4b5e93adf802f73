"""Full context embeddings of matching networks (Vinyals et al. 2016, section 2.1.2 and appendix).

The support set is read by a bidirectional LSTM, every query by an LSTM that attends over what
that gave. The tasks are the batch of both, as they share the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.images.layers import Moments
from metarl.learners.metric.comparisons import Attention, Comparison, Distance, Reference


class ContextAttention(Comparison):
    """Matching networks with full context embeddings.

    Support: g(x_i, S) = h_fwd,i + h_bwd,i + g'(x_i), with the hidden states of the bidirectional
    LSTM over the set in a random order. Queries: K steps of

        h^_k, c_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1})
        h_k = h^_k + f'(x)
        r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i)

    and f(x, S) = h_K. Then as `Attention`. With LSTMs that put out 0 it is `Attention`.

    Args:
        features: Width of the embedding, D.
        generator: Source of the initial weights.
        steps: Steps of the attention LSTM, K, at least 1; Ravi & Larochelle 2017 use 3.
        distance: See `Attention`.
        scale: See `Attention`.

    Raises:
        SettingsError: There are no steps or no features, or as of `Attention`.
    """

    ordered = True

    def __init__(
        self,
        features: int,
        generator: torch.Generator,
        steps: int = 3,
        distance: Distance = "cosine",
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        if min(features, steps) < 1:
            raise SettingsError(
                f"Expected at least 1 feature and 1 step, got {features} and {steps}."
            )
        self.steps = steps
        self.attention = Attention(distance, scale)
        device = generator.device
        # by way of "meta": torch's own initial weights would come from its global generator
        self.reader = nn.LSTM(
            features, features, batch_first=True, bidirectional=True, device="meta"
        ).to_empty(device=device)
        # The hidden state [h, r] enters as h and, beside f'(x), as an input r: the same products.
        self.attender = nn.LSTMCell(2 * features, features, device="meta").to_empty(device=device)
        bound = 1 / math.sqrt(features)  # torch's own
        for module in (self.reader, self.attender):
            for p in module.parameters():
                nn.init.uniform_(p, -bound, bound, generator)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """See `Comparison.condense`: the support set in its context."""
        assert order is not None
        features = support.features
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        states = self.reader(features[rows, order])[0][rows, order.argsort(1)]
        forward, backward = states.chunk(2, dim=2)
        return Reference(forward + backward + features, support.members)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`: logarithms of probabilities."""
        return self.attention(reference, self.in_context(queries, reference.features), moments)

    def in_context(self, queries: Tensor, features: Tensor) -> Tensor:
        """Returns f(x, S), [T, N, D], of queries f'(x) [T, N, D] and support g [T, M, D]."""
        hidden = read = torch.zeros_like(queries)
        cell = torch.zeros_like(queries).flatten(0, 1)
        for _ in range(self.steps):
            inputs = torch.cat((queries, read), dim=2).flatten(0, 1)
            hidden, cell = self.attender(inputs, (hidden.flatten(0, 1), cell))
            hidden = hidden.view_as(queries) + queries
            read = torch.bmm(torch.bmm(hidden, features.mT).softmax(2), features)
        return hidden
