"""Recurrent policies, which act on the whole history of a trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl.models.base import Weights
from metarl.models.described import described
from metarl.rl.policies import policy_for
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.history import History, MemorySettings, ValueNetwork, check_widths
from metarl.rl.trials.trial_policy import TrialPolicy

HISTORY = "history."
PARTS = ("embedding.", "encoder.", "gru.")
"""Parts of a history, whose weights had no prefix in checkpoints before the attention."""


@described
class RecurrentPolicy(TrialPolicy):
    """The policy of RL^2: a memory over the steps of a trial (Duan et al. 2016, sec. 2.2).

    Its features are the outputs of the memory: a GRU, whose state is zero at the start of a trial,
    or a causal transformer, which starts with an empty cache.

    Args:
        observation_space: Observation space of one world.
        action_space: Action space of one world.
        generator: Random generator of the initial weights.
        units: Width of the memory, at least 1.
        embedding: Width of a ReLU layer between the inputs and the memory, which makes products of
            the inputs easier to learn. 0 omits the layer, as in the paper.
        hidden: Widths of the hidden layers between the memory and the action.
        init_std: Initial standard deviation of continuous actions, in the policy's units.
        options: Convolutions of images, the activation and layer norm of the layers between the
            memory and the action, and the units; None leaves the units as they are.
        memory: The kind of memory; None: a GRU.
        separate_values: Whether the values have a separate network, of the same kind; else they
            are linear in the policy's features.

    Raises:
        SettingsError: A width is out of range, or no policy supports the spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        generator: torch.Generator,
        units: int = 64,
        embedding: int = 0,
        hidden: tuple[int, ...] = (),
        init_std: float = 1.0,
        options: PolicySettings | None = None,
        memory: MemorySettings | None = None,
        separate_values: bool = False,
    ) -> None:
        check_widths(units, embedding)
        options = options or PolicySettings(scale_actions=False, normalize_observations=False)
        super().__init__(observation_space, action_space, options)
        features = spaces.Box(-1.0, 1.0, (units,), np.float32)
        self.head = policy_for(
            (features, self.actions), generator, hidden, options.activation, init_std,
            layer_norm=options.layer_norm, scale_actions=False, normalize_observations=False,
        )  # fmt: skip
        histories = [
            History(
                self.observations, self.input_size, generator, units, embedding, memory, options.cnn
            )
            for _ in range(2 if separate_values else 1)
        ]
        self.history = histories[0]
        if self.units is not None:
            self.units.to(generator.device)
        device = generator.device
        self.value = self.critic = None
        if separate_values:
            self.critic = ValueNetwork(histories[1], generator)
        else:
            self.value = Weights(
                torch.zeros(1, units, device=device), torch.zeros(1, device=device)
            )
        self.register_load_state_dict_pre_hook(_adapt_old_names)

    def features(self, inputs: Tensor, remembered: Tensor) -> Tensor:
        del inputs
        return remembered

    def values(self, features: Tensor) -> Tensor:
        assert self.value is not None, "the values have a separate network"
        return F.linear(features, self.value.weight, self.value.bias).squeeze(-1)


def _adapt_old_names(
    policy: RecurrentPolicy, weights: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Renames the weights of earlier checkpoints, whose history had no name; see `PARTS`."""
    del policy
    for name in [n for n in weights if n.startswith(tuple(prefix + part for part in PARTS))]:
        weights[prefix + HISTORY + name.removeprefix(prefix)] = weights.pop(name)
