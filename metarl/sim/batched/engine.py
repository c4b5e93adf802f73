"""The batched engine: runs the worlds of a simulator that steps all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, SimulationError
from metarl.registry import did_you_mean
from metarl.sim.batched.tasks import VectorEnvTasks
from metarl.sim.family import WorldState
from metarl.sim.gymnasium.family import seeds
from metarl.sim.vector_env import TensorVectorEnv


class BatchedVectorEnv(TensorVectorEnv):
    """The first W of the N worlds of a simulator; see `VectorEnvTasks`.

    The other worlds idle: they have the tasks and the actions of the first ones. All worlds are
    reset together, with one seed, so an episode depends on the number of worlds. Several vector
    environments can share the simulator if they play one after another.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W, at most N.
        autoreset: "disabled": worlds stay as their episodes ended until all are reset.
        **settings: See the arguments of `TensorVectorEnv`.

    Raises:
        SettingsError: There are more worlds than the simulator has, or a setting is invalid.
    """

    family: VectorEnvTasks

    def __init__(
        self, family: VectorEnvTasks, num_envs: int, *, autoreset: Any = "disabled", **settings: Any
    ) -> None:
        if not isinstance(family, VectorEnvTasks):
            raise SettingsError(
                f"Expected a VectorEnvTasks, got {type(family).__name__}: the batched engine needs "
                "a simulator of many worlds."
            )
        super().__init__(family, num_envs, autoreset=autoreset, **settings)
        if self._autoreset != "disabled":
            raise SettingsError(
                f'Expected autoreset="disabled" for {family.name}, whose worlds are reset '
                f'together, got "{self._autoreset}".'
            )
        if num_envs > family.worlds:
            raise SettingsError(
                f"Expected at most {family.worlds} worlds of {family.name}, as many as its "
                f"simulator has, got {num_envs}: build it with more."
            )
        self._simulator = family.simulator
        # The worlds that do not count repeat the first ones.
        self._source = torch.arange(family.worlds, device=self.device) % num_envs
        space, self._bounds = family.action_space, None
        if isinstance(space, spaces.Box):
            bounds = (space.low, space.high)
            self._bounds = tuple(torch.from_numpy(b).to(self.device) for b in bounds)

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """Resets all worlds with their tasks and the seed of the first world.

        Raises:
            SettingsError: The mask leaves worlds out.
            SimulationError: The simulator raises, or returns values that do not fit its spaces.
        """
        if mask is not None and not mask.all():
            raise SettingsError(
                f"The worlds of {self.family.name} are reset together: leave `reset_mask` out."
            )
        self._simulator.user = self
        self._steps = 0
        self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        tasks = {name: values[self._source] for name, values in self._tasks.items()}
        observation = self._simulator.reset(
            int(seeds(noise[:1])[0]), self.family.env_values(tasks), self.family.set_tasks
        )
        return self._own(self.family.first_state(observation))

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """Steps all worlds, unless all episodes are over; raises the errors of `start`."""
        if self._simulator.user is not self:
            raise SimulationError(
                f"Another environment has reset the simulator of {self.family.name}, which exists "
                "once: play its episodes one after another."
            )
        if self._over.all():
            return self._state
        if self._bounds is not None:
            low, high = self._bounds
            actions = actions.nan_to_num(0).clamp(low, high)  # `check` reports actions of NaN
        before = self._state["observation"][self._source]
        state = self._own(self._simulator.step(actions[self._source], before))
        self._over |= state["terminated"] | state["truncated"]
        self._steps += 1
        if self._simulator.unmeasured and (self._steps == self.family.horizon or self._over.all()):
            raise self._missing_metric(self._simulator.unmeasured[0])
        return state

    @property
    def reported(self) -> tuple[Any, ...]:
        """Names in `info` and `final_info` of the last step."""
        return self._simulator.reported

    def state_dict(self) -> dict[str, Any]:
        """Raises SettingsError: the simulator keeps the state of its worlds."""
        raise SettingsError(
            f"The simulator of {self.family.name} keeps the state of its worlds, which cannot be "
            "saved."
        )

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Raises SettingsError, as `state_dict`."""
        del values
        self.state_dict()

    def _missing_metric(self, name: str) -> SimulationError:
        """Returns the error of a metric that no step of the episodes has reported."""
        names = list(map(str, self.reported))
        return SimulationError(
            f"Expected numbers {name!r} in `info` of a step of each episode of {self.family.name}, "
            f"for the metric of that name.{did_you_mean(name, names)} Its last step has "
            f"{', '.join(names) or 'nothing'}."
        )

    def _own(self, state: WorldState) -> WorldState:
        """Returns the rows of the W worlds, on the device of this environment."""
        return {name: values[: self.num_envs].to(self.device) for name, values in state.items()}
