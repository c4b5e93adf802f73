"""Checks values for NaN, infinity and range in batches, to avoid a device sync per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.cuda_graphs import is_capturing
from metarl.errors import SimulationError
from metarl.sim.episode import Episode, as_bytes
from metarl.sim.family import ActionSpace, Tasks

MOST_STEPS = 256  # bounds the memory of the recorded steps


class _Step(NamedTuple):
    elapsed: Tensor  # number of steps of each episode before this one, [W]
    tasks: Tasks
    actions: Tensor
    observation: Tensor  # after the step
    reward: Tensor


class _Reset(NamedTuple):
    tasks: Tasks
    observation: Tensor


class StepValidator:
    """Records the tensors of resets and steps, and checks all of them at once.

    Recording appends to a list and runs no operation on the device.

    Args:
        space: The action space of one world.
        horizon: The number of steps of an episode. After `horizon` or 256 recorded steps, whichever
            is less, `check` is called automatically.
        diagnosis: Returns a sentence that is appended to the error message, or "".
        images: Whether observations are images of bytes, which are recorded as such.

    Attributes:
        suspicion: Whether a value may be invalid of those that were checked while operations were
            captured, by `check` since `clear` or by the last `check_episode`; a bool tensor, or
            None.
    """

    suspicion: Tensor | None = None

    def __init__(
        self,
        space: ActionSpace,
        horizon: int,
        diagnosis: Callable[[], str] = str,
        images: bool = False,
    ) -> None:
        self._images = images
        self._space = space
        self._diagnosis = diagnosis
        self._max_recorded = min(horizon, MOST_STEPS)
        self.clear()

    def clear(self) -> None:
        """Discards all recorded resets and steps, and the suspicion."""
        self._steps: list[_Step] = []
        self._resets: list[_Reset] = []
        self.suspicion = None

    def record_reset(self, tasks: Tasks, observation: Tensor) -> None:
        """Records the observations after a reset, [W, O], and checks when there are many."""
        if len(self._resets) > self._max_recorded:
            self.check()
        self._resets.append(_Reset(tasks, self._kept(observation)))

    def record_step(
        self, elapsed: Tensor, tasks: Tasks, actions: Tensor, observation: Tensor, reward: Tensor
    ) -> None:
        """Records one step, and checks when there are many.

        Args:
            elapsed: The number of steps of each world's episode before this one, [W].
            tasks: The task of each world.
            actions: The actions of the policy, [W, A] or [W].
            observation: The observations after the step, [W, O].
            reward: The rewards, [W].
        """
        if len(self._steps) >= self._max_recorded:
            self.check()
        self._steps.append(_Step(elapsed, tasks, actions, self._kept(observation), reward))

    def check(self) -> None:
        """Checks all recorded values, and discards them.

        While operations are captured, it only computes `suspicion`.

        Raises:
            SimulationError: A value was not finite or an action not in the space.
        """
        resets, steps, earlier = self._resets, self._steps, self.suspicion
        self.clear()
        if not resets and not steps:
            self.suspicion = earlier
            return
        observations = torch.stack([s.observation for s in (*resets, *steps)])
        actions = torch.stack([s.actions for s in steps]) if steps else None
        rewards = torch.stack([s.reward for s in steps]) if steps else None
        suspicious = self._suspicion(observations, actions, rewards)
        if is_capturing():
            self.suspicion = suspicious if earlier is None else earlier | suspicious
            return
        if suspicious:
            self._check_resets(resets)
            self._check_steps(steps)

    def check_episode(self, tasks: Tasks, episode: Episode) -> None:
        """Checks all recorded values, and one episode of each world up to its end.

        While operations are captured, it only computes `suspicion`.

        Args:
            tasks: The task of each world.
            episode: The episodes since the last reset.

        Raises:
            SimulationError: A value was not finite or an action not in the space.
        """
        self.suspicion = None
        if is_capturing():
            self.clear()  # the reset's observation is the episode's first
            self.suspicion = self._suspicion(*episode[:3])
            return
        self.check()
        if not self._suspicion(*episode[:3]):
            return
        over = episode.over()
        mask = over.view(*over.shape, *[1] * (episode.actions.dim() - 2))
        actions = episode.actions.masked_fill(mask, 0)
        steps = zip(
            actions.unbind(1), episode.observations[:, 1:].unbind(1), episode.rewards.unbind(1),
            strict=True,
        )  # fmt: skip
        elapsed = torch.zeros(len(over), dtype=torch.int64)
        self._check_steps([_Step(elapsed + n, tasks, *step) for n, step in enumerate(steps)])

    def _kept(self, observation: Tensor) -> Tensor:
        return as_bytes(observation) if self._images else observation

    def _suspicion(
        self, observations: Tensor, actions: Tensor | None, rewards: Tensor | None
    ) -> Tensor:
        """Returns whether a value may be invalid, a bool tensor.

        This takes a tenth of the time of the exact check. A non-finite value makes the sum of all
        values non-finite. So does an overflow of the sum, which is not an error.
        """
        suspicious = ~observations.sum().isfinite()
        if actions is not None and rewards is not None:
            suspicious = suspicious | ~(rewards.sum() + actions.sum()).isfinite()
            if isinstance(self._space, spaces.Discrete):
                least, most = actions.aminmax()
                suspicious = suspicious | (least < 0) | (most >= int(self._space.n))
        return suspicious

    def _check_resets(self, resets: list[_Reset]) -> None:
        if not resets:
            return
        invalid = _not_finite([r.observation for r in resets])
        if invalid.any():
            index, world = (int(i) for i in invalid.nonzero()[0])
            reset = resets[index]
            self._raise_error("observation", reset.observation, world, "after a reset", reset.tasks)

    def _check_steps(self, steps: list[_Step]) -> None:
        if not steps:
            return
        # Cause before effect: an invalid action causes an invalid observation and reward.
        invalid = torch.stack(
            [
                self._outside([s.actions for s in steps]),
                _not_finite([s.observation for s in steps]),
                _not_finite([s.reward for s in steps]),
            ],
            dim=1,
        )
        if invalid.any():
            index, kind, world = (int(i) for i in invalid.nonzero()[0])
            step = steps[index]
            name = ("action", "observation", "reward")[kind]
            values = (step.actions, step.observation, step.reward)[kind]
            when = f"in step {int(step.elapsed[world])}"
            self._raise_error(name, values, world, when, step.tasks)

    def _outside(self, actions: list[Tensor]) -> Tensor:
        """Returns which actions of S steps and W worlds are outside the space, [S, W] bool."""
        if isinstance(self._space, spaces.Discrete):
            indices = torch.stack(actions)
            return (indices < 0) | (indices >= int(self._space.n))
        return _not_finite(actions)

    def _raise_error(self, name: str, values: Tensor, world: int, when: str, tasks: Tasks) -> None:
        expected = "one in the space" if name == "action" else "finite numbers"
        raise SimulationError(
            f"World {world} has the {name} {_format(values[world])} {when} of its episode, with "
            f"the task {shown_task(tasks, world)}; expected {expected}.{self._diagnosis()}"
        )


def shown_task(tasks: Tasks, world: int) -> str:
    """Returns the task of a world as text, for error messages."""
    return ", ".join(f"{name} {_format(value[world])}" for name, value in tasks.items())


def _not_finite(values: list[Tensor]) -> Tensor:
    """Returns which of S values [W, *] are infinite or NaN in a world, [S, W] bool."""
    invalid = ~torch.isfinite(torch.stack(values))
    return invalid.flatten(2).any(2) if invalid.dim() > 2 else invalid


def _format(value: Tensor) -> str:
    numbers = value.flatten()[:6].tolist()
    text = ", ".join(f"{n:.6g}" for n in numbers)
    if value.dim() == 0:
        return text
    return f"[{text}{', ...' if value.numel() > len(numbers) else ''}]"
