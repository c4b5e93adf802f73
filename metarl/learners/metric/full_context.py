"""Full context embeddings of matching networks (Vinyals et al. 2016, section 2.1.2 and appendix).

A bidirectional LSTM reads the support set. For every query, an attention LSTM attends to the
outputs of that LSTM. All tasks share the weights and form one batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.images.layers import Moments
from metarl.learners.metric.comparisons import (
    Attention,
    Comparison,
    Distance,
    Reference,
    check_vectors,
    weighted_logits,
)
from metarl.models.described import described


@described
class ContextAttention(Comparison):
    """Matching networks with full context embeddings.

    The support set is embedded by g(x_i, S) = h_fwd,i + h_bwd,i + g'(x_i), where h_fwd and h_bwd
    are the hidden states of a bidirectional LSTM that reads the set in a random order. A query is
    embedded by K steps of

        h^_k, c_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1})
        h_k = h^_k + f'(x)
        r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i)

    and f(x, S) = h_K. `Attention` then compares f with g. If the LSTMs output 0, the scores are
    those of `Attention` alone.

    Args:
        features: Width of the embedding, D.
        generator: Source of the initial weights.
        steps: Steps of the attention LSTM, K, at least 1; Ravi & Larochelle 2017 use 3.
        distance: "cosine" or "euclidean"; see the arguments of `Attention`.
        scale: Initial scale of the cosines, above 0; see the arguments of `Attention`.

    Raises:
        SettingsError: `steps` or `features` is below 1, the distance is unknown, or the scale is
            not finite and above 0.
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
        # Built on "meta", because PyTorch draws initial weights from the global generator.
        self.reader = nn.LSTM(
            features, features, batch_first=True, bidirectional=True, device="meta"
        ).to_empty(device=device)
        # Equivalent to the hidden state [h, r]: h is the hidden state, r an input next to f'(x).
        self.attender = nn.LSTMCell(2 * features, features, device="meta").to_empty(device=device)
        bound = 1 / math.sqrt(features)  # PyTorch's default for LSTMs
        for module in (self.reader, self.attender):
            for p in module.parameters():
                nn.init.uniform_(p, -bound, bound, generator)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the full context embeddings g(x_i, S) of the support set."""
        assert order is not None
        features = support.features
        check_vectors(self, features, self.reader.input_size)
        if support.weights is None:
            forward, backward = self._read(features, order)
        else:  # an LSTM that meets the padding last has not read it before
            padding = (support.weights == 0).gather(1, order)
            last = order.gather(1, torch.argsort(padding.int(), dim=1, stable=True))
            first = order.gather(1, torch.argsort((~padding).int(), dim=1, stable=True))
            forward, backward = self._read(features, last)[0], self._read(features, first)[1]
        # g(x_i, S) = h_fwd,i + h_bwd,i + g'(x_i)  (Vinyals et al. 2016, appendix)
        return support._replace(features=forward + backward + features)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Returns log-probabilities, [T, N, way]."""
        return self.attention(reference, self.in_context(queries, reference), moments)

    def in_context(self, queries: Tensor, reference: Reference) -> Tensor:
        """Computes the full context embeddings of the queries (Vinyals et al. 2016, appendix).

        Args:
            queries: Embedded queries f'(x), [T, N, D].
            reference: Its features are the full context embeddings g(x_i, S) of the support set,
                [T, M, D].

        Returns:
            f(x, S), [T, N, D].
        """
        features = reference.features
        hidden = read = torch.zeros_like(queries)
        cell = torch.zeros_like(queries).flatten(0, 1)
        for _ in range(self.steps):
            # h^_k, c_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1})
            inputs = torch.cat((queries, read), dim=2).flatten(0, 1)
            hidden, cell = self.attender(inputs, (hidden.flatten(0, 1), cell))
            # h_k = h^_k + f'(x)
            hidden = hidden.view_as(queries) + queries
            # r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i)
            logits = weighted_logits(torch.bmm(hidden, features.mT), reference)
            read = torch.bmm(logits.softmax(2), features)
        return hidden

    def _read(self, features: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        """Reads the support set in an order; the states of both directions, in the set's order."""
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        # argsort inverts the permutation: states are in the order of the support set again.
        states = self.reader(features[rows, order])[0][rows, order.argsort(1)]
        return states.chunk(2, dim=2)
