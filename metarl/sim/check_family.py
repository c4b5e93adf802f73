"""Checks a user-defined family of control tasks against the interface."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import TaskError
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.sim.card import Card
from metarl.sim.check_calls import WORLDS, arguments, evaluate, started, uniform
from metarl.sim.check_purity import FEWER, purity_problems
from metarl.sim.check_task_values import unread_problems
from metarl.sim.episode_metrics import check_metrics
from metarl.sim.family import ControlTasks, TaskFamily, Tasks, TorchFamily, WorldState
from metarl.tasks.check_sampling import (
    NUM_TASKS,
    described_errors,
    randomness,
    seeded,
    splits,
)


def check_family(family: Any, seed: int = 0) -> None:
    """Checks a family of control tasks against `TaskFamily`.

    Checks the settings, the spaces, the card and the sampling of every split, and calls every
    method on a few worlds. Results must have the right shapes and dtypes, be finite and inside the
    spaces, be the same for the same arguments, and not depend on the other worlds. Arguments must
    not be modified.

    Of a gymnasium family, it plays episodes of up to 100 steps of random actions from 3 starts, to
    the end of which the same task, seed and actions must give the same: in another environment,
    after other episodes, and while another environment is stepped. Each parameter of `GymTasks`
    must change something, and environments whose attribute is set must behave like those that are
    built with it. What no such episode shows is not found. With `worlds=1`, none is played. Of a
    `VectorEnvTasks`, each parameter that is set in half of the worlds must change these alone; a
    simulator that does not repeat episodes of the same seed is not checked for it.

    Args:
        family: The family.
        seed: Seed of the checks.

    Raises:
        TaskError: A check failed; the message lists all problems.
    """
    report(f"{type(family).__name__} is not a usable family", family_problems(family, seed))


def report(title: str, problems: list[str]) -> None:
    """Reports problems, if there are any.

    Raises:
        TaskError: There is a problem; the message lists all of them.
    """
    if problems:
        listing = "\n".join(f"- {p}" for p in dict.fromkeys(problems))
        raise TaskError(f"{title}:\n{listing}")


def family_problems(family: Any, seed: int) -> list[str]:
    """Returns the problems of a family."""
    seed = check_int("seed", seed, NOT_NEGATIVE)
    if not isinstance(family, TaskFamily):
        return [f"it must be derived from TaskFamily, {type(family).__name__} is not"]
    # A problem in one stage would cause misleading errors in the next.
    calls = (_method_problems, _content_problems)
    if family.engine == "batched":  # its methods read what the worlds of episodes return
        calls = (_card_problems,)
    for stage in (_setting_problems, _sampling_problems, *calls):
        problems = list(described_errors(stage(family, seed)))
        if problems:
            return problems
    return list(described_errors(_episode_problems(family, seed)))


def _content_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    yield from _value_problems(family, seed)
    if family.engine != "gymnasium" or family.worlds is not None:  # of others, episodes tell it
        problems = list(purity_problems(family, seed))
        yield from problems
        if not problems and family.engine != "gymnasium":
            yield from unread_problems(family, seed)
    yield from _card_problems(family, seed)


def _episode_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    if family.engine == "batched":
        from metarl.sim.batched.check import simulator_problems

        yield from simulator_problems(family, seed)
    if family.engine != "gymnasium" or family.worlds is not None:
        return
    from metarl.sim.gymnasium.check_environments import environment_problems
    from metarl.sim.gymnasium.check_tasks import task_problems
    from metarl.sim.gymnasium.family import GymFamily

    problems = list(environment_problems(family, seed)) if isinstance(family, GymFamily) else []
    yield from problems
    if not problems and isinstance(family, GymFamily):
        yield from task_problems(family, seed)


def outside(space: spaces.Box, values: Tensor) -> bool:
    """Returns whether any of the values [W, O] is outside the box or not finite."""
    low, high = (torch.from_numpy(b).to(values.device) for b in (space.low, space.high))
    return not bool(((values >= low) & (values <= high) & values.isfinite()).all())


# Settings and spaces


def _setting_problems(family: TaskFamily, _seed: int) -> Iterator[str]:
    name = getattr(family, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\S+-v\d+", name):
        yield f'`name` must end with a version, as "{type(family).__name__}-v1", got {name!r}'
    horizon = getattr(family, "horizon", None)
    if not isinstance(horizon, int) or horizon < 1:
        yield f"`horizon` must be a whole number of at least 1, got {horizon!r}"
    for attribute in ("reset_noise", "step_noise"):
        value = getattr(family, attribute)
        if not isinstance(value, int) or value < 0:
            yield f"`{attribute}` must be a whole number of at least 0, got {value!r}"
    if not _is_vector(family.observation_space):
        yield f"`observation_space` must be a Box of [O] float32, got {family.observation_space}"
    space = family.action_space
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            yield f"`action_space` must start at 0, got {space}"
    elif not _is_vector(space):
        yield f"`action_space` must be a Box of [A] float32 or a Discrete, got {space}"


def _is_vector(space: Any) -> bool:
    is_box = isinstance(space, spaces.Box)
    return is_box and len(space.shape) == 1 and space.shape[0] > 0 and space.dtype == np.float32


# Tasks


def _sampling_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    for count in (1, FEWER, NUM_TASKS):
        problem = _tasks_problem(family.sample(count, seeded(seed)), count)
        if problem:
            yield problem
            return
    yield from randomness(family, seed)
    values = family.sample(NUM_TASKS, seeded(seed)).values
    if all((v == v[:1]).all() for v in values.values()):
        yield "all tasks of a batch are the same one"
    yield from splits(family, seed, disjoint=family.card().disjoint)


def _tasks_problem(tasks: Any, count: int) -> str | None:
    if not isinstance(tasks, ControlTasks):
        return f"`sample` must return ControlTasks, got {type(tasks).__name__}"
    if not isinstance(tasks.values, dict) or not tasks.values:
        return "`sample` must return at least one value that distinguishes tasks"
    for name, value in tasks.values.items():
        problem = _tensor_problem(f"the task value {name!r}", value, count)
        if problem:
            return problem
        if value.is_floating_point() and not value.isfinite().all():
            return f"the task value {name!r} is infinite or not a number"
    return None


def _tensor_problem(what: str, value: Any, count: int) -> str | None:
    if not isinstance(value, Tensor):
        return f"{what} must be a tensor, got {type(value).__name__}"
    if value.shape[:1] != (count,):
        return f"{what} must be [{count}, ...], as many rows as tasks, got {list(value.shape)}"
    if value.device.type != "cpu":
        return f"{what} must be on the device of what it is made from, cpu, got {value.device}"
    return None


# Methods


def _method_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    tasks, noise, actions = arguments(family, seed)
    state, problem = _call_for_state("reset", lambda: started(family, tasks, noise))
    after = state
    if not problem and isinstance(family, TorchFamily):
        numbers = uniform(family.step_noise, seed)
        after, problem = _call_for_state(
            "step", lambda: family.step(state, actions, tasks, numbers)
        )
        if not problem and _layout(after) != _layout(state):
            problem = f"`step` must return a state like reset's, {_layout(state)}, got "
            problem += str(_layout(after))
    if problem:
        yield problem
        return
    observation_shape = (WORLDS, family.observation_space.shape[0])
    calls: dict[str, tuple[Callable[[], Tensor], tuple[int | None, ...], torch.dtype]] = {
        "observe": (lambda: family.observe(state, tasks), observation_shape, torch.float32),
        "reward": (lambda: family.reward(state, actions, after, tasks), (WORLDS,), torch.float32),
        "terminated": (lambda: family.terminated(after, tasks), (WORLDS,), torch.bool),
        "truncated": (lambda: family.truncated(after, tasks), (WORLDS,), torch.bool),
        "task_vector": (lambda: family.task_vector(tasks), (WORLDS, None), torch.float32),
    }
    if family.longest_latency:
        calls["latency"] = (lambda: family.latency(tasks), (WORLDS,), torch.int64)
    if family.noisy_sensors:
        deviation = (lambda: family.sensor_deviation(tasks), observation_shape, torch.float32)
        calls["sensor_deviation"] = deviation
    for name, (call, shape, dtype) in calls.items():
        problem = _result_problem(name, call, shape, dtype)
        if problem:
            yield problem
    yield from _measure_problems(lambda: family.measure(state, actions, after, tasks), family)
    yield from _disturbance_problems(family, tasks)


def _measure_problems(call: Callable[[], dict[str, Tensor]], family: TaskFamily) -> Iterator[str]:
    """Yields what does not fit in the numbers of the metrics; NaN fits."""
    try:
        check_metrics(family.metrics)
        measured: Any = call()
    except Exception as error:
        yield f"`measure` fails: {type(error).__name__}: {error}"
        return
    expected = list(family.metrics)
    if not isinstance(measured, dict) or sorted(measured) != sorted(expected):
        found = list(measured) if isinstance(measured, dict) else type(measured).__name__
        yield f"`measure` must return the numbers of `metrics`, {expected}, got {found}"
        return
    for name, value in measured.items():
        problem = _result_problem(f"measure[{name!r}]", lambda v=value: v, (WORLDS,), torch.float32)
        if problem:
            yield problem


def _disturbance_problems(family: TaskFamily, tasks: Tasks) -> Iterator[str]:
    """Yields latencies and deviations of sensors that are out of their range."""
    most, drawn = family.longest_latency, family.observation_space.shape[0]
    late, deviation = family.latency(tasks), family.sensor_deviation(tasks)
    if not bool(((late >= 0) & (late <= most)).all()):
        yield f"`latency` must be 0 to `longest_latency`, {most}, got {late.tolist()}"
    if not family.noisy_sensors:
        if bool((deviation != 0).any()):
            yield "`sensor_deviation` has no effect: set `noisy_sensors` to True"
        return
    if not bool(((deviation >= 0) & deviation.isfinite()).all()):
        yield "`sensor_deviation` must be at least 0 and finite"
    if min(family.reset_noise, family.step_noise) < drawn:
        yield (
            f"`reset_noise` and `step_noise` must have {drawn} numbers for the sensors of a family "
            f"with `noisy_sensors`, got {family.reset_noise} and {family.step_noise}"
        )


def _call_for_state(name: str, call: Callable[[], WorldState]) -> tuple[WorldState, str | None]:
    """Returns the state that a method returns, and its first problem."""
    try:
        state: Any = call()
    except Exception as error:
        return {}, f"`{name}` fails: {type(error).__name__}: {error}"
    if not isinstance(state, dict) or not state:
        return {}, f"`{name}` must return a dict with at least one tensor, got {state!r}"
    problems = (_tensor_problem(f"`{name}`'s {n!r}", v, WORLDS) for n, v in state.items())
    return state, next((p for p in problems if p), None)


def _layout(state: WorldState) -> dict[str, tuple[Any, ...]]:
    return {n: (list(v.shape), v.dtype) for n, v in state.items()}


def _result_problem(
    name: str, call: Callable[[], Tensor], shape: tuple[int | None, ...], dtype: torch.dtype
) -> str | None:
    try:
        value: Any = call()
    except Exception as error:
        return f"`{name}` fails: {type(error).__name__}: {error}"
    if not isinstance(value, Tensor):
        return f"`{name}` must return a tensor, got {type(value).__name__}"
    matches = len(value.shape) == len(shape) and all(
        e in (None, s) for e, s in zip(shape, value.shape, strict=True)
    )
    if not matches or value.dtype != dtype:
        expected = ", ".join("D" if s is None else str(s) for s in shape)
        return f"`{name}` must return [{expected}] {dtype}, got {list(value.shape)} {value.dtype}"
    return None


# Values


def _value_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    values = evaluate(family, *arguments(family, seed), uniform(family.step_noise, seed))
    if outside(family.observation_space, values["observe"]):
        yield f"`observe` leaves the observation space {family.observation_space} or is not finite"
    for name in ("reward", "task_vector"):
        if not values[name].isfinite().all():
            yield f"`{name}` returns values that are infinite or not a number"


def _card_problems(family: TaskFamily, seed: int) -> Iterator[str]:
    del seed
    card: Any = family.card()
    if not isinstance(card, Card):
        yield f"`card` must return a Card, got {type(card).__name__}"
    elif card.name != family.name:
        yield f"the card's name must be the family's, {family.name!r}, got {card.name!r}"
