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
    _check_actions(policy)
    model = PPO(
        "MlpPolicy",
        None,  # pyright: ignore[reportArgumentType]  # as in PPO.load
        policy_kwargs=_network_of(policy),
        device="cpu",
        _init_setup_model=False,
        **settings,
    )
    model.observation_space = plain_box(policy.observation_space)
    model.action_space = plain_box(policy.action_space)
    model.n_envs = 1
    with global_seed(0):  # for the value function; the other random values are overwritten
        model._setup_model()
    _copy_weights(policy, model.policy)
    return model


def _check_actions(policy: PlainPolicy) -> None:
    """Refuses actions that Stable-Baselines3 has no policy for."""
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


def _network_of(policy: PlainPolicy) -> dict[str, Any]:
    """Returns the `policy_kwargs` of PPO for a network of the same layers and units."""
    hidden = [layer.out_features for layer in policy.linear[:-1]]
    layers = policy.network.children()
    activations = [type(layer) for layer in layers if not isinstance(layer, nn.Linear)]
    options: dict[str, Any] = {
        "net_arch": {"pi": hidden, "vf": hidden},
        "activation_fn": activations[0] if activations else nn.Tanh,
    }
    if policy.units is not None and policy.units.observations is not None:
        options["features_extractor_class"] = OwnUnits
        options["features_extractor_kwargs"] = arguments_of(policy.units.observations)
    return options


@torch.no_grad()
def _copy_weights(policy: PlainPolicy, target: ActorCriticPolicy) -> None:
    """Copies the layers and deviations of a policy, with actions in the environment's units."""
    extractor = target.mlp_extractor.policy_net
    inner = [layer for layer in extractor if isinstance(layer, nn.Linear)]
    last = target.action_net
    for source, layer in zip(policy.linear, [*inner, last], strict=True):
        layer.load_state_dict(source.state_dict())
    if isinstance(policy, PlainGaussian):
        target.log_std.copy_(policy.log_std)
    if policy.units is not None and policy.units.actions is not None:
        # scale (W x + b) + shift, and a deviation of scale * std
        scale = policy.units.actions.scale
        assert isinstance(last, nn.Linear)
        last.weight.mul_(scale.unsqueeze(1))
        last.bias.mul_(scale).add_(policy.units.actions.shift)
        # An entry whose bounds are equal has a scale of 0, and a deviation that is not seen.
        target.log_std.add_(scale.clamp(min=LEAST_SCALE).log())


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
