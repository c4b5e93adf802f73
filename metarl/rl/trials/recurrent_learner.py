"""RL^2: trains a recurrent policy by PPO on whole trials of several episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from metarl.models.described import described
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.proximal_learner import ProximalLearner, Reading, RecurrentInputs
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.rl.trials.trial_settings import TrialSettings
from metarl.sim.family import TaskFamily


@described
@dataclass(frozen=True)
class RL2Algorithm(TrialSettings):
    """RL^2 (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763)."""

    in_older_runs: ClassVar[Mapping[str, Any]] = {
        "layer_norm": False, "separate_values": False, "value_loss": "squared",
        "value_targets": "returns",
    }  # fmt: skip
    """Values of settings that runs of older versions have not saved."""

    separate_values: bool = False
    """The values have a separate network, as large as the policy's."""

    def build(self, problem: ControlProblem, /) -> RecurrentLearner:
        """Builds the recurrent policy and its learner; see `ControlAlgorithm.build`."""
        policy = RecurrentPolicy(
            *problem.spaces(), problem.generator,
            self.units, self.embedding, problem.hidden, problem.init_std,
            problem.own_policy(), self.memory_of(problem), self.separate_values,
        )  # fmt: skip
        return RecurrentLearner(
            policy, problem.family, self, problem.gradients,
            task_chunk_size=problem.task_chunk_size, observe_task=problem.observe_task,
        )  # fmt: skip


class RecurrentLearner(ProximalLearner):
    """Trains a recurrent policy by PPO over whole trials (Duan et al. 2016; Wang et al. 2016).

    The value function is linear in the policy's state, or has a separate network.

    Args:
        policy: The policy, built for the observations of the family.
        family: The family of the tasks.
        settings: See `RL2Algorithm`.
        gradients: See `ProximalLearner`.
        task_chunk_size: Number of tasks whose trials are played at once. None: all.
        observe_task: Appends the task to the observations (the oracle).

    Raises:
        SettingsError: `gradients` has a setting that this learner does not use.
    """

    policy: RecurrentPolicy

    def __init__(
        self,
        policy: RecurrentPolicy,
        family: TaskFamily,
        settings: RL2Algorithm | None = None,
        gradients: PolicyGradientSettings | None = None,
        *,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        super().__init__(
            policy, family, settings or RL2Algorithm(), gradients,
            task_chunk_size=task_chunk_size, observe_task=observe_task,
        )  # fmt: skip

    def read(self, inputs: RecurrentInputs) -> Reading:
        return Reading(self.policy.unroll(inputs.trials.record.inputs))
