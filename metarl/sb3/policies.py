"""Conversion of policies to PPO models of Stable-Baselines3, for further training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Categorical

from metarl.errors import SettingsError
from metarl.rl.plain_policy import PlainGaussian, PlainJoint, PlainPolicy
from metarl.sb3.features import OwnUnits, arguments_of
from metarl.sim.global_seed import global_seed
from metarl.sim.spaces import FlatBox, FlatDiscrete

LEAST_SCALE = 1e-9


def ppo_from(policy: PlainPolicy, **settings: Any) -> PPO:
    """Builds a PPO model with the network and the standard deviations of a policy.

    The value function, with the same hidden sizes, and the optimiser are newly initialised, so the
    first updates are noisier than later ones. PPO clips actions as the environment does. The map of
    observations becomes a features extractor, `metarl.sb3.features.OwnUnits`, which the file needs
    to be loaded; the map of actions is multiplied into the last layer.

    Args:
        policy: The policy.
        **settings: Arguments of `stable_baselines3.PPO`.

    Raises:
        SettingsError: The policy has other layers than linear ones, actions of several kinds or
            actions without finite bounds.
    """
    hidden = [layer.out_features for layer in policy.linear[:-1]]
    if isinstance(policy, PlainJoint):
        raise SettingsError(
            "Stable-Baselines3 has no policy for actions of several kinds: choose the format onnx "
            "or torch."
        )
    actions = policy.action_space
    if isinstance(actions, spaces.Box) and not actions.is_bounded():
        raise SettingsError(
            "Stable-Baselines3 clips actions to finite bounds, and these have none: "
            f"{actions.low.tolist()} to {actions.high.tolist()}. Choose the format onnx or torch, "
            "or declare bounds in the environment's action space and train with them."
        )
    units = policy.units
    extractor_options = {}
    if units is not None and units.observations is not None:
        extractor_options = {
            "features_extractor_class": OwnUnits,
            "features_extractor_kwargs": arguments_of(units.observations),
        }
    activations = [
        type(layer) for layer in policy.network.children() if not isinstance(layer, nn.Linear)
    ]
    model = PPO(
        "MlpPolicy",
        None,  # pyright: ignore[reportArgumentType]  # as in PPO.load
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": activations[0] if activations else nn.Tanh,
            **extractor_options,
        },
        device="cpu",
        _init_setup_model=False,
        **settings,
    )
    model.observation_space = plain_box(policy.observation_space)
    model.action_space = plain_box(policy.action_space)
    model.n_envs = 1
    with global_seed(0):  # for the value function; the other random values are overwritten
        model._setup_model()
    actor_critic = model.policy
    extractor = actor_critic.mlp_extractor.policy_net
    inner = [layer for layer in extractor if isinstance(layer, nn.Linear)]
    for source, target in zip(policy.linear, [*inner, actor_critic.action_net], strict=True):
        target.load_state_dict(source.state_dict())
    if isinstance(policy, PlainGaussian):
        actor_critic.log_std.data.copy_(policy.log_std)
    if units is not None and units.actions is not None:
        # scale (W x + b) + shift, and a deviation of scale * std
        scale, last = units.actions.scale, actor_critic.action_net
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(scale.unsqueeze(1))
            last.bias.mul_(scale).add_(units.actions.shift)
            # An entry whose bounds are equal has a scale of 0, and a deviation that is not seen.
            actor_critic.log_std.add_(scale.clamp(min=LEAST_SCALE).log())
    return model


def plain_box(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the space as one of gymnasium's own classes, which any program can load."""
    if isinstance(space, FlatDiscrete):
        return spaces.Discrete(int(space.n))
    if not isinstance(space, FlatBox):
        return space
    return spaces.Box(space.low, space.high, dtype=np.float32)


def save_ppo(policy: PlainPolicy, path: Path, note: Mapping[str, str]) -> None:
    """Writes a PPO model for `PPO.load(path)`; its attribute `metarl` is the note."""
    model = ppo_from(policy)
    vars(model)["metarl"] = dict(note)
    model.save(path)


def load_outputs(path: Path, observations: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a policy that `save_ppo` wrote, for observations [B, O] float32.

    The names and shapes are those of a `PlainPolicy`: "action", "mean" and "std", or "action" and
    "log_probs".
    """
    model = PPO.load(path, device="cpu")
    action, _ = model.predict(observations, deterministic=True)
    policy = model.policy
    assert isinstance(policy, ActorCriticPolicy)
    with torch.no_grad():
        distribution: Any = policy.get_distribution(torch.from_numpy(observations)).distribution
    if isinstance(distribution, Categorical):
        return {"action": action, "log_probs": distribution.logits.numpy()}
    mean, std = distribution.mean.numpy(), distribution.stddev.numpy()
    return {"action": action, "mean": mean, "std": std}
