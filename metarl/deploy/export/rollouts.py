"""The graphs of policies on raw rollouts: adaptation steps, and log-probabilities of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.inner_loop import inner_loop
from metarl.deploy.export.capture import Fitting, Graph, Port, graph_of
from metarl.deploy.export.state import Flat, flatten, unflatten
from metarl.deploy.export.theta import Start, for_rule, moved_ports
from metarl.models.base import Params
from metarl.rl.experience import Experience, estimate_advantages
from metarl.rl.policies import CategoricalPolicy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.rl.surrogates import SURROGATES

FREE = {0: "episodes"}
"""The free dimension of rollouts."""
RETURN = ("return", "mean undiscounted return of the episodes of at least one step", {})


@dataclass(frozen=True)
class ControlParts:
    """What the graphs of a policy compute with.

    Attributes:
        learner: The learner.
        start: The initial theta and state.
        constants: Parameters that do not adapt, [1, *shape] per name.
        rule_state: The state of the update rule for one task, which gives the structure.
        sizes: Episodes N of the examples, steps H of an episode and entries O of an observation.
    """

    learner: PolicyLearner
    start: Start
    constants: Params
    rule_state: dict[str, Any]
    sizes: tuple[int, int, int]

    def params(self, theta: Flat) -> Params:
        """Returns all parameters of one task."""
        return {**self.constants, **{n: t.unsqueeze(0) for n, t in theta.items()}}

    @property
    def change(self) -> Tensor:
        """The number log |da / da'| for actions a of the environment and a' of the policy, []."""
        units = self.learner.policy.units
        if units is None or units.actions is None:
            return torch.zeros(())
        return units.actions.scale.log().sum()


def step(parts: ControlParts) -> Graph:
    """Returns the graph of a step on rollouts that the given theta collected."""

    def function(*tensors: Tensor) -> list[Tensor]:
        theta, state, raw = parts.start.split(tensors)
        batch = experience_of(parts.learner, parts.params(theta), *raw)
        return _moved(parts, theta, state, batch)

    ports = [*parts.start.ports(), *_batch(parts)]
    outputs = [*moved_ports(parts.start), RETURN]
    graph = graph_of("step", function, ports, outputs, fit=_sampled(parts))
    return for_rule(graph, parts.learner.rule)


def log_probs(parts: ControlParts) -> Graph:
    """Returns the graph of the log-densities of actions in the environment's units."""
    names = list(parts.start.theta)

    def function(*tensors: Tensor) -> list[Tensor]:
        theta = dict(zip(names, tensors[: len(names)], strict=True))
        observations, actions, lengths = tensors[len(names) :]
        seen, own, mask = _own_units(parts.learner, observations, actions, lengths)
        found = parts.learner.policy.distribution(parts.params(theta), seen[:, :, :-1])
        # log p(a) = log p(a') - log |da / da'|
        rows = found.log_prob(own)[0] - parts.change
        return [torch.where(mask, rows, 0.0)]

    taken = [p for p in _batch(parts) if p.name in ("observations", "actions", "lengths")]
    ports = [*parts.start.ports()[: len(names)], *taken]
    text = "log-density of each action in the environment's units, or its log-probability"
    return graph_of("log_probs", function, ports, [("log_probs", text, FREE)])


def log_step(parts: ControlParts) -> Graph:
    """Returns the graph of a step on weighed rollouts, which another policy may have collected."""

    def function(*tensors: Tensor) -> list[Tensor]:
        theta, state, raw = parts.start.split(tensors)
        *raw, cut, old, weights, scale = raw
        batch = experience_of(parts.learner, parts.params(theta), *raw, cut=cut)
        mask = batch.rollouts.mask
        # c_t = scale w_t / sum_t w_t
        shares = torch.where(mask > 0, weights, 0.0)
        shares = scale * shares / shares.sum((1, 2), keepdim=True)
        old = torch.where(mask > 0, old + parts.change, 0.0)
        return _moved(parts, theta, state, batch._replace(weights=shares, log_probs=old))

    ports = [*parts.start.ports(), *_batch(parts), *_weights(parts)]
    outputs = [*moved_ports(parts.start), RETURN]
    graph = graph_of("log_step", function, ports, outputs, fit=_sampled(parts))
    return for_rule(graph, parts.learner.rule)


def _sampled(parts: ControlParts) -> Fitting:
    """Returns a function that draws the actions of rollouts from the policy of their theta.

    On actions of nobody, repeated steps may diverge.
    """
    policy = parts.learner.policy

    @torch.no_grad()
    def fit(inputs: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        theta, _, (observations, _, *rest) = parts.start.split(inputs)
        seen = observations[:, :-1]
        seen = seen if policy.units is None else policy.units.observe(seen)
        found = policy.distribution(parts.params(theta), seen.unsqueeze(0))
        own = found.sample(policy.noise((1, *seen.shape[:2]), generator))[0]
        actions = own if policy.units is None else policy.units.act(own)
        return [*inputs[: -len(rest) - 2], observations, actions, *rest]

    return fit


def _moved(parts: ControlParts, theta: Flat, state: Flat, batch: Experience) -> list[Tensor]:
    """Returns theta and state after a step on an experience, and the mean return."""
    learner = parts.learner
    surrogate, rollouts = SURROGATES.get(learner.settings.surrogate), batch.rollouts

    def support_loss(now: Params, number: int) -> Tensor:
        del number
        found = learner.policy.distribution({**parts.constants, **now}, rollouts.observations)
        log_prob = found.log_prob(rollouts.actions)
        old = batch.log_probs
        return surrogate(log_prob, batch.advantages, batch.weights, learner.settings, old)

    *_, last = inner_loop(
        support_loss, learner.rule, {n: t.unsqueeze(0) for n, t in theta.items()}, 1,
        first_order=True, state=unflatten(state, parts.rule_state),
        max_grad_norm=learner.adaptation.max_inner_grad_norm,
    )  # fmt: skip
    new_state = flatten(last.state)
    moved = [last.params[n].squeeze(0) for n in theta] + [new_state[n] for n in state]
    counts = (rollouts.mask.sum(2) > 0).sum().clamp(min=1)
    return [t.detach() for t in (*moved, rollouts.rewards.sum() / counts)]


def experience_of(
    learner: PolicyLearner,
    params: Params,
    observations: Tensor,
    actions: Tensor,
    rewards: Tensor,
    lengths: Tensor,
    terminated: Tensor,
    cut: Tensor | None = None,
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
        cut: Whether an episode continues after its last step, [N] bool; None: none does.
    """
    seen, own, mask = _own_units(learner, observations, actions, lengths)
    last = torch.arange(rewards.shape[1]) == lengths[:, None] - 1
    behaviour = learner.policy.distribution(
        {n: p.detach() for n, p in params.items()}, seen[:, :, :-1]
    )
    rollouts = Rollouts(
        seen=seen[:, :, :-1],
        actions=own,
        rewards=torch.where(mask, rewards, 0.0).unsqueeze(0),
        mask=mask.float().unsqueeze(0),
        terminated=(terminated[:, None] & last).unsqueeze(0),
        final_observations=seen[:, :, -1],
        behaviour=behaviour,
    )
    return estimate_advantages(
        rollouts, learner.settings, None if cut is None else cut.unsqueeze(0)
    )


def _own_units(
    learner: PolicyLearner, observations: Tensor, actions: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns observations and actions in the policy's units, and which steps there are.

    Returns:
        Observations [1, N, H + 1, O] and actions [1, N, H, *], 0 after the end of an episode, and
        the steps of the episodes, [N, H] bool.
    """
    units = learner.policy.units
    mask = torch.arange(actions.shape[1]) < lengths[:, None]
    seen = torch.arange(observations.shape[1]) <= lengths[:, None]
    observations = torch.where(seen.unsqueeze(-1), observations, 0.0)
    inside = mask if actions.dim() == 2 else mask.unsqueeze(-1)
    actions = torch.where(inside, actions, torch.zeros_like(actions))
    if units is not None:
        observations = units.observe(observations)
        if units.actions is not None:
            actions = (actions - units.actions.shift) / units.actions.scale
    return observations.unsqueeze(0), actions.unsqueeze(0), mask


def _batch(parts: ControlParts) -> Sequence[Port]:
    """Returns the inputs for raw rollouts."""
    policy, (episodes, horizon, size) = parts.learner.policy, parts.sizes
    generator = torch.Generator().manual_seed(0)
    shape = (episodes, horizon)
    actions = torch.zeros(*shape, *policy.action_shape)
    if isinstance(policy, CategoricalPolicy):
        actions = actions.long()
    return [
        Port(
            "observations", torch.randn(episodes, horizon + 1, size, generator=generator),
            "before each step, and after the last one of each episode", FREE,
        ),
        Port("actions", actions, "of the policy, before any clipping", FREE),
        Port("rewards", torch.randn(*shape, generator=generator), "of each step", FREE),
        Port(
            "lengths", torch.full((episodes,), horizon), "steps of each episode; what follows in "
            "the row is ignored; 0: the episode does not count", FREE,
        ),
        Port(
            "terminated", torch.zeros(episodes, dtype=torch.bool), "whether the last step of the "
            "episode terminated it, and no time limit", FREE,
        ),
    ]  # fmt: skip


def _weights(parts: ControlParts) -> Sequence[Port]:
    """Returns the further inputs for rollouts that are weighed."""
    shape = parts.sizes[:2]
    return [
        Port(
            "cut", torch.zeros(shape[0], dtype=torch.bool), "whether the episode continues after "
            "its last step, as the log ends before it does", FREE,
        ),
        Port(
            "log_probs", torch.zeros(shape), "log-density of each action in the environment's "
            "units under the theta of the first step on these rollouts; see the graph log_probs",
            FREE,
        ),
        Port(
            "weights", torch.ones(shape), "weight of each step: how much likelier that theta "
            "takes its action than who took it, up to a factor of all; 0: it does not count", FREE,
        ),
        Port("scale", torch.ones(()), "factor on the loss; 1: as in training"),
    ]  # fmt: skip
