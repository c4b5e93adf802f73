"""Calls of the methods of a family in a few worlds, for its checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.sim.family import TaskFamily, Tasks, TorchFamily, WorldState
from metarl.sim.results import world_rows
from metarl.sim.sample_actions import sample_actions
from metarl.tasks.check_sampling import seeded

WORLDS = 8


def arguments(family: TaskFamily, seed: int) -> tuple[Tasks, Tensor, Tensor]:
    """Returns tasks, the numbers of a reset and actions of W worlds."""
    tasks = family.sample(WORLDS, seeded(seed)).values
    noise = uniform(family.reset_noise, seed + 1)
    return tasks, noise, sample_actions(family.action_space, (WORLDS,), seed + 2)


def started(family: TaskFamily, tasks: Tasks, noise: Tensor) -> WorldState:
    """Returns the initial states, with what the engine of a MuJoCo family adds."""
    state = family.reset(tasks, noise)
    complete = getattr(family, "completed", None)
    return state if complete is None or not state else complete(state, tasks)


def uniform(count: int, seed: int) -> Tensor:
    """Returns uniform numbers, [W, count]."""
    return torch.rand(WORLDS, count, generator=seeded(seed))


def evaluate(
    family: TaskFamily, tasks: Tasks, noise: Tensor, actions: Tensor, numbers: Tensor
) -> dict[str, Any]:
    """Calls every method once, in the order of an episode."""
    results = play(family, tasks, noise, actions, numbers)
    return {**results, "task_vector": family.task_vector(tasks)}


def _inputs(family: Any, state: WorldState, actions: Tensor, tasks: Tasks) -> dict[str, Any]:
    """Returns what a MuJoCo family gives to the physics before a step."""
    if family.engine != "mujoco":
        return {}
    controls = world_rows("`controls`", family.controls(actions, tasks), state["ctrl"].shape)
    mocap = family.mocap(state, actions, tasks) if "mocap_pos" in state else {}
    for name, pose in mocap.items():
        world_rows(f"`mocap`, of {name!r},", pose, state[name].shape)
    fields = family.checked_fields(tasks, len(actions))
    return {"controls": controls, "mocap": mocap, "model_fields": fields}


def play(
    family: TaskFamily, tasks: Tasks, noise: Tensor, actions: Tensor, numbers: Tensor
) -> dict[str, Any]:
    """Calls the methods that a step of an episode needs."""
    before = after = started(family, tasks, noise)
    if isinstance(family, TorchFamily):
        after = family.step(before, actions, tasks, numbers)
    return {
        **_inputs(family, before, actions, tasks),
        "reset": before,
        "step": after,
        "observe": family.observe(after, tasks),
        "reward": family.reward(before, actions, after, tasks),
        "terminated": family.terminated(after, tasks),
        "truncated": family.truncated(after, tasks),
        "measure": family.measure(before, actions, after, tasks),
    }
