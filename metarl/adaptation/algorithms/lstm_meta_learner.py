"""The LSTM meta-learner of Ravi & Larochelle 2017: its update rule and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_seeded_function
from metarl.adaptation.coordinates import (
    LSTMCell,
    check_units,
    in_type_of,
    log_sign,
    pack,
    uniform,
    unpack,
)
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import State, UpdateRule
from metarl.models.base import Adaptable, Params
from metarl.ranges import Range


@dataclass(frozen=True)
class LSTMMetaLearnerAlgorithm(GradientAlgorithm):
    """LSTM meta-learner (Ravi & Larochelle 2017)."""

    ranges: ClassVar[Mapping[str, Range]] = {
        **GradientAlgorithm.ranges, "statistics_momentum": Range(0, 1, includes_low=False),
    }  # fmt: skip

    steps: int = 12
    """Adaptation steps in training."""
    units: int = 20
    """Width of the first LSTM layer."""
    batch_size: int | None = None
    """Support examples per step. None: all."""
    statistics_momentum: float = 0.9
    """Weight, in (0, 1], of the newest support batch in an episode's batch-norm statistics, with
    which non-transductive predictions are made: 0.9 for one shot, 0.95 for five."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        return Adaptation(
            network,
            in_type_of(network, LSTMMetaLearnerRule(generator, self.units)),
            QueryLoss(),
            steps=self.steps,
            batch_size=self.batch_size,
            statistics_momentum=self.statistics_momentum,
            frozen=self.frozen,
        )


LSTMMetaLearner = as_seeded_function(LSTMMetaLearnerAlgorithm)


class LSTMMetaLearnerRule(UpdateRule):
    """theta_t = f_t o theta_{t-1} - i_t o g_t: a cell state that is the network (equation 2).

    All coordinates share the weights; each has a hidden state. A first LSTM layer
    reads the preprocessed gradient and loss, x_t = LSTM([pre(g_t), pre(L_t)]); the gates see its
    output, the coordinate and their own previous value (the logit, as in the authors' code):

        i_t = sigmoid(W_I [x_t, theta_{t-1}, i_{t-1}] + b_I)
        f_t = sigmoid(W_F [x_t, theta_{t-1}, f_{t-1}] + b_F)

    Gradients and losses are constants (section 3.4); the raw gradient enters the update. The
    initial cell state is the model's theta, learned with the rest.

    Args:
        generator: Source of the initial weights: U(-0.01, 0.01), b_F from U(4, 5) and b_I from
            U(-5, -4), so that a fresh rule is gradient descent with a small rate.
        units: Width of the first layer, at least 1.
        p: Magnitude below which the preprocessing counts a number as small (exponent).
    """

    differentiates_gradient = False
    reads_logarithms = True

    def __init__(self, generator: torch.Generator, units: int = 20, p: float = 10.0) -> None:
        super().__init__()
        small = uniform(generator, -0.01, 0.01)
        self.p = p
        self.cell = LSTMCell(4, check_units(units), small)
        # Rows: the input gate and the forget gate; columns: x_t, theta_{t-1}, previous logit.
        self.gate_weight = nn.Parameter(small((2, units + 2)))
        bias = torch.cat((uniform(generator, -5, -4)((1,)), uniform(generator, 4, 5)((1,))))
        self.gate_bias = nn.Parameter(bias)

    def init(self, params: Params) -> State:
        """Returns a hidden state [T, P, units] and gate logits [T, P, 2], all zero."""
        row = pack(params, self.gate_weight.dtype)
        hidden = row.new_zeros(*row.shape, self.cell.units)
        return {"hidden": hidden, "cell": hidden, "logits": row.new_zeros(*row.shape, 2)}

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        theta, gradient = (pack(values, self.gate_weight.dtype) for values in (params, grads))
        gradient = gradient.detach()
        inputs = torch.cat(
            (
                log_sign(gradient, self.p),
                log_sign(loss.detach().to(gradient), self.p)
                .unsqueeze(1)
                .expand(*gradient.shape, 2),
            ),
            dim=-1,
        )
        hidden, cell = self.cell(
            inputs.flatten(0, 1), state["hidden"].flatten(0, 1), state["cell"].flatten(0, 1)
        )
        units = self.cell.units
        weight = self.gate_weight
        # i_t, f_t = sigmoid(W [x_t, theta_{t-1}, (i, f)_{t-1}] + b)  (equations 3 and 4)
        logits = torch.addmm(self.gate_bias, hidden, weight[:, :units].mT).view(*theta.shape, 2)
        logits = logits + theta.unsqueeze(-1) * weight[:, units]
        logits = logits + state["logits"] * weight[:, units + 1]
        input_gate, forget_gate = logits.sigmoid().unbind(-1)
        moved = forget_gate * theta - input_gate * gradient  # equation 2: f o c - i o grad
        shape = state["hidden"].shape
        state = {"hidden": hidden.view(shape), "cell": cell.view(shape), "logits": logits}
        return unpack(moved, params), state
