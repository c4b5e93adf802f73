"""Trials on MuJoCo Warp, with one CUDA graph for all between two steps of the physics."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.cuda_graphs import Driver
from metarl.rl.rollouts import RolloutNoise
from metarl.rl.step_graph import StepGraph, empty_rows, record, rows_of, write
from metarl.rl.trials.play import (
    AgentInput,
    Recalled,
    Trials,
    TrialSteps,
    may_idle,
    play,
    select_alive,
)
from metarl.rl.trials.trial_policy import TrialPolicy
from metarl.sim.family import Tasks, WorldState
from metarl.sim.physics_env import Carried, PhysicsVectorEnv
from metarl.sim.results import world_values
from metarl.trees import map_tensors


class _Inputs(NamedTuple):
    """What an episode is played with; draws and noise have a leading dimension of H steps."""

    draws: Tensor
    noise: Tensor
    carried: Carried
    recalled: Recalled


class _Seen(NamedTuple):
    """What is recorded of each state."""

    state: WorldState
    observation: Tensor
    alive: Tensor


class _Chosen(NamedTuple):
    """What is recorded of each step: the actions of the agent and of the environment."""

    own: Tensor
    action: Tensor
    record: Any


class _Memory(NamedTuple):
    """The memory of the graph: inputs, the present state, the step [1], records, engine's."""

    inputs: _Inputs
    now: _Seen
    action: Tensor  # of the environment
    step: Tensor
    seen: _Seen
    chosen: _Chosen
    engine: dict[str, Tensor]


class CapturedTrialSteps:
    """`play` in one environment of a physics engine, with two launches per step.

    One is that of the physics, the other one a graph (`StepGraph`): it reads the state, computes
    observation, reward and end, lets the agent remember and act, writes the controls and records
    all of it. Between two episodes, the worlds are reset without a graph.

    Args:
        env: The worlds.
        policy: The policy with a memory.
        keep_next: See `play`.
        driver: What captures; None for CUDA.
    """

    def __init__(
        self,
        env: PhysicsVectorEnv,
        policy: TrialPolicy,
        keep_next: bool,
        driver: Driver | None = None,
    ) -> None:
        self._env = env
        self._policy = policy
        self._keep_next = keep_next
        self._idles = may_idle(env.family)
        self._graph: StepGraph[_Memory] = StepGraph("trials", env, driver)

    @property
    def refused(self) -> str | None:
        """Why the steps run without a graph; None if they have one, or were not played."""
        return self._graph.refused

    def __call__(self, tasks: Tasks, noise: RolloutNoise) -> Trials:
        """Plays one trial in every world; see `play`.

        Raises:
            SimulationError: See `play`.
        """
        units = self._policy.units
        return play(self._env, self._policy, tasks, noise, units, self._keep_next, self._episode)

    def _episode(
        self, recalled: Recalled, observation: Tensor, draws: Tensor, first: bool
    ) -> tuple[TrialSteps, Recalled]:
        """Plays an episode; see `PlayEpisode`."""
        env, horizon = self._env, len(draws)
        inputs = _Inputs(draws, env.step_noise(), env.carried(), recalled)
        memory = self._prepared(inputs, observation)
        started = torch.full_like(memory.now.alive, 1 - first)
        try:
            env.hold(memory.inputs.carried)
            self._graph.play(
                memory,
                horizon,
                lambda memory: self._choose(memory, started, started),
                self._look,
                self._between,
            )
        finally:
            env.hold(inputs.carried)
        return self._played(memory, inputs.carried, horizon)

    def _played(
        self, memory: _Memory, carried: Carried, horizon: int
    ) -> tuple[TrialSteps, Recalled]:
        """Returns copies of what was recorded: the next episode overwrites it."""
        env, seen = self._env, memory.seen
        states = rows_of(seen.state, horizon + 1)
        chosen = map_tensors(lambda t: t[:horizon].transpose(0, 1).clone(), memory.chosen)
        last = map_tensors(Tensor.clone, memory.inputs.carried)
        env.hold(carried._replace(state=states[-1], disturbances=last.disturbances))
        actions = memory.chosen.action[:horizon].unbind()
        episode = env.finish(states, seen.observation.unbind(), actions)
        steps = TrialSteps(
            chosen.own,
            episode.rewards,
            seen.alive[:horizon].T.clone(),
            chosen.record,
            episode.observations[:, 1:] if self._keep_next else None,
        )
        return steps, map_tensors(Tensor.clone, memory.inputs.recalled)

    def _prepared(self, inputs: _Inputs, observation: Tensor) -> _Memory:
        """Returns the memory with the inputs and the first observation in it."""
        now = _Seen(inputs.carried.state, observation, torch.ones_like(inputs.recalled.reward))
        fixed = (*self._policy.parameters(), *self._policy.buffers())
        memory = self._graph.memory(inputs, fixed, lambda: self._allocate(inputs, now))
        write((memory.inputs, memory.now), (inputs, now))
        memory.step.zero_()
        record(memory.seen, now, memory.step)
        return memory

    def _allocate(self, inputs: _Inputs, now: _Seen) -> _Memory:
        env, rows = self._env, len(inputs.draws) + 1
        own, own_now = map_tensors(
            lambda t: t.clone(memory_format=torch.contiguous_format), (inputs, now)
        )
        recalled = map_tensors(Tensor.clone, inputs.recalled)  # `act` may write into it
        output = self._act(recalled, now.observation, inputs.draws[0], now.alive, now.alive)
        env.hold(own.carried)
        action = env.command(self._in_units(output.action), own.noise[0])
        env.hold(inputs.carried)
        return _Memory(
            own,
            own_now,
            action.clone(),
            torch.zeros(1, dtype=torch.int64, device=now.observation.device),
            empty_rows(now, rows),
            empty_rows(_Chosen(output.action, action, output.record), rows),
            env.engine,
        )

    def _between(self, memory: _Memory) -> None:
        self._env.hold(memory.inputs.carried)
        self._look(memory)
        alive = memory.now.alive
        self._choose(memory, torch.zeros_like(alive), torch.ones_like(alive))

    def _look(self, memory: _Memory) -> None:
        """Records the state after a step of the physics; remembers its reward."""
        memory.step.add_(1)
        env, family, now = self._env, self._env.family, memory.now
        tasks, recalled = memory.inputs.carried.tasks, memory.inputs.recalled
        observation, before = env.look(), memory.inputs.carried.state
        state, alive = env.carried().state, now.alive
        if self._idles:  # what has ended stays as it was
            state = select_alive(alive, state, before)
            observation = select_alive(alive, observation, now.observation)
        reward = family.reward(before, memory.action, state, tasks)
        reward = world_values("reward", reward, env.num_envs)
        if self._idles:
            reward = select_alive(alive, reward, recalled.reward)
            alive = alive * ~self._over(state, tasks)
        seen = _Seen(state, observation, alive)
        record(memory.seen, seen, memory.step)
        write((now, memory.inputs.carried.state, recalled.reward), (seen, state, reward))
        env.hold(memory.inputs.carried)

    def _over(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns which episodes have ended before the horizon, [W] bool."""
        family, worlds = self._env.family, self._env.num_envs
        over = world_values("terminated", family.terminated(state, tasks), worlds, True)
        if family.may_truncate:
            over = over | world_values("truncated", family.truncated(state, tasks), worlds, True)
        return over

    def _choose(self, memory: _Memory, ended: Tensor, begun: Tensor) -> None:
        """Lets the agent remember and act, writes the controls, and records both."""
        draw, noise = (
            values.index_select(0, memory.step)[0]
            for values in (memory.inputs.draws, memory.inputs.noise)
        )
        recalled = memory.inputs.recalled
        output = self._act(recalled, memory.now.observation, draw, ended, begun)
        after = recalled._replace(state=output.state, action=output.action)
        if self._idles:
            after = select_alive(memory.now.alive, after, recalled)
        action = self._env.command(self._in_units(output.action), noise)
        record(memory.chosen, _Chosen(output.action, action, output.record), memory.step)
        write((recalled, memory.action), (after, action))
        write(memory.inputs.carried.disturbances, self._env.carried().disturbances)
        self._env.hold(memory.inputs.carried)

    def _act(
        self, recalled: Recalled, observation: Tensor, draw: Tensor, ended: Tensor, begun: Tensor
    ) -> Any:
        inputs = AgentInput(observation, recalled.action, recalled.reward, ended, begun)
        return self._policy.act(recalled.state, inputs, draw)

    def _in_units(self, action: Tensor) -> Tensor:
        return action if self._policy.units is None else self._policy.units.act(action)
