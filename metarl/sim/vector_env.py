"""The vector environment: W worlds of one family, with Gymnasium's interface on tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.devices import resolve_device
from metarl.sim.arguments import (
    AUTORESET_MODES,
    Autoreset,
    action_error,
    check_arguments,
    check_tasks,
    read_actions,
    read_mask,
    reset_seed,
    with_task,
)
from metarl.sim.disturbances import Disturbances
from metarl.sim.episode import Act, Episode, last_states, play_steps, score_states
from metarl.sim.episode_ends import EpisodeEnds
from metarl.sim.episode_metrics import EpisodeMetrics
from metarl.sim.family import TaskFamily, Tasks, WorldState
from metarl.sim.results import READERS, FirstCalls, check_observation, world_values
from metarl.sim.spaces import only_images
from metarl.sim.step_validator import StepValidator
from metarl.sim.world_noise import NoiseSource, WorldNoise
from metarl.trees import choose, map_tensors

Observer = Callable[["TensorVectorEnv", Tensor | None], None]
"""Called with the environment after every reset (rewards None) and step (rewards [W])."""


class TensorVectorEnv(VectorEnv, ABC):
    """W worlds of one family, each with its own task; all values are tensors on `device`.

    The constructor samples a task for every world. Resets keep the tasks; `set_tasks` changes
    them. With autoreset "same_step" a world is reset within the step that ends its episode. With
    "next_step", gymnasium's default, the step after the end resets the world: it ignores the
    action, returns the first observation of the next episode, and earns 0. With "disabled" a world
    whose episode is over keeps its last state and observation and how it ended, and earns 0, until
    it is reset: after a termination, a truncation by the family and the horizon alike.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        device: The device of all tensors.
        autoreset: "same_step", "next_step" or "disabled", or gymnasium's value of one.
        observe_task: Appends the family's `task_vector` to observations, for oracle policies.
        seed: Seed of the first tasks, of resets and of steps.

    Attributes:
        observer: A callback such as a camera, called after every reset and step; None for none.
        stops_ended: Whether `advance` leaves worlds that have ended as they are.

    Raises:
        SettingsError: An argument has an invalid value.
    """

    stops_ended: ClassVar[bool] = False

    def __init__(
        self,
        family: TaskFamily,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        autoreset: Autoreset | AutoresetMode = "same_step",
        observe_task: bool = False,
        seed: int = 0,
    ) -> None:
        autoreset = check_arguments(family, num_envs, autoreset)
        self.family, self.num_envs = family, num_envs
        self.device = resolve_device(device)
        self.metadata = {"autoreset_mode": AUTORESET_MODES[autoreset]}
        self.observe_task = observe_task
        self.observer: Observer | None = None
        self._autoreset = autoreset
        self._noise = NoiseSource(family, num_envs, self.device, seed)
        self._state: WorldState = {}
        self._ends = EpisodeEnds(family, num_envs, self.device)
        self._metrics = EpisodeMetrics(family.metrics, num_envs, self.device)
        self._tasks: Tasks = family.sample(num_envs, self._noise.generator).values
        self._task_vector = family.task_vector(self._tasks)
        self._disturbances = Disturbances(family, num_envs, self.device)
        self._disturbances.set_tasks(self._tasks)
        self._first_calls = FirstCalls()
        self._make_spaces()
        self._observation = torch.zeros(self.observation_space.shape or (), device=self.device)
        images = only_images(self.single_observation_space)
        self._validator = StepValidator(family.action_space, family.horizon, self.diagnosis, images)

    def _make_spaces(self) -> None:
        family = self.family
        space = self.single_action_space = family.action_space
        extra = self._task_vector.shape[1] if self.observe_task else 0
        self.single_observation_space = with_task(family.observation_space, extra)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seen_shape = torch.Size((self.num_envs, *family.observation_space.shape))
        self._action_shape = torch.Size(self.action_space.shape or ())
        self._last_action = int(space.n) - 1 if isinstance(space, spaces.Discrete) else None
        self._action_type = torch.float32 if self._last_action is None else torch.int64

    @abstractmethod
    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """Resets worlds and returns the state of all worlds.

        Args:
            noise: Uniform numbers, [W, reset_noise].
            mask: The worlds to reset, [W] bool; None for all.
        """

    @abstractmethod
    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """Steps all worlds and returns their new state.

        Args:
            actions: [W, A] float32, not clipped, or [W] int64 in range.
            noise: Uniform numbers, [W, step_noise].
        """

    def diagnosis(self) -> str:
        """Returns a sentence that is appended to the errors of `check`, or ""."""
        return ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Starts episodes with the current tasks.

        Args:
            seed: Seeds the random generator; None continues with its state.
            options: {"reset_mask": [W] bool} resets only the worlds where it is true.

        Returns:
            The observations of all worlds, [W, O] float32, and an empty dict.

        Raises:
            SettingsError: An option is unknown, or the first reset has a mask.
            ShapeError: The mask is not [W] bool.
        """
        super().reset(seed=(seed := reset_seed(seed)))
        if seed is not None:
            self._noise.generator.manual_seed(seed)
        self._begin(read_mask(options or {}, self.num_envs, self.device, bool(self._state)))
        observation = self._observe(self._frozen())
        self._validator.record_reset(self._tasks, observation)
        if self.observer is not None:
            self.observer(self, None)
        return observation, {}

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Steps every world once.

        Args:
            actions: [W, A] float32, clipped to the space by the family, or [W] int64.

        Returns:
            Observations [W, O] float32, rewards [W] float32, terminated and truncated [W] bool
            (by the horizon or the family), and a dict with "final_obs": the observations before
            any reset, [W, O]; with "same_step" also "_final_obs": which worlds were reset, [W]
            bool. With "next_step" no observation is replaced. For a family with metrics,
            "metrics" are those of the episodes up to this step, [W] float32 per name.

        Raises:
            ShapeError: The actions have another shape, or indices are fractions.
            SimulationError: `reset` was not called yet, or `check` found an error some steps later.
        """
        before, frozen, elapsed = self._state, self._frozen(), self._ends.elapsed
        family, tasks = self.family, self._tasks
        actions, valid_actions = self._prepare_actions(actions)
        after = self._advance(valid_actions, self._noise.step(elapsed))
        if frozen is not None and not self.stops_ended:
            after = choose(~frozen, after, before)
        self._state = after
        untouched = self._first_calls.of(after)
        reward = family.reward(before, valid_actions, after, tasks)
        reward = world_values("reward", reward, self.num_envs)
        terminated, truncated = self._ends.add_step(family, after, tasks, frozen)
        if frozen is not None:
            reward = reward.masked_fill(frozen, 0)
        info: dict[str, Any] = {}
        if family.metrics:
            self._metrics.add_step(family.measure(before, valid_actions, after, tasks), frozen)
            info["metrics"] = self._metrics.values()
        untouched.check(READERS)
        if self._autoreset == "next_step":
            if frozen is not None:
                self._begin(frozen)
                terminated, truncated = terminated & ~frozen, truncated & ~frozen
            observation = self._observe(None)
        else:
            observation = info["final_obs"] = self._observe(frozen)
        self._validator.record_step(elapsed, tasks, actions, observation, reward)
        if self._autoreset == "same_step":
            info["_final_obs"] = done = terminated | truncated
            self._begin(done)
            observation = self._observe(None)
            # Only the worlds that were reset are checked: the others are in the recorded step.
            self._validator.record_reset(tasks, observation.masked_fill(~done.unsqueeze(1), 0))
        if self.observer is not None:
            self.observer(self, reward)
        return observation, reward, terminated, truncated, info

    def episode(self, act: Act) -> Episode:
        """Resets all worlds, runs one episode in each and checks the values as `check` does.

        The result is that of `step` with autoreset "disabled". Only the observations are computed
        step by step; rewards and terminations of all steps are computed afterwards in a few batched
        calls. With an observer, `run_step_by_step` is used.

        Args:
            act: Called at each step with the observations [W, O]; returns the actions.
        """
        if self.observer is not None:
            return self.run_step_by_step(act)
        observation, _ = self.reset()
        states, observations, actions = [self._state], [observation], []
        for noise in self._noise.steps():
            action, valid_action = self._prepare_actions(act(observation))
            self._state = self._advance(valid_action, noise)
            observation = self._compute_observation()
            states.append(self._state)
            observations.append(observation)
            actions.append(action)
        return self.finish(states, observations, actions)

    def finish(
        self,
        states: Sequence[WorldState],
        observations: Sequence[Tensor],
        actions: Sequence[Tensor],
    ) -> Episode:
        """Returns an episode that was played from the last reset, with its rewards and ends.

        The arguments are those of `score_states`.
        """
        family = self.family
        episode = score_states(family, self._tasks, states, observations, actions)
        self._ends.add_episode(episode)
        if episode.measured is not None:
            self._metrics.add_episode(episode.measured, episode.over())
        if family.may_terminate or family.may_truncate:
            self._state = last_states(states, episode)
        self._observation = episode.observations[:, -1]
        self._validator.check_episode(self._tasks, episode)
        return episode

    def episode_metrics(self) -> dict[str, Tensor]:
        """Returns the family's metrics of the running or ended episodes, [W] float32 per name."""
        return self._metrics.values()

    def run_step_by_step(self, act: Act) -> Episode:
        """Runs one episode in each world with `reset` and `step`. See `episode`."""
        mode, self._autoreset = self._autoreset, "disabled"
        try:
            return play_steps(self, act, lambda: self._ends.truncated)
        finally:
            self._autoreset = mode

    # Tasks and randomness

    def set_tasks(self, tasks: Tasks) -> None:
        """Sets each world's task: at once; from its next reset on in gymnasium and batched worlds.

        Args:
            tasks: One task per world, [W, *] per name.

        Raises:
            ShapeError: A value is missing, unknown or has another shape.
        """
        check_tasks(tasks, self._tasks, self.family)
        self._tasks = {n: tasks[n].detach().to(t, copy=True) for n, t in self._tasks.items()}
        self._task_vector = self.family.task_vector(self._tasks)
        self._disturbances.set_tasks(self._tasks)

    def get_tasks(self) -> Tasks:
        """Returns a copy of each world's task, [W, *] per name."""
        return map_tensors(Tensor.clone, self._tasks)

    def snapshot(self, world: int) -> tuple[WorldState, Tasks, int]:
        """Returns copies of one world's state and task, [1, *] per name, and its step count.

        Before the first reset the state is empty.

        Args:
            world: The index of the world, 0 to W - 1.
        """
        row = slice(world, world + 1)
        state, tasks = map_tensors(lambda t: t[row].clone(), (self._state, self._tasks))
        return state, tasks, int(self._ends.elapsed[world])

    def follow(self, noise: WorldNoise | None) -> None:
        """Uses pre-drawn random numbers instead of the generator. Call it before `reset`.

        Step t of world w uses `noise.step[w, t]`, so an episode does not depend on the other
        worlds. Every further episode of the world uses the same numbers.

        Args:
            noise: The numbers; None uses the generator again.

        Raises:
            ShapeError: The shapes do not match the number of worlds and the family.
        """
        self._noise.follow(noise)

    def check(self) -> None:
        """Checks all values since the last check, with one device sync.

        The environment calls it itself after `horizon` or 256 steps, whichever is less.

        Raises:
            SimulationError: A reward or an observation was not finite, or an action was outside
                the space. The message names the first one's world, step and task.
        """
        self._validator.check()

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of all values from which episodes continue bit for bit."""
        values = {
            "state": self._state,
            "tasks": self._tasks,
            **self._ends.state_dict(),
            "seen": self._observation,
            "metrics": self._metrics.state_dict(),
            "noise": None if self._noise.drawn is None else tuple(self._noise.drawn),
            "disturbances": self._disturbances.state_dict(),
            "generator": self._noise.generator.get_state(),
        }
        return map_tensors(Tensor.clone, values)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, on this or another device.

        Raises:
            ShapeError: The values are from another family or another number of worlds.
        """
        self.set_tasks(values["tasks"])
        self.follow(values["noise"])
        self._state = map_tensors(lambda t: t.to(self.device, copy=True), values["state"])
        self._ends.load_state_dict(values)
        if "metrics" in values:  # not in states of MetaRL 0.1
            self._metrics.load_state_dict(values["metrics"])
        self._disturbances.load_state_dict(values.get("disturbances", {}))
        self._observation = values["seen"].to(self.device, copy=True)
        self._noise.generator.set_state(values["generator"].cpu())
        self._validator.clear()

    def merged(self, mask: Tensor, fresh: WorldState) -> WorldState:
        """Returns the state with the values of `fresh` in the worlds of the mask, [W] bool."""
        return choose(mask, fresh, {n: self._state[n] for n in fresh})

    def _frozen(self) -> Tensor | None:
        return None if self._autoreset == "same_step" else self._ends.frozen()

    def _begin(self, mask: Tensor | None) -> None:
        noise = self._noise.reset()
        self._state = self.start(noise, mask)
        self._disturbances.begin(mask, noise)
        self._ends.begin(mask)
        if self.family.metrics:
            self._metrics.begin(mask)

    def _advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        return self.advance(self._disturbances.step(actions, noise), noise)

    def _prepare_actions(self, actions: Any) -> tuple[Tensor, Tensor]:
        """Returns the actions as a tensor, and the same actions with indices in range."""
        actions = read_actions(actions, self._action_type, self.device)
        if actions.shape != self._action_shape or not self._state:
            raise action_error(actions, self._action_shape, bool(self._state))
        if self._last_action is None:
            return actions, actions
        # An index out of range would abort a CUDA process; `check` reports it.
        return actions, actions.clamp(0, self._last_action)

    def _compute_observation(self) -> Tensor:
        untouched = self._first_calls.of(self._state)
        observation = self.family.observe(self._state, self._tasks)
        untouched.check("`observe`")
        check_observation(observation, self._seen_shape)
        observation = self._disturbances.seen(observation)
        return torch.cat([observation, self._task_vector], 1) if self.observe_task else observation

    def _observe(self, frozen: Tensor | None) -> Tensor:
        """Returns the observation of each world; the last one of the worlds that have ended."""
        observation = self._compute_observation()
        if frozen is not None:
            observation = torch.where(frozen.unsqueeze(1), self._observation, observation)
        self._observation = observation
        return observation
