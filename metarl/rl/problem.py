"""What algorithms for control tasks are built for: a family, and the shape of the policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from gymnasium import spaces

from metarl.adaptation.adaptation import Adaptation
from metarl.errors import SettingsError
from metarl.models.modules import network_file
from metarl.rl.control_learner import ControlLearner
from metarl.rl.policies import Policy, policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.sim.family import ActionSpace, TaskFamily
from metarl.sim.make import make_vec


@dataclass(frozen=True)
class ControlProblem:
    """A family of control tasks, and what a learner for it needs to know.

    Attributes:
        family: The family.
        generator: Source of all initial weights.
        gradients: Rollouts per task and step, and the loss that they give.
        hidden: Widths of the policy's hidden layers.
        init_std: Initial standard deviation of continuous actions, in the policy's units, above 0.
        observe_task: Whether the policy observes the task vector (an oracle).
        task_chunk_size: Tasks whose rollouts are collected at once. None: all.
        policy: Further options of the policy: its network and its units.
    """

    family: TaskFamily
    generator: torch.Generator
    gradients: PolicyGradientSettings
    hidden: tuple[int, ...] = (100, 100)
    init_std: float = 1.0
    observe_task: bool = False
    task_chunk_size: int | None = None
    policy: PolicySettings = field(default_factory=PolicySettings)

    def spaces(self) -> tuple[spaces.Box, ActionSpace]:
        """Returns the observation space and the action space of the policy."""
        env = make_vec(self.family, 1, "cpu", observe_task=self.observe_task)
        observation_space = env.single_observation_space
        assert isinstance(observation_space, spaces.Box)
        return observation_space, self.family.action_space

    def network(self) -> Policy:
        """Builds the policy."""
        options = self.policy
        scale_actions, normalize_observations = self.units()
        return policy_for(
            self.spaces(), self.generator, self.hidden, options.activation, self.init_std,
            layer_norm=options.layer_norm, cnn=options.cnn, scale_actions=scale_actions,
            normalize_observations=normalize_observations,
            network=None if options.network is None else network_file(options.network),
        )  # fmt: skip

    def units(self) -> tuple[bool, bool]:
        """Returns whether the policy scales actions, and whether it normalises observations."""
        own, options = not self.family.published_units, self.policy
        actions, observations = options.scale_actions, options.normalize_observations
        return own if actions is None else actions, own if observations is None else observations

    def own_policy(self) -> PolicySettings:
        """Returns the options of a policy with a memory, with its units filled in.

        Raises:
            SettingsError: A network of the user's is to replace the policy's layers.
        """
        if self.policy.network is not None:
            raise SettingsError(
                "Policies with a memory build their own layers: leave out --policy.network, got "
                f"{self.policy.network}."
            )
        actions, observations = self.units()
        return replace(self.policy, scale_actions=actions, normalize_observations=observations)

    def learner(self, adaptation: Adaptation) -> PolicyLearner:
        """Builds the learner of an adaptation of the policy."""
        return PolicyLearner(
            adaptation, self.family, self.gradients,
            task_chunk_size=self.task_chunk_size, observe_task=self.observe_task,
        )  # fmt: skip


@runtime_checkable
class ControlAlgorithm(Protocol):
    """Interface of the options of an algorithm for control tasks: a frozen dataclass.

    A class attribute `unused`, a tuple of names such as "update" or "gradients.discount", may name
    the settings of an experiment that have no effect: its command line refuses them.
    """

    def build(self, problem: ControlProblem, /) -> ControlLearner:
        """Builds the learner of a problem.

        Raises:
            SettingsError: The algorithm does not suit the problem.
        """
        ...
