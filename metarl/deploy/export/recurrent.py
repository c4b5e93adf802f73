"""The graph of recurrent policies, which adapt by acting: state in, state out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.deploy.export.capture import Graph, Port, graph_of
from metarl.deploy.export.control import act_outputs, actions_of, bounds_of, noise_text
from metarl.deploy.export.kinds import Exported, Request, exported
from metarl.deploy.export.notes import recurrent_notes
from metarl.deploy.export.state import Flat, nested_tensors
from metarl.deploy.export.theta import NEW, Start, start_of
from metarl.errors import ExportError, SettingsError
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.proximal_learner import ProximalLearner
from metarl.rl.trials.trial_policy import TrialPolicy
from metarl.trees import map_tensors

HIDDEN = "hidden"


@exported.register(ProximalLearner)
def _(learner: ProximalLearner, request: Request) -> Exported:
    """Returns the graph "act".

    Raises:
        SettingsError: The request has a horizon.
        ExportError: The running statistics of the policy's units have not started.
    """
    if request.horizon is not None:
        raise SettingsError("`horizon` belongs to adaptation steps; a recurrent policy has none.")
    start, graphs = recurrent_graphs(learner)
    return Exported("recurrent", start, graphs, recurrent_notes(learner))


def recurrent_graphs(learner: ProximalLearner) -> tuple[Start, list[Graph]]:
    """Returns the state at the start of a trial, and the graph "act"; the weights are inside.

    Args:
        learner: The learner, on the CPU.

    Raises:
        ExportError: The running statistics of the policy's units have not started.
    """
    policy = learner.policy
    if policy.units is not None and not policy.units.started:
        raise ExportError(
            "Expected a trained policy, the running statistics of this one have no values yet: "
            "train it for an iteration first."
        )
    begun = policy.begin({"world": torch.zeros(1)})
    start = start_of({}, {n: t[0] for n, t in _named(begun).items()})
    return start, [_act(learner, start, begun)]


def _named(state: Any) -> Flat:
    """Returns the state of a memory by names, [1, *] each."""
    return nested_tensors(state, HIDDEN if isinstance(state, Tensor) else "")


def _advanced(policy: TrialPolicy, given: AgentInput, state: Any) -> tuple[Tensor, Any]:
    """Returns the features and the next state; reads no value of a tensor in Python."""
    inputs, attention = policy.encode(given), policy.attention
    embedded = policy.history.embed(inputs)
    if attention is None:
        remembered, state = policy.history.memory.step(embedded, state)
    else:
        remembered, state = attention.advance(embedded, state, attention.steps)
    return policy.features(inputs, remembered), state


def _act(learner: ProximalLearner, start: Start, begun: Any) -> Graph:
    policy = learner.policy
    head, bounds = policy.head, bounds_of(learner.family.action_space)

    def act(*tensors: Tensor) -> list[Tensor]:
        rows = iter([t.unsqueeze(0) for t in tensors])
        state = map_tensors(lambda _: next(rows), begun)
        observation, action, reward, ended, started, noise = rows
        if policy.units is not None and policy.units.actions is not None:
            # The policy remembers the actions in its own units.
            action = (action - policy.units.actions.shift) / policy.units.actions.scale
            action = action * started.unsqueeze(1)
        given = AgentInput(observation, action, reward, ended, started)
        features, state = _advanced(policy, given, state)
        outputs = actions_of(policy.distribution(features), noise, policy.units, bounds)
        return [t.squeeze(0).detach() for t in (*outputs, *_named(state).values())]

    free: dict[int, str] = {}
    outputs = [(n, text, free) for n, text in act_outputs(head)]
    outputs += [(NEW + n, "the next state", free) for n in start.named()]
    ports = [*start.ports("state of the memory"), *_inputs(policy)]
    calls = 10 if policy.attention is None else policy.attention.steps
    return graph_of("act", act, ports, outputs, calls=calls)


def _inputs(policy: TrialPolicy) -> list[Port]:
    """Returns the inputs of a step besides the state."""
    number = torch.zeros(())
    action = torch.zeros(policy.head.action_shape)
    if policy.num_actions:
        action = action.long()
    noise = policy.noise((), torch.Generator().manual_seed(0))
    return [
        Port("observation", torch.zeros(policy.observation_size), "in the environment's units"),
        Port("previous_action", action, "as `sample` or `action` gave it; 0 at the first step"),
        Port("previous_reward", number, "its reward; 0 at the first step of the trial"),
        Port("ended", number, "1 if that action was the last of an episode, else 0"),
        Port("begun", number, "0 at the first step of the trial, else 1"),
        Port("noise", noise, noise_text(policy.head)),
    ]
