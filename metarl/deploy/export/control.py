"""The graphs of policies that adapt by gradients: the step on raw rollouts, and the actions."""

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
from metarl.adaptation.inner_loop import inner_loop
from metarl.deploy.export.capture import Graph, Port, free_size, graph_of
from metarl.deploy.export.kinds import Exported, Request, exported
from metarl.deploy.export.notes import control_notes
from metarl.deploy.export.state import flatten, unflatten
from metarl.deploy.export.theta import Start, moved_ports, start_of, theta_of
from metarl.errors import ExportError, SettingsError
from metarl.models.base import Params, task_params
from metarl.models.mlp import ACTIVATIONS, MLP
from metarl.rl.distributions import Categorical, Distribution, Gaussian
from metarl.rl.experience import Experience, estimate_advantages
from metarl.rl.policies import NETWORK, CategoricalPolicy, GaussianPolicy, Policy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.rl.surrogates import SURROGATES
from metarl.rl.units import Units
from metarl.sim.single_env import bounded
from metarl.trees import map_tensors

EPISODES, WORLDS = "episodes", "observations"
"""Names of free sizes."""


@exported.register(PolicyLearner)
def _(learner: PolicyLearner, request: Request) -> Exported:
    """Returns the graphs "act" and "step".

    Raises:
        SettingsError: The horizon is below 1.
        ExportError: The running statistics of the policy's units have not started.
    """
    horizon = learner.family.horizon if request.horizon is None else request.horizon
    if horizon < 1:
        raise SettingsError(f"Expected a horizon of at least 1 step, got {horizon}.")
    start, graphs = control_graphs(learner, horizon, request.generator)
    return Exported("control", start, graphs, control_notes(learner))


def control_graphs(
    learner: PolicyLearner, horizon: int, generator: torch.Generator
) -> tuple[Start, list[Graph]]:
    """Returns the initial theta and state, and the graphs "act" and "step".

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
    size = _observation_size(learner)
    fixed = torch.empty(horizon, horizon + 1, size), torch.empty(learner.policy.action_shape)
    count = free_size([*start.tensors, *fixed])
    return start, [
        _act(learner, start, constants, size, count),
        _step(learner, start, constants, state, (count, horizon, size)),
    ]


def _observation_size(learner: PolicyLearner) -> int:
    family = learner.family
    size = family.observation_space.shape[0]
    if learner.worlds.observe_task:
        tasks = family.sample(1, torch.Generator().manual_seed(0))
        size += family.task_vector(tasks.values).shape[1]
    return size


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
    """Returns the finite bounds of actions, [A] float32 each; nothing for discrete actions."""
    space = bounded(action_space)
    if not isinstance(space, spaces.Box):
        return ()
    return tuple(torch.from_numpy(b.astype(np.float32)) for b in (space.low, space.high))


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


def _step(
    learner: PolicyLearner,
    start: Start,
    constants: Params,
    rule_state: dict[str, Any],
    sizes: tuple[int, int, int],
) -> Graph:
    policy, settings = learner.policy, learner.settings
    surrogate = SURROGATES.get(settings.surrogate)

    def step(*tensors: Tensor) -> list[Tensor]:
        theta, state, raw = start.split(tensors)
        params = {n: t.unsqueeze(0) for n, t in theta.items()}
        batch = experience_of(learner, {**constants, **params}, *raw)

        def support_loss(now: Params, number: int) -> Tensor:
            del number
            found = policy.distribution({**constants, **now}, batch.rollouts.observations)
            log_probs = found.log_prob(batch.rollouts.actions)
            return surrogate(log_probs, batch.advantages, batch.weights, settings, batch.log_probs)

        *_, last = inner_loop(
            support_loss, learner.rule, params, 1, first_order=True,
            state=unflatten(state, rule_state),
            max_grad_norm=learner.adaptation.max_inner_grad_norm,
        )  # fmt: skip
        new_state = flatten(last.state)
        moved = [last.params[n].squeeze(0) for n in theta] + [new_state[n] for n in state]
        counts = (raw[3] > 0).sum().clamp(min=1)
        return [t.detach() for t in (*moved, batch.rollouts.rewards.sum() / counts)]

    outputs = [
        *moved_ports(start),
        ("return", "mean undiscounted return of the episodes of at least one step", {}),
    ]
    return graph_of("step", step, [*start.ports(), *_batch(policy, *sizes)], outputs)


def experience_of(
    learner: PolicyLearner,
    params: Params,
    observations: Tensor,
    actions: Tensor,
    rewards: Tensor,
    lengths: Tensor,
    terminated: Tensor,
) -> Experience:
    """Returns the experience of one task from raw rollouts in the environment's units.

    Args:
        learner: The learner.
        params: The parameters that collected the rollouts, [1, *shape] per name.
        observations: Shape [N, H + 1, O].
        actions: Shape [N, H, A] float32, or [N, H] int64.
        rewards: Shape [N, H].
        lengths: Steps of each episode, [N] int64; 0 for an episode that does not count.
        terminated: Whether the last step of an episode terminated it, [N] bool.
    """
    policy, units = learner.policy, learner.policy.units
    steps = torch.arange(rewards.shape[1])
    mask = steps < lengths[:, None]
    seen = torch.arange(observations.shape[1]) <= lengths[:, None]
    observations = torch.where(seen.unsqueeze(-1), observations, 0.0)
    inside = mask if actions.dim() == 2 else mask.unsqueeze(-1)
    actions = torch.where(inside, actions, torch.zeros_like(actions))
    if units is not None:
        observations = units.observe(observations)
        if units.actions is not None:
            actions = (actions - units.actions.shift) / units.actions.scale
    observations, actions = observations.unsqueeze(0), actions.unsqueeze(0)
    rollouts = Rollouts(
        seen=observations[:, :, :-1],
        actions=actions,
        rewards=torch.where(mask, rewards, 0.0).unsqueeze(0),
        mask=mask.float().unsqueeze(0),
        terminated=(terminated[:, None] & (steps == lengths[:, None] - 1)).unsqueeze(0),
        final_observations=observations[:, :, -1],
        behaviour=policy.distribution(
            {n: p.detach() for n, p in params.items()}, observations[:, :, :-1]
        ),
    )
    return estimate_advantages(rollouts, learner.settings)


def _batch(policy: Policy, episodes: int, horizon: int, size: int) -> list[Port]:
    """Returns the inputs for raw rollouts."""
    generator = torch.Generator().manual_seed(0)
    shape = (episodes, horizon)
    actions = torch.zeros(*shape, *policy.action_shape)
    if isinstance(policy, CategoricalPolicy):
        actions = actions.long()
    free = {0: EPISODES}
    return [
        Port(
            "observations", torch.randn(episodes, horizon + 1, size, generator=generator),
            "before each step, and after the last one of each episode", free,
        ),
        Port("actions", actions, "of the policy, before any clipping", free),
        Port("rewards", torch.randn(*shape, generator=generator), "of each step", free),
        Port(
            "lengths", torch.full((episodes,), horizon), "steps of each episode; what follows in "
            "the row is ignored; 0: the episode does not count", free,
        ),
        Port(
            "terminated", torch.zeros(episodes, dtype=torch.bool), "whether the last step of the "
            "episode terminated it, and no time limit", free,
        ),
    ]  # fmt: skip
