"""Checks that the parameters of `GymTasks` take effect, as if environments were built with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from metarl.sim.gymnasium.check_environments import Player, Start, difference, starts
from metarl.sim.gymnasium.environments import WorldError
from metarl.sim.gymnasium.family import Task, each_task
from metarl.sim.gymnasium.fixed_attributes import (
    FixedAttribute,
    installed,
    is_kept,
    reads_attribute,
)
from metarl.sim.gymnasium.tasks import GymTasks, owner, takes_keyword
from metarl.tasks.check_sampling import NUM_TASKS, seeded

MOST_DEPTH = 4
# What environments record about how they were built, which changes nothing that they do.
RECORDS = ("_ezpickle_args", "_ezpickle_kwargs", "_saved_kwargs", "spec", "_spec", "_cached_spec")


def parameter_problems(family: GymTasks, seed: int) -> Iterator[str]:
    """Yields the parameters that change nothing, and those that come too late to change all."""
    all_starts = starts(family, seed)
    for name in family.own:
        tasks = _tasks_that_differ_in(family, name, all_starts[0].task, seed)
        try:
            problem = None
            if name in family.attributes:
                problem = _derived_problem(family, name, tasks, all_starts)
            problem = problem or _inertia_problem(family, name, tasks, all_starts)
        except WorldError as error:
            problem = f"an environment {error.what}"
        if problem:
            yield problem


def _tasks_that_differ_in(family: GymTasks, name: str, base: Task, seed: int) -> list[Task]:
    """Returns two tasks that differ only in one parameter, which is far apart."""
    values = family.sample(NUM_TASKS, seeded(seed)).values
    sampled = sorted((task[name] for task in each_task(values)), key=float)
    return [{**base, name: value} for value in (sampled[0], sampled[-1])]


# Parameters without effect


def _inertia_problem(
    family: GymTasks, name: str, tasks: list[Task], all_starts: list[Start]
) -> str | None:
    """Returns the problem of a parameter that changes nothing."""
    players = [Player(family) for _ in tasks]
    try:
        for start in all_starts:
            paths = [
                player.play(start._replace(task=task))
                for player, task in zip(players, tasks, strict=True)
            ]
            if difference(*paths):
                return None
    finally:
        for player in players:
            player.host.close()
    # The same episodes prove nothing where rewards are rare: look for what could matter.
    if name in family.attributes:
        if _is_overwritten(family, name, tasks, all_starts[0]):
            return (
                f"the parameter {name!r} changes nothing: `reset` gives the attribute a value of "
                "its own for every task; let it draw one only if none is set, or vary an "
                "attribute that `reset` leaves as it is"
            )
        reads, class_reads = _reads(family, name, all_starts[0]._replace(task=tasks[0]))
        if class_reads and not reads:
            return (
                f"the parameter {name!r} changes nothing: episodes read the attribute of the "
                f"class, and a task sets that of the object; read `self.{name}`"
            )
        # Code that no episode has run yet may read it, at a goal for example.
        if reads == 0 and not reads_attribute(type(owner(family.probe, name)), name):
            return (
                f"the parameter {name!r} changes nothing: no episode reads the attribute"
                f"{_advice_to_build(family, name)}"
            )
        return None
    envs = [family.apply_task(family.probe, task) for task in tasks]
    same = same_values(envs[0], envs[1], name, MOST_DEPTH)
    for env in envs:
        env.close()
    if not same:
        return None
    return (
        f"the parameter {name!r} changes nothing: environments that are built with other values of "
        "this keyword argument are the same; do `**kwargs` swallow it?"
    )


def _advice_to_build(family: GymTasks, name: str) -> str:
    """Returns what to do about an attribute that a constructor takes and nothing else reads."""
    if not takes_keyword(family.builder, name):
        return ""
    return (
        "; the constructor takes it, so build an environment for each task by a function whose "
        f"keyword has another name, as `lambda other: make({name}=other)`"
    )


def _is_overwritten(family: GymTasks, name: str, tasks: list[Task], start: Start) -> bool:
    """Returns whether an attribute has the same value after resets with different tasks."""
    given = [family.value_of(name, task) for task in tasks]
    found = []
    for task in tasks:
        player = Player(family)
        try:
            player.begin(start._replace(task=task))
            found.append(getattr(owner(player.env, name), name))
        finally:
            player.host.close()
    kept = all(same_values(a, b, name, 1) for a, b in zip(found, given, strict=True))
    first, second = found
    return same_values(first, second, name, MOST_DEPTH) and not kept


def _reads(family: GymTasks, name: str, start: Start) -> tuple[int | None, int]:
    """Returns how often an episode reads an attribute: of the object, and of its class.

    The first is None if that cannot be observed.
    """
    player = Player(family)
    attribute = FixedAttribute(name)
    try:
        player.begin(start)
        with installed(attribute, type(owner(family.probe, name))) as works:
            player.env.reset(seed=start.seed)  # without the reads of who sets the task
            for action in start.actions:
                player.step(action)
        return (attribute.reads, attribute.class_reads) if works else (None, 0)
    finally:
        player.host.close()


def same_values(a: Any, b: Any, name: str, depth: int) -> bool:
    """Returns whether two objects hold the same numbers and texts, as far as they can be seen."""
    if type(a) is not type(b):
        return False
    if isinstance(a, str | bytes | int | float | complex | np.generic | np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind in "fc"))
    if depth == 0:
        return True
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(
            same_values(x, y, name, depth - 1) for x, y in zip(a, b, strict=True)
        )
    first, second = (v if isinstance(v, Mapping) else getattr(v, "__dict__", {}) for v in (a, b))
    if isinstance(a, Mapping) and name in a:  # a record of the keyword arguments
        return True
    return first.keys() == second.keys() and all(
        key in RECORDS or same_values(value, second[key], name, depth - 1)
        for key, value in first.items()
    )


# Numbers that a constructor derived from an attribute


def _derived_problem(
    family: GymTasks, name: str, tasks: list[Task], all_starts: list[Start]
) -> str | None:
    """Compares environments whose attribute is set with such that are built with its value."""
    for task in tasks:
        built = _built_with(family, name, task)
        if built is None:
            return None
        changed = family.build(**family.keywords(task))
        family.set_attributes(changed, task)
        stale = sorted(_differing_numbers(built, changed, name))
        players = [Player(family) for _ in range(2)]
        for player, env in zip(players, (built, changed), strict=True):
            player.host.adopt(0, env, task)
        try:
            changes = (
                difference(*[player.play(start._replace(task=task)) for player in players])
                for start in all_starts
            )
            change = next((change for change in changes if change), None)
        finally:
            for player in players:
                player.host.close()
        if change:
            which = f" ({', '.join(stale[:5])})" if stale else ""
            return (
                f"setting {name!r} comes too late: the constructor has derived other numbers from "
                f"it{which}, and {change} differs from an environment that is built with it. "
                "Derive them in `reset`, make them properties, or make it a keyword argument that "
                f"the environment keeps under another name{_advice_to_build(family, name)}"
            )
    return None


def _built_with(family: GymTasks, name: str, task: Task) -> gymnasium.Env | None:
    """Builds an environment with the task's value of an attribute.

    Its constructor takes the value, where it has such an argument; else the attribute has the value
    throughout. Returns None if neither can be arranged: for properties, slots and classes of C.
    """
    value = family.value_of(name, task)
    if (given := _built_by_keyword(family, name, task)) is not None:
        return given
    attribute = FixedAttribute(name, value)
    with installed(attribute, type(owner(family.probe, name))) as works:
        if not works:
            return None
        try:
            env = family.build(**family.keywords(task))
        except Exception:  # the constructor does not take such a value: nothing to compare
            return None
    family.set_attributes(env, task)
    return env


def _built_by_keyword(family: GymTasks, name: str, task: Task) -> gymnasium.Env | None:
    """Builds an environment by a keyword argument that an attribute keeps; None if none does."""
    if not takes_keyword(family.builder, name):
        return None
    value = family.value_of(name, task)
    try:
        env = family.build(**{**family.keywords(task), name: value})
    except Exception:  # `**kwargs` may pass it to a constructor that does not know it
        return None
    if is_kept(getattr(owner(env, name), name), value):
        return env
    env.close()
    return None


def _differing_numbers(a: gymnasium.Env, b: gymnasium.Env, name: str) -> Iterator[str]:
    """Yields the names of the attributes of both that differ, layer by layer."""
    while True:
        for key, value in vars(a).items():
            is_comparable = key not in (name, "env", *RECORDS) and key in vars(b)
            if is_comparable and not same_values(value, vars(b)[key], name, 1):
                yield key
        if not (isinstance(a, gymnasium.Wrapper) and isinstance(b, gymnasium.Wrapper)):
            return
        a, b = a.env, b.env
