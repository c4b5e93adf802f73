"""What lies between a policy and the dynamics of its worlds: late actions and noisy sensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.cuda_graphs import is_capturing
from metarl.errors import TaskError
from metarl.sim.family import TaskFamily, Tasks, normal


class Disturbances:
    """The late actions and the sensor noise of W worlds; never waits for the device.

    An action that is n steps late reaches the dynamics n steps after the policy chose it. Before
    the first one arrives, worlds receive the `idle_action` of the family. Sensor noise is normal
    and drawn again for each observation; noisy observations are clipped to the observation space.

    Rewards and terminations are computed from the true states and the actions as they were chosen.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        device: The device of the tensors.
    """

    def __init__(self, family: TaskFamily, num_envs: int, device: torch.device) -> None:
        self._family = family
        self._latency: Tensor | None = None
        self._deviation: Tensor | None = None
        steps, idle = family.longest_latency, torch.from_numpy(family.idle_action)
        self._idle = idle.to(device).expand(steps + 1, num_envs, *idle.shape)
        self._late = self._idle  # the newest action first
        self._worlds = torch.arange(num_envs, device=device)
        seen = family.observation_space
        self._bounds = [torch.from_numpy(bound).to(device) for bound in (seen.low, seen.high)]
        self._size = seen.shape[0]
        drawn = self._size if family.noisy_sensors else 0
        self._numbers = torch.zeros(num_envs, drawn, device=device)

    def set_tasks(self, tasks: Tasks) -> None:
        """Sets the task of each world, [W, *] per name, with immediate effect.

        Raises:
            TaskError: Actions of a task are late by more steps than those of any task of the
                family, or by less than 0.
        """
        family, most = self._family, self._family.longest_latency
        if most:
            late = family.latency(tasks)
            if not is_capturing() and not bool(((late >= 0) & (late <= most)).all()):
                raise TaskError(
                    f"Expected actions that are late by 0 to {most} steps, as in all tasks of "
                    f"{family.name}, got {late.tolist()[:6]}: give the family a longer latency."
                )
            self._latency = late
        if family.noisy_sensors:
            self._deviation = family.sensor_deviation(tasks)

    def begin(self, mask: Tensor | None, noise: Tensor) -> None:
        """Starts episodes.

        Args:
            mask: The worlds that were reset, [W] bool; None for all.
            noise: The uniform numbers of the reset, [W, reset_noise]; the last O are the sensors'.
        """
        if self._latency is not None:
            own = torch.ones_like(self._worlds, dtype=torch.bool) if mask is None else mask
            own = own.view(1, -1, *[1] * (self._late.dim() - 2))
            self._late = torch.where(own, self._idle, self._late)
        if self._deviation is not None:
            numbers = self._own(noise)
            if mask is not None:
                numbers = torch.where(mask.unsqueeze(1), numbers, self._numbers)
            self._numbers = numbers

    def step(self, actions: Tensor, noise: Tensor) -> Tensor:
        """Returns the actions that reach the dynamics in this step, [W, A] or [W].

        Args:
            actions: The actions that the policy has chosen, [W, A] or [W].
            noise: The uniform numbers of the step, [W, step_noise]; the last O are the sensors'.
        """
        if self._deviation is not None:
            self._numbers = self._own(noise)
        if self._latency is None:
            return actions
        self._late = torch.cat((actions.unsqueeze(0), self._late[:-1]))
        return self._late[self._latency, self._worlds]

    def seen(self, observation: Tensor) -> Tensor:
        """Returns observations [W, O] with the noise of the sensors."""
        if self._deviation is None:
            return observation
        # o' = o + s z, with z ~ N(0, 1); the noise leads no further out of the bounds
        noisy = observation + self._deviation * normal(self._numbers)
        low, high = self._bounds
        return noisy.clamp(torch.minimum(low, observation), torch.maximum(high, observation))

    def tensors(self) -> dict[str, Tensor | None]:
        """Returns the tensors that `step` and `seen` read and replace, not copied."""
        return {
            "late": self._late, "numbers": self._numbers, "latency": self._latency,
            "deviation": self._deviation,
        }  # fmt: skip

    def use(self, tensors: dict[str, Tensor | None]) -> None:
        """Makes `step` and `seen` read these tensors, in the form of `tensors`."""
        late, numbers, self._latency, self._deviation = tensors.values()
        assert late is not None and numbers is not None
        self._late, self._numbers = late, numbers

    def state_dict(self) -> dict[str, Any]:
        """Returns all values that the next steps depend on."""
        return {"late": self._late, "numbers": self._numbers}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; states of MetaRL 0.1 have nothing."""
        if values:
            self._late = values["late"].to(self._late.device, copy=True)
            self._numbers = values["numbers"].to(self._numbers.device, copy=True)

    def _own(self, noise: Tensor) -> Tensor:
        return noise[:, -self._size :]
