"""Finds the first wrong value of many steps without waiting for the device at each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SimulationError
from metarl.sim.episode import Episode
from metarl.sim.family import ActionSpace, Tasks

MOST_STEPS = 256  # bounds what is kept between checks


class _Step(NamedTuple):
    elapsed: Tensor  # steps that each episode had before this one, [W]
    tasks: Tasks
    actions: Tensor
    observation: Tensor  # what the step led to
    reward: Tensor


class _Start(NamedTuple):
    tasks: Tasks
    observation: Tensor


class StepValidator:
    """Keeps the tensors of the steps since the last check, and looks at all of them at once.

    A step costs it an append, not an operation on the device.

    Args:
        space: The action space of one world.
        horizon: Steps of an episode: after so many, or after 256, it checks by itself.
        diagnosis: Returns a sentence that is added to an error, or nothing.
    """

    def __init__(
        self, space: ActionSpace, horizon: int, diagnosis: Callable[[], str] = str
    ) -> None:
        self._space = space
        self._diagnosis = diagnosis
        self._most = min(horizon, MOST_STEPS)
        self.clear()

    def clear(self) -> None:
        """Forgets what was kept."""
        self._steps: list[_Step] = []
        self._starts: list[_Start] = []

    def started(self, tasks: Tasks, observation: Tensor) -> None:
        """Keeps what was seen after resets, [W, O]."""
        if len(self._starts) > self._most:
            self.check()
        self._starts.append(_Start(tasks, observation))

    def stepped(
        self, elapsed: Tensor, tasks: Tasks, actions: Tensor, observation: Tensor, reward: Tensor
    ) -> None:
        """Keeps one step, and checks when there are many.

        Args:
            elapsed: Steps that each world's episode had before this one, [W].
            tasks: The task of each world.
            actions: What was chosen, [W, A] or [W].
            observation: What the step led to, [W, O].
            reward: Shape [W].
        """
        if len(self._steps) >= self._most:
            self.check()
        self._steps.append(_Step(elapsed, tasks, actions, observation, reward))

    def check(self) -> None:
        """Looks at all that was kept, and forgets it.

        Raises:
            SimulationError: A value was not finite or an action not in the space.
        """
        starts, steps = self._starts, self._steps
        self.clear()
        if not starts and not steps:
            return
        observations = torch.stack([s.observation for s in (*starts, *steps)])
        actions = torch.stack([s.actions for s in steps]) if steps else None
        rewards = torch.stack([s.reward for s in steps]) if steps else None
        if self._suspicious(observations, actions, rewards):
            self._check_starts(starts)
            self._check_steps(steps)

    def played(self, tasks: Tasks, episode: Episode) -> None:
        """Looks at all that was kept, and at one episode of each world up to its end.

        Args:
            tasks: The task of each world.
            episode: What happened since the last start.

        Raises:
            SimulationError: As `check`.
        """
        self.check()
        if not self._suspicious(episode.observations, episode.actions, episode.rewards):
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

    def _suspicious(
        self, observations: Tensor, actions: Tensor | None, rewards: Tensor | None
    ) -> bool:
        """Tells whether anything may be wrong, at a tenth of the cost of telling what.

        A value that is not finite makes the sum of all so; so may an overflow, which is no error.
        """
        suspicious = ~observations.sum().isfinite()
        if actions is not None and rewards is not None:
            suspicious = suspicious | ~(rewards.sum() + actions.sum()).isfinite()
            if isinstance(self._space, spaces.Discrete):
                least, most = actions.aminmax()
                suspicious = suspicious | (least < 0) | (most >= int(self._space.n))
        return bool(suspicious)

    def _check_starts(self, starts: list[_Start]) -> None:
        if not starts:
            return
        wrong = _not_finite([s.observation for s in starts])
        if wrong.any():
            number, world = (int(i) for i in wrong.nonzero()[0])
            start = starts[number]
            self._refuse("observation", start.observation, world, "after a reset", start.tasks)

    def _check_steps(self, steps: list[_Step]) -> None:
        if not steps:
            return
        # In the order in which one brings about the next.
        wrong = torch.stack(
            [
                self._outside([s.actions for s in steps]),
                _not_finite([s.observation for s in steps]),
                _not_finite([s.reward for s in steps]),
            ],
            dim=1,
        )
        if wrong.any():
            number, kind, world = (int(i) for i in wrong.nonzero()[0])
            step = steps[number]
            name = ("action", "observation", "reward")[kind]
            values = (step.actions, step.observation, step.reward)[kind]
            when = f"in step {int(step.elapsed[world])}"
            self._refuse(name, values, world, when, step.tasks)

    def _outside(self, actions: list[Tensor]) -> Tensor:
        if isinstance(self._space, spaces.Discrete):
            chosen = torch.stack(actions)
            return (chosen < 0) | (chosen >= int(self._space.n))
        return _not_finite(actions)

    def _refuse(self, name: str, values: Tensor, world: int, when: str, tasks: Tasks) -> None:
        expected = "one in the space" if name == "action" else "finite numbers"
        raise SimulationError(
            f"World {world} has the {name} {_shown(values[world])} {when} of its episode, with the "
            f"task {shown_task(tasks, world)}; expected {expected}.{self._diagnosis()}"
        )


def shown_task(tasks: Tasks, world: int) -> str:
    """Returns the task of a world as text, for errors."""
    return ", ".join(f"{name} {_shown(value[world])}" for name, value in tasks.items())


def _not_finite(values: list[Tensor]) -> Tensor:
    """Returns which of S values of W worlds are infinite or not a number, [S, W] bool."""
    wrong = ~torch.isfinite(torch.stack(values))
    return wrong.flatten(2).any(2) if wrong.dim() > 2 else wrong


def _shown(value: Tensor) -> str:
    numbers = value.flatten()[:6].tolist()
    text = ", ".join(f"{n:.6g}" for n in numbers)
    if value.dim() == 0:
        return text
    return f"[{text}{', ...' if value.numel() > len(numbers) else ''}]"
