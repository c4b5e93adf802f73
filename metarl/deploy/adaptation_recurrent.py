"""The graph of recurrent policies, which adapt by acting: state in, state out."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.deploy.adaptation_capture import Graph, Port, graph_of
from metarl.deploy.adaptation_control import act_outputs, actions_of, bounds_of, noise_text
from metarl.deploy.adaptation_kinds import Exported, Request, exported
from metarl.deploy.adaptation_notes import recurrent_notes
from metarl.deploy.adaptation_theta import NEW, STATE, Start
from metarl.errors import ExportError, SettingsError
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.proximal_learner import ProximalLearner
from metarl.rl.trials.trial_policy import TrialPolicy

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
    if policy.gru is None:
        raise ExportError(
            "Expected a recurrent policy whose memory is a GRU; the graph of attention would grow "
            "with the trial. Train with the option `memory` gru, or open the run by `metarl.load`."
        )
    hidden = torch.zeros(policy.gru.hidden_size)
    start = Start({}, {HIDDEN: hidden})
    return start, [_act(learner, start)]


def _act(learner: ProximalLearner, start: Start) -> Graph:
    policy = learner.policy
    head, bounds = policy.head, bounds_of(learner.family.action_space)

    def act(*tensors: Tensor) -> list[Tensor]:
        hidden, observation, action, reward, ended, begun, noise = (t.unsqueeze(0) for t in tensors)
        if policy.units is not None and policy.units.actions is not None:
            # The policy remembers the actions in its own units.
            action = (action - policy.units.actions.shift) / policy.units.actions.scale
            action = action * begun.unsqueeze(1)
        own = AgentInput(observation, action, reward, ended, begun)
        step = policy.act(hidden, own, noise)
        state = step.state
        outputs = actions_of(step.record.behaviour, noise, policy.units, bounds)
        return [*(t.squeeze(0).detach() for t in outputs), state.squeeze(0).detach()]

    free: dict[int, str] = {}
    outputs = [(n, text, free) for n, text in act_outputs(head)]
    name = NEW + STATE + HIDDEN
    return graph_of(
        "act", act, [*start.ports(), *_inputs(policy)], [*outputs, (name, "the next state", free)]
    )


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
