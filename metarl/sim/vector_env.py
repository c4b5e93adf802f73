"""The vector environment: many worlds of one family, gymnasium's interface, tensors throughout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.errors import ShapeError, SimulationError
from metarl.sim.arguments import (
    AUTORESET_MODES,
    Autoreset,
    check_arguments,
    read_mask,
    with_task,
)
from metarl.sim.episode import Act, Episode, score_states
from metarl.sim.family import TaskFamily, Tasks, WorldState
from metarl.sim.step_validator import StepValidator
from metarl.trees import choose, map_tensors


class WorldNoise(NamedTuple):
    """The randomness of one episode of each of W worlds, drawn beforehand, uniform in [0, 1).

    Attributes:
        reset: What the reset consumes, [W, reset_noise] float32.
        step: What each step consumes, [W, horizon, step_noise] float32.
    """

    reset: Tensor
    step: Tensor


Observer = Callable[["TensorVectorEnv", Tensor | None], None]
"""Called after every reset, without rewards, and after every step with its rewards [W]."""


class TensorVectorEnv(VectorEnv, ABC):
    """W worlds of one family, each with a task of its own; all values are tensors on `device`.

    Every world has a task from the start; resets keep it, `set_tasks` changes it. Worlds that are
    done start anew within the step (`same_step`), or wait for `reset` with a mask (`disabled`):
    until then they go on being stepped, and those that terminated stay so, show what they ended
    with and give rewards of 0, whatever the family makes of states after its end.

    Args:
        family: What the worlds are.
        num_envs: The number of worlds, W.
        device: Where they are computed.
        autoreset: "same_step" or "disabled".
        observe_task: Appends the family's `task_vector` to what is observed, for oracle policies.
        seed: Seed of the first tasks, of resets and of steps.

    Attributes:
        observer: Who looks on, such as a camera; None: nobody.

    Raises:
        SettingsError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        family: TaskFamily,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        autoreset: Autoreset = "same_step",
        observe_task: bool = False,
        seed: int = 0,
    ) -> None:
        check_arguments(family, num_envs, autoreset)
        self.family = family
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.metadata = {"autoreset_mode": AUTORESET_MODES[autoreset]}
        self.observe_task = observe_task
        self.observer: Observer | None = None
        self._autoreset = autoreset == "same_step"
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._noise: WorldNoise | None = None
        self._state: WorldState = {}
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._over = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._waits = not self._autoreset and type(family).terminated is not TaskFamily.terminated
        self._no_noise = torch.empty(num_envs, 0, device=self.device)
        self._tasks: Tasks = {}
        self._tasks = family.sample(num_envs, self._generator).values
        self._vector = family.task_vector(self._tasks)
        self._make_spaces()
        self._seen = torch.zeros(self.observation_space.shape or (), device=self.device)
        self._validator = StepValidator(family.action_space, family.horizon, self.diagnosis)

    def _make_spaces(self) -> None:
        family = self.family
        self.single_action_space = family.action_space
        self.single_observation_space = family.observation_space
        if self.observe_task:
            self.single_observation_space = with_task(
                family.observation_space, self._vector.shape[1]
            )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        space = family.action_space
        self._action_shape = torch.Size(self.action_space.shape or ())
        self._last_action = int(space.n) - 1 if isinstance(space, spaces.Discrete) else None
        self._action_type = torch.float32 if self._last_action is None else torch.int64

    # What an engine does

    @abstractmethod
    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """Starts episodes and returns the state of all worlds.

        Args:
            noise: Uniform numbers, [W, reset_noise].
            mask: Which worlds start, [W] bool; None for all of them.
        """

    @abstractmethod
    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """Moves all worlds on by one step and returns their new state.

        Args:
            actions: [W, A] float32, not clipped, or [W] int64 in range.
            noise: Uniform numbers, [W, step_noise].
        """

    def diagnosis(self) -> str:
        """Returns a sentence that an engine adds to the errors of `check`, or nothing."""
        return ""

    # gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Starts episodes of the worlds' present tasks.

        Args:
            seed: Seeds the randomness anew; None goes on with it.
            options: {"reset_mask": [W] bool} starts only the worlds that it marks.

        Returns:
            The observations of all worlds, [W, O] float32, and an empty dict.

        Raises:
            SettingsError: An option is unknown, or not all worlds have started once.
            ShapeError: The mask is not [W] bool.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._generator.manual_seed(seed)
        mask = read_mask(options or {}, self.num_envs, self.device, bool(self._state))
        self._begin(mask)
        observation = self._observe()
        self._validator.started(self._tasks, observation)
        if self.observer is not None:
            self.observer(self, None)
        return observation, {}

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Moves every world on by one step.

        Args:
            actions: [W, A] float32, clipped to the space by the family, or [W] int64.

        Returns:
            Observations [W, O] float32, rewards [W] float32, terminated and truncated [W] bool,
            and a dict with "final_obs": what the step led to, before any reset, [W, O]; with
            autoreset also "_final_obs": which worlds were reset, [W] bool.

        Raises:
            ShapeError: The actions have another shape.
            SimulationError: `reset` was not called yet, or as `check`, some steps late.
        """
        before = self._state
        family, tasks = self.family, self._tasks
        actions, chosen = self._chosen(actions)
        after = self._state = self.advance(chosen, self._step_noise())
        reward = family.reward(before, chosen, after, tasks)
        terminated = family.terminated(after, tasks)
        observation = self._observe()
        if self._waits:
            reward = reward.masked_fill(self._over, 0)
            self._over = terminated = self._over | terminated
        self._validator.stepped(self._elapsed, tasks, actions, observation, reward)
        self._elapsed = self._elapsed + 1
        truncated = self._elapsed >= family.horizon
        info = {"final_obs": observation}
        if self._autoreset:
            info["_final_obs"] = done = terminated | truncated
            self._begin(done)
            observation = self._observe()
            self._validator.started(tasks, observation.masked_fill(~done.unsqueeze(1), 0))
        if self.observer is not None:
            self.observer(self, reward)
        return observation, reward, terminated, truncated, info

    def episode(self, act: Act) -> Episode:
        """Resets all worlds, runs one episode in each and checks it, as `check` does.

        What happens is what `step` would do, where worlds do not reset themselves ("disabled").
        Step by step goes only what the next action needs; rewards and ends are judged afterwards,
        in a few operations for all steps. An observer wants to see each step.

        Args:
            act: Is called with what is seen, [W, O], at each step of the horizon; returns actions.
        """
        if self.observer is not None:
            return self.run_step_by_step(act)
        observation, _ = self.reset()
        states, observations, actions = [self._state], [observation], []
        prepared = None if self._noise is None else self._noise.step.unbind(1)
        for step in range(self.family.horizon):
            action, chosen = self._chosen(act(observation))
            noise = self._step_noise() if prepared is None else prepared[step]
            self._state = self.advance(chosen, noise)
            observation = self._look()
            states.append(self._state)
            observations.append(observation)
            actions.append(action)
        episode = score_states(self.family, self._tasks, states, observations, actions)
        self._elapsed = self._elapsed + self.family.horizon
        self._over, self._seen = episode.terminated[:, -1], episode.observations[:, -1]
        self._validator.played(self._tasks, episode)
        return episode

    def run_step_by_step(self, act: Act) -> Episode:
        """Runs one episode in each world by `reset` and `step`; see `episode`."""
        observation, _ = self.reset()
        steps = []
        first = observation
        for _ in range(self.family.horizon):
            action = act(observation)
            observation, reward, terminated, _, _ = self.step(action)
            steps.append((observation, action, reward, terminated))
        self.check()
        later, *rest = (torch.stack(values, 1) for values in zip(*steps, strict=True))
        return Episode(torch.cat((first.unsqueeze(1), later), 1), *rest)

    # Tasks and randomness

    def set_tasks(self, tasks: Tasks) -> None:
        """Gives each world its task; it takes effect at once, in the running episode too.

        Args:
            tasks: One value per world, [W, *] per name.

        Raises:
            ShapeError: A value is missing, unknown or has another shape.
        """
        present = self._tasks
        if tasks.keys() != present.keys():
            raise ShapeError(
                f"Expected task values named {list(present)}, got {list(tasks)}: "
                f"pass what {self.family.name} samples."
            )
        for name, value in tasks.items():
            if value.shape != present[name].shape:
                raise ShapeError(
                    f"Expected the task value {name!r} of shape {tuple(present[name].shape)}, one "
                    f"for each of {self.num_envs} worlds, got {tuple(value.shape)}; "
                    "`repeat_interleave` gives a task several worlds."
                )
        self._tasks = {n: tasks[n].detach().to(t, copy=True) for n, t in present.items()}
        self._vector = self.family.task_vector(self._tasks)

    def get_tasks(self) -> Tasks:
        """Returns a copy of each world's task, [W, *] per name."""
        return map_tensors(Tensor.clone, self._tasks)

    def snapshot(self, world: int) -> tuple[WorldState, Tasks, int]:
        """Returns copies of one world's state and task, [1, *] per name, to look at.

        The number behind them is how many steps its episode has had. Before the first reset the
        state is empty.

        Args:
            world: Its number, 0 to W - 1.
        """
        state, tasks = map_tensors(
            lambda t: t[world : world + 1].clone(), (self._state, self._tasks)
        )
        return state, tasks, int(self._elapsed[world])

    def follow(self, noise: WorldNoise | None) -> None:
        """Takes randomness from prepared numbers; call it before `reset`.

        Each world then uses numbers of its own, those of a step at that step of its episode, so
        what happens in it does not depend on the worlds beside it. Every further episode of the
        world uses them again.

        Args:
            noise: The numbers; None returns to the generator.

        Raises:
            ShapeError: There are more or fewer numbers than the worlds consume.
        """
        if noise is not None:
            noise = WorldNoise(*noise)
            family, worlds = self.family, self.num_envs
            expected = ((worlds, family.reset_noise), (worlds, family.horizon, family.step_noise))
            shapes = tuple(tuple(n.shape) for n in noise)
            if shapes != expected:
                raise ShapeError(
                    f"Expected noise of {expected[0]} for resets and {expected[1]} for steps, "
                    f"got {shapes[0]} and {shapes[1]}."
                )
            noise = map_tensors(lambda n: n.to(self.device), noise)
        self._noise = noise

    def check(self) -> None:
        """Looks at all that happened since the last check; waits for the device once.

        The environment calls it by itself after `horizon` steps without.

        Raises:
            SimulationError: A reward or an observation was not finite or an action not in the
                space; the first of them is told with its world, step and task.
        """
        self._validator.check()

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of all that a continuation to the bit needs."""
        values = {
            "state": self._state,
            "tasks": self._tasks,
            "elapsed": self._elapsed,
            "over": self._over,
            "seen": self._seen,
            "noise": None if self._noise is None else tuple(self._noise),
            "generator": self._generator.get_state(),
        }
        return map_tensors(Tensor.clone, values)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Goes on from where `state_dict` was called, on this or another device.

        Raises:
            ShapeError: The values are of another family or of another number of worlds.
        """
        self.set_tasks(values["tasks"])
        noise = values["noise"]
        self.follow(None if noise is None else WorldNoise(*noise))
        self._state = map_tensors(lambda t: t.to(self.device, copy=True), values["state"])
        self._elapsed = values["elapsed"].to(self.device, copy=True)
        self._over = values["over"].to(self.device, copy=True)
        self._seen = values["seen"].to(self.device, copy=True)
        self._generator.set_state(values["generator"].cpu())
        self._validator.clear()

    # Parts

    def merged(self, mask: Tensor, fresh: WorldState) -> WorldState:
        """Returns the state with `fresh` in the worlds that the mask [W] bool marks."""
        return choose(mask, fresh, {n: self._state[n] for n in fresh})

    def _begin(self, mask: Tensor | None) -> None:
        noise = self._uniform(self.family.reset_noise) if self._noise is None else self._noise.reset
        self._state = self.start(noise, mask)
        if mask is None:
            self._elapsed = torch.zeros_like(self._elapsed)
            self._over = torch.zeros_like(self._over)
        else:
            self._elapsed = self._elapsed.masked_fill(mask, 0)
            self._over = self._over & ~mask

    def _chosen(self, actions: Any) -> tuple[Tensor, Tensor]:
        """Returns the actions as tensors, as they came and as they are possible."""
        actions = torch.as_tensor(actions, dtype=self._action_type, device=self.device).detach()
        if actions.shape != self._action_shape or not self._state:
            self._refuse(actions)
        if self._last_action is None:
            return actions, actions
        # An index out of range would end a CUDA process; `check` tells of it.
        return actions, actions.clamp(0, self._last_action)

    def _look(self) -> Tensor:
        observation = self.family.observe(self._state, self._tasks)
        return torch.cat([observation, self._vector], 1) if self.observe_task else observation

    def _observe(self) -> Tensor:
        observation = self._look()
        if self._waits:
            observation = torch.where(self._over.unsqueeze(1), self._seen, observation)
            self._seen = observation
        return observation

    def _step_noise(self) -> Tensor:
        if not self.family.step_noise or self._noise is None:
            return self._uniform(self.family.step_noise)
        numbers = self._noise.step
        step = self._elapsed.clamp(max=numbers.shape[1] - 1)  # worlds may be stepped past the end
        return numbers[torch.arange(self.num_envs, device=self.device), step]

    def _uniform(self, count: int) -> Tensor:
        if not count:
            return self._no_noise
        return torch.rand(self.num_envs, count, generator=self._generator, device=self.device)

    def _refuse(self, actions: Tensor) -> None:
        if not self._state:
            raise SimulationError("No episode has started; call `reset` before `step`.")
        raise ShapeError(
            f"Expected actions of shape {tuple(self._action_shape)}, got {tuple(actions.shape)}."
        )
