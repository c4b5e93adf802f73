"""Our policies as PPO models of Stable-Baselines3, which go on learning there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Categorical

from metarl.deploy.plain_policy import FrozenGaussian, FrozenPolicy


def ppo_from(frozen: FrozenPolicy, **settings: Any) -> PPO:
    """Builds a PPO whose policy acts as a frozen one: the same network, the same deviations.

    Its value function starts anew, of the same widths, and its optimiser too: what it learns next
    begins with a few updates that are noisier than they will be. Actions are clipped by PPO as the
    environment does it.

    Args:
        frozen: The policy.
        **settings: Arguments of `stable_baselines3.PPO`.
    """
    hidden = [layer.out_features for layer in frozen.linear[:-1]]
    activations = [type(layer) for layer in frozen.network if not isinstance(layer, nn.Linear)]
    model = PPO(
        "MlpPolicy",
        None,  # pyright: ignore[reportArgumentType]  # as PPO.load does it
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": activations[0] if activations else nn.Tanh,
        },
        device="cpu",
        _init_setup_model=False,
        **settings,
    )
    model.observation_space, model.action_space = frozen.observation_space, frozen.action_space
    model.n_envs = 1
    with global_seed(0):  # of the value function; nothing else of it is drawn
        model._setup_model()
    policy = model.policy
    inner = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, nn.Linear)]
    for mine, its in zip(frozen.linear, [*inner, policy.action_net], strict=True):
        its.load_state_dict(mine.state_dict())
    if isinstance(frozen, FrozenGaussian):
        policy.log_std.data.copy_(frozen.log_std)
    return model


def save_ppo(frozen: FrozenPolicy, path: Path, note: Mapping[str, str]) -> None:
    """Writes a PPO model: `PPO.load(path)`, whose attribute `metarl` is the note."""
    model = ppo_from(frozen)
    vars(model)["metarl"] = dict(note)
    model.save(path)


def load_outputs(path: Path, observations: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the policy of a file of `save_ppo` gives.

    As a `FrozenPolicy`: "action", "mean" and "std", or "action" and "log_probs".
    """
    model = PPO.load(path, device="cpu")
    action, _ = model.predict(observations, deterministic=True)
    policy = model.policy
    assert isinstance(policy, ActorCriticPolicy)
    with torch.no_grad():
        found: Any = policy.get_distribution(torch.from_numpy(observations)).distribution
    if isinstance(found, Categorical):
        return {"action": action, "log_probs": found.logits.numpy()}
    return {"action": action, "mean": found.mean.numpy(), "std": found.stddev.numpy()}


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators, which SB3 draws from, and puts them back at the end."""
    states = (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
