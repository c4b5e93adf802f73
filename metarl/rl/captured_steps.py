"""Rollouts on MuJoCo Warp, with one CUDA graph for all between two steps of the physics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.cuda_graphs import Driver, graphs_allowed
from metarl.models.base import Params
from metarl.rl.policy import Policy
from metarl.rl.rollouts import Decision, Played, RolloutNoise, Rollouts, choose_with, collect
from metarl.rl.step_graph import StepGraph, empty_rows, record, rows_of, write
from metarl.sim.family import Tasks, WorldState
from metarl.sim.physics_env import Carried, PhysicsVectorEnv
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import map_tensors

SHORTEST = 4
"""Steps of the shortest episodes that are captured: a capture plays some in advance."""


class _Inputs(NamedTuple):
    """What an episode is played with; draws and noise have a leading dimension of H steps."""

    params: Params
    draws: Tensor
    noise: Tensor
    carried: Carried


class _Seen(NamedTuple):
    """What is recorded of each state: itself and its observation."""

    state: WorldState
    observation: Tensor


class _Chosen(NamedTuple):
    """What is recorded of each step: the decision of the policies, the environment's actions."""

    decision: Decision
    action: Tensor


class _Memory(NamedTuple):
    """The memory of the graph: inputs, the index of the step [1], records [H + 1, *], engine's."""

    inputs: _Inputs
    step: Tensor
    seen: _Seen
    chosen: _Chosen
    engine: dict[str, Tensor]


class CapturedSteps:
    """`collect` in one environment of a physics engine, with two launches per step.

    One launches the physics. The other launches a graph (`StepGraph`) that reads the state,
    observes it, lets the policy act, writes the controls and records all of it. Rewards and ends
    are computed afterwards.

    Args:
        env: The worlds.
        policy: The policy.
        driver: What captures; None for CUDA.
    """

    def __init__(self, env: PhysicsVectorEnv, policy: Policy, driver: Driver | None = None) -> None:
        self._env = env
        self._policy = policy
        self._graph: StepGraph[_Memory] = StepGraph("rollouts", env, driver)

    @property
    def refused(self) -> str | None:
        """Why the steps run without a graph; None if they have one, or were not played."""
        return self._graph.refused

    def __call__(self, params: Params, tasks: Tasks, noise: RolloutNoise) -> Rollouts:
        """Runs one episode in every world; see `collect`.

        Raises:
            SimulationError: See `collect`.
        """
        return collect(self._env, self._policy, params, tasks, noise, self._play)

    def _play(self, params: Params, draws: Tensor) -> Played:
        """Plays an episode with the tasks and the noise of the environment; see `Play`."""
        env = self._env
        observation, _ = env.reset()
        inputs = _Inputs(params, draws, env.step_noise(), env.carried())
        memory = self._prepared(inputs, observation)
        horizon = len(draws)
        try:
            env.hold(memory.inputs.carried)
            self._graph.play(memory, horizon, self._first, self._look, self._between)
        finally:
            env.hold(inputs.carried)
        seen, chosen = memory.seen, memory.chosen
        states, actions = rows_of(seen.state, horizon + 1), chosen.action[:horizon]
        last = map_tensors(Tensor.clone, memory.inputs.carried)
        env.hold(inputs.carried._replace(state=states[-1], disturbances=last.disturbances))
        episode = env.finish(states, seen.observation.unbind(), actions.unbind())
        _, own, behaviour = map_tensors(lambda t: t[:horizon].clone(), chosen.decision)
        return Played(
            episode,
            None if own is None else own.transpose(0, 1),
            map_tensors(lambda t: t.movedim(0, 2), behaviour),
        )

    def _prepared(self, inputs: _Inputs, observation: Tensor) -> _Memory:
        """Returns the memory with the inputs and the first observation in it."""
        memory = self._graph.memory(
            inputs, self._policy.buffers(), lambda: self._allocate(inputs, observation)
        )
        write(memory.inputs, inputs)
        memory.step.zero_()
        record(memory.seen, _Seen(inputs.carried.state, observation), memory.step)
        return memory

    def _allocate(self, inputs: _Inputs, observation: Tensor) -> _Memory:
        env, rows = self._env, len(inputs.draws) + 1
        own = map_tensors(lambda t: t.clone(memory_format=torch.contiguous_format), inputs)
        decision = choose_with(self._policy, own.params)(observation, own.draws[0])
        env.hold(own.carried)
        action = env.command(decision.action, own.noise[0])
        env.hold(inputs.carried)
        return _Memory(
            own,
            torch.zeros(1, dtype=torch.int64, device=observation.device),
            empty_rows(_Seen(inputs.carried.state, observation), rows),
            empty_rows(_Chosen(decision, action), rows),
            env.engine,
        )

    def _first(self, memory: _Memory) -> None:
        self._choose(memory, memory.seen.observation[0])

    def _between(self, memory: _Memory) -> None:
        self._env.hold(memory.inputs.carried)
        self._choose(memory, self._look(memory))

    def _look(self, memory: _Memory) -> Tensor:
        """Records the state after a step of the physics; returns its observation."""
        memory.step.add_(1)
        observation = self._env.look()
        seen = _Seen(self._env.carried().state, observation)
        record(memory.seen, seen, memory.step)
        write(memory.inputs.carried.state, seen.state)
        return observation

    def _choose(self, memory: _Memory, observation: Tensor) -> None:
        """Lets the policy act, writes the controls, and records both."""
        draw, noise = (
            values.index_select(0, memory.step)[0]
            for values in (memory.inputs.draws, memory.inputs.noise)
        )
        decision = choose_with(self._policy, memory.inputs.params)(observation, draw)
        action = self._env.command(decision.action, noise)
        record(memory.chosen, _Chosen(decision, action), memory.step)
        write(memory.inputs.carried.disturbances, self._env.carried().disturbances)
        self._env.hold(memory.inputs.carried)


def can_capture_steps(env: TensorVectorEnv) -> bool:
    """Returns whether steps in an environment can be captured: all on one GPU, unobserved."""
    return (
        isinstance(env, PhysicsVectorEnv)
        and env.device.type == "cuda"
        and all(tensor.device == env.device for tensor in env.engine.values())
        and env.observer is None
        and env.family.horizon >= SHORTEST
        and graphs_allowed()
    )
