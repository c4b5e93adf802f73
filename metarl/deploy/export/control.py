"""The graphs of policies that adapt by gradients: the actions, and the steps on raw rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl.adaptation.adaptation import Frozen
from metarl.deploy.export.capture import Graph, Port, free_size, graph_of
from metarl.deploy.export.kinds import Exported, Request, exported
from metarl.deploy.export.notes import control_notes
from metarl.deploy.export.rollouts import ControlParts, log_probs, log_step, step
from metarl.deploy.export.state import flatten
from metarl.deploy.export.theta import Start, start_of, theta_of
from metarl.errors import ExportError, SettingsError
from metarl.models.base import Params, task_params
from metarl.models.mlp import ACTIVATIONS, MLP
from metarl.rl.distributions import Categorical, Distribution, Gaussian
from metarl.rl.policies import NETWORK, CategoricalPolicy, GaussianPolicy, Policy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.units import Units
from metarl.trees import map_tensors

WORLDS = "observations"
"""Name of the free size of `act`."""


@exported.register(PolicyLearner)
def _(learner: PolicyLearner, request: Request) -> Exported:
    """Returns the graphs "act", "step", "log_probs" and "log_step".

    Raises:
        SettingsError: The learner observes the task, or the horizon is below 1.
        ExportError: The running statistics of the policy's units have not started.
    """
    if learner.worlds.observe_task:
        raise SettingsError(
            "The run trained an oracle, which observes the task: there is nothing to adapt. Export "
            "its policy alone, without `--with adaptation`."
        )
    horizon = learner.family.horizon if request.horizon is None else request.horizon
    if horizon < 1:
        raise SettingsError(f"Expected a horizon of at least 1 step, got {horizon}.")
    start, graphs = control_graphs(learner, horizon, request.generator)
    return Exported("control", start, graphs, control_notes(learner))


def control_graphs(
    learner: PolicyLearner, horizon: int, generator: torch.Generator
) -> tuple[Start, list[Graph]]:
    """Returns the initial theta and state, and the graphs; "act" is the first.

    Args:
        learner: The learner, on the CPU.
        horizon: Steps H that an episode of the exported batch has room for.
        generator: Draws the start, for learners that start afresh on each task.

    Raises:
        ExportError: The running statistics of the policy's units have not started.
    """
    units = learner.policy.units
    if units is not None and not units.started:
        raise ExportError(
            "Expected a trained policy, the running statistics of this one have no values yet: "
            "train it for an iteration first."
        )
    frozen = Frozen(learner.adaptation)
    params = frozen.fresh_start(generator, 1) or task_params(learner.policy, 1)
    moving, constants = theta_of(params, frozen.names)
    state = learner.rule.init({n: t.unsqueeze(0) for n, t in moving.items()})
    start = start_of(moving, flatten(state))
    size = learner.family.observation_space.shape[0]
    fixed = torch.empty(horizon, horizon + 1, size), torch.empty(learner.policy.action_shape)
    count = free_size([*start.tensors, *fixed])
    parts = ControlParts(learner, start, constants, state, (count, horizon, size))
    return start, [
        _act(learner, start, constants, size, count), step(parts), log_probs(parts), log_step(parts)
    ]  # fmt: skip


def _act(learner: PolicyLearner, start: Start, constants: Params, size: int, count: int) -> Graph:
    policy = learner.policy
    names, bounds = list(start.theta), bounds_of(learner.family.action_space)
    observe = _observer(policy.units)

    def act(*tensors: Tensor) -> list[Tensor]:
        params = {n: t.unsqueeze(0) for n, t in zip(names, tensors[:-2], strict=True)}
        observations, noise = tensors[-2:]
        found = single_distribution(policy, {**constants, **params}, observe(observations))
        return actions_of(found, noise, policy.units, bounds)

    noise = policy.noise((count,), torch.Generator().manual_seed(0))
    ports = [
        *start.ports()[: len(names)],
        Port("observations", torch.zeros(count, size), "in the environment's units", {0: WORLDS}),
        Port("noise", noise, noise_text(policy), {0: WORLDS}),
    ]
    return graph_of("act", act, ports, [(n, text, {0: WORLDS}) for n, text in act_outputs(policy)])


def single_distribution(policy: Policy, params: Params, own: Tensor) -> Distribution:
    """Returns the distributions [B] of one task for observations [B, O].

    For layers of an `MLP` they are computed without a task dimension, in a third of the operators.

    Args:
        policy: The policy.
        params: The parameters, [1, *shape] per name.
        own: The observations in the policy's units.
    """
    network = getattr(policy, "network", None)
    if not isinstance(network, MLP) or not isinstance(policy, GaussianPolicy | CategoricalPolicy):
        return map_tensors(lambda t: t.squeeze(0), policy.distribution(params, own.unsqueeze(0)))
    last = len(network.sizes) - 2
    for i in range(last + 1):
        weight, bias = (params[f"{NETWORK}layers.{i}.{n}"].squeeze(0) for n in ("weight", "bias"))
        own = F.linear(own, weight, bias)
        own = own if i == last else ACTIVATIONS[network.activation](own)
    if isinstance(policy, CategoricalPolicy):
        return Categorical(own)
    return Gaussian(own, params["log_std"].clamp(min=math.log(policy.min_std)))


def _observer(units: Units | None) -> Callable[[Tensor], Tensor]:
    """Returns the map of observations [*, O] to the policy's units, with as little as it needs."""
    if units is None or units.observations is None:
        return lambda observations: observations
    scale = units.observations
    if bool((scale.limit < torch.finfo(torch.float32).max).any()):
        low, high = -scale.limit, scale.limit
        return lambda o: torch.minimum(torch.maximum((o - scale.shift) * scale.factor, low), high)
    return lambda o: (o - scale.shift) * scale.factor


def actions_of(
    found: Distribution, noise: Tensor, units: Units | None, bounds: tuple[Tensor, ...]
) -> list[Tensor]:
    """Returns the outputs of a graph "act" for distributions of batch shape [B].

    Args:
        found: The distributions.
        noise: What `Policy.noise` draws, [B, *].
        units: Map the actions to the environment's units; None: they are in these.
        bounds: The bounds of continuous actions in the environment's units, from `bounds_of`.

    Returns:
        The tensors that `act_outputs` names.
    """
    mode, sample = found.mode(), found.sample(noise)
    if isinstance(found, Categorical):
        return [mode, sample, found.logits.log_softmax(-1)]
    if units is not None:
        mode, sample = units.act(mode), units.act(sample)
    low, high = bounds
    action = torch.minimum(torch.maximum(mode, low), high)
    if not isinstance(found, Gaussian):
        return [action, sample]
    std = found.log_std.exp().expand_as(mode)
    if units is not None and units.actions is not None:
        std = std * units.actions.scale
    return [action, sample, std]


def bounds_of(action_space: spaces.Space[Any]) -> tuple[Tensor, ...]:
    """Returns the bounds of actions, [A] float32 each; nothing for discrete actions."""
    if not isinstance(action_space, spaces.Box):
        return ()
    sides = action_space.low, action_space.high
    return tuple(torch.from_numpy(b.astype(np.float32)) for b in sides)


def act_outputs(policy: Policy) -> list[tuple[str, str]]:
    """Returns names and texts of the outputs of a graph "act"."""
    greedy = ("action", "the most likely action, within the bounds, in the environment's units")
    drawn = (
        "sample", "an action drawn with the noise, to explore; store it as it is, and clip it only "
        "for the environment",
    )  # fmt: skip
    if isinstance(policy, CategoricalPolicy):
        return [greedy, drawn, ("log_probs", "log-probabilities of the actions")]
    if hasattr(policy, "parts"):
        return [greedy, drawn]
    return [greedy, drawn, ("std", "standard deviation of the sample")]


def noise_text(policy: Policy) -> str:
    """Describes the noise that a policy's samples are drawn with."""
    if isinstance(policy, CategoricalPolicy):
        return "uniform numbers in [0, 1) for the samples; any number without exploration"
    if hasattr(policy, "parts"):
        return "standard normal where an entry is continuous, else uniform in [0, 1)"
    return "standard normal numbers for the samples; zeros without exploration"
