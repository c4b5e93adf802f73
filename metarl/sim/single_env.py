"""One world of any family as a gymnasium environment of NumPy arrays, for other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.registry import check_choice
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.make import make_family, make_vec
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.rendering import make_renderer, step_seconds
from metarl.sim.vector_env import TensorVectorEnv
from metarl.tasks.base import Split
from metarl.trees import map_tensors, take_tasks

Task = Mapping[str, Any]
"""One task: name -> a number, or an array of numbers."""


class SingleEnv(gymnasium.Env[np.ndarray, Any]):
    """One world of a family: what `gymnasium.make("metarl/HalfCheetahVelocity-v1")` gives.

    `reset` tells the task that it plays, `info["task"]`. Episodes are truncated at the family's
    horizon. `sample_tasks`, `set_task` and `get_task` are those that other meta-learning libraries
    look for. A first reset without a seed takes one from the operating system.

    Args:
        family: A family, or the name of one.
        task: The values of a task ({"velocity": 1.5}); None draws one at every reset.
        split: The split that tasks are drawn from.
        observe_task: Appends the family's `task_vector` to what is observed.
        render_mode: "rgb_array" or None. See `TaskFamily.draw` for what is not MuJoCo's. Of "human"
            `gymnasium.make` makes a window of its own that shows these pictures.
        width: Of a picture, pixels.
        height: Of a picture, pixels.
        engine: See `make_vec`.
        **settings: Of the family, where it is named: `horizon=100`.

    Raises:
        SettingsError: A setting is not usable.
        ShapeError: The task has other values than the family's.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        family: TaskFamily | str,
        *,
        task: Task | None = None,
        split: Split = "train",
        observe_task: bool = False,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        engine: str = "auto",
        **settings: Any,
    ) -> None:
        self.family = _family(family, split, settings)
        self.metadata = {**SingleEnv.metadata, "render_fps": _rate(self.family)}
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(
                f"Expected the render mode 'rgb_array' or None, got {render_mode!r}; "
                "gymnasium.wrappers.HumanRendering shows pictures in a window."
            )
        self.render_mode = render_mode
        self._size = (width, height)
        # One world is not worth a thread of its own.
        threads = {"threads": 1} if isinstance(self.family, MujocoFamily) else {}
        worlds = self._worlds = make_vec(
            self.family, 1, device="cpu", engine=engine, autoreset="disabled",
            observe_task=observe_task, **threads,
        )  # fmt: skip
        self._task_source = torch.Generator()
        self._fixed = None if task is None else task_values(self.family, task)
        self._seeded = False
        self._renderer: WorldRenderer | None = None
        self.observation_space = worlds.single_observation_space
        self.action_space = bounded(worlds.single_action_space)

    # gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds tasks, resets and steps anew; None goes on with their randomness.
            options: {"task": values} plays that task from now on; as `set_task`.

        Returns:
            The observation, [O] float32, and {"task": the task that is played}.

        Raises:
            SettingsError: An option is unknown.
            ShapeError: The task has other values than the family's.
        """
        super().reset(seed=seed)
        for name in options or {}:
            check_choice("option of reset", name, ["task"])
        if options and "task" in options:
            self.set_task(options["task"])
        if seed is not None or not self._seeded:
            seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self._task_source.manual_seed(int(self.np_random.integers(2**62)))
            self._seeded = True
        if self._fixed is None:
            self._worlds.set_tasks(self.family.sample(1, self._task_source).values)
        else:
            self._worlds.set_tasks(self._fixed)
        observation, _ = self._worlds.reset(seed=seed)
        return observation[0].numpy().copy(), {"task": self.get_task()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the world on by one step.

        Args:
            action: [A] numbers, clipped to the space by the family, or one whole number.

        Returns:
            The observation, [O] float32, the reward, terminated, truncated, and an empty dict.

        Raises:
            ShapeError: The action has another shape.
            SimulationError: `reset` was not called yet; or, by the end of the episode at the
                latest, a number was not finite or an action not in the space.
        """
        actions = torch.as_tensor(np.asarray(action)).unsqueeze(0)
        observation, reward, terminated, truncated, _ = self._worlds.step(actions)
        if terminated or truncated:
            self._worlds.check()
        return (
            observation[0].numpy().copy(), float(reward), bool(terminated),
            bool(truncated and not terminated), {},
        )  # fmt: skip

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns a picture of the world, [height, width, 3] uint8, with `render_mode` set.

        Raises:
            SettingsError: There is no OpenGL for MuJoCo's worlds.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() shows nothing without a render mode; pass render_mode='rgb_array' to "
                "gymnasium.make."
            )
            return None
        if self._renderer is None:
            self._renderer = make_renderer(self._worlds, *self._size)
            if self._renderer.note:
                gymnasium.logger.warn(self._renderer.note)
        return self._renderer.frame(0)

    def close(self) -> None:
        """Frees pictures and worlds; it may be called again."""
        if self._renderer is not None:
            self._renderer.close()
        self._worlds.close()

    # Tasks

    def sample_tasks(self, num_tasks: int) -> list[dict[str, np.ndarray]]:
        """Draws tasks of the split, for `set_task`; `reset(seed=...)` seeds them.

        Raises:
            TaskError: The number is below 1.
        """
        tasks = self.family.sample(num_tasks, self._task_source).values
        return [as_arrays(take_tasks(tasks, t, t + 1)) for t in range(num_tasks)]

    def set_task(self, task: Task) -> None:
        """Plays this task from the next reset on.

        Raises:
            ShapeError: The task has other values than the family's.
        """
        self._fixed = task_values(self.family, task)

    def get_task(self) -> dict[str, np.ndarray]:
        """Returns the values of the task that is played."""
        return as_arrays(self._worlds.get_tasks())


def make_worlds(
    family: TaskFamily | str,
    num_envs: int,
    *,
    split: Split = "train",
    task: Task | None = None,
    device: torch.device | str = "cpu",
    engine: str = "auto",
    autoreset: Any = "same_step",
    observe_task: bool = False,
    seed: int = 0,
    render_mode: None = None,
    **settings: Any,
) -> TensorVectorEnv:
    """Builds many worlds of a family: `gymnasium.make_vec("metarl/Navigation2D-v1", num_envs=64)`.

    They are tensors, as of `make_vec`, and keep their tasks: each has one drawn with `seed`, or
    all have `task`.

    Args:
        family: A family, or the name of one.
        num_envs: The number of worlds.
        split: The split that tasks are drawn from.
        task: A task for all worlds; None draws one for each.
        device: See `make_vec`.
        engine: See `make_vec`.
        autoreset: See `TensorVectorEnv`.
        observe_task: See `TensorVectorEnv`.
        seed: See `TensorVectorEnv`.
        render_mode: None; `make_renderer` makes pictures of worlds.
        **settings: Of the family, where it is named.

    Raises:
        SettingsError: A setting is not usable.
        ShapeError: The task has other values than the family's.
    """
    if render_mode is not None:
        raise SettingsError(
            "Vector environments have no render mode; `metarl.sim.make_renderer` makes pictures."
        )
    family = _family(family, split, settings)
    env = make_vec(
        family, num_envs, device, engine, autoreset=autoreset, observe_task=observe_task, seed=seed
    )
    if task is not None:
        one = task_values(family, task)
        env.set_tasks(map_tensors(lambda t: t.repeat_interleave(num_envs, 0), one))
    return env


def task_values(family: TaskFamily, task: Task) -> Tasks:
    """Returns the values of one task as tensors, [1, *] per name.

    Raises:
        ShapeError: A value is missing, unknown, of another shape or no number.
    """
    example = family.sample(1, torch.Generator()).values
    for name in task:
        check_choice(f"task value of {family.name}", name, example, ShapeError)
    return {name: _value(name, like, task) for name, like in example.items()}


def as_arrays(tasks: Tasks) -> dict[str, np.ndarray]:
    """Returns the values of the first of some tasks as arrays of their own."""
    return {name: value[0].cpu().numpy().copy() for name, value in tasks.items()}


def bounded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the action space with limits of -1 and 1 where it has none.

    Other libraries draw actions from it and refuse infinite ones. It only declares: what they send
    is not scaled.
    """
    if not isinstance(space, spaces.Box) or space.is_bounded():
        return space
    low = np.where(np.isfinite(space.low), space.low, -1.0)
    high = np.where(np.isfinite(space.high), space.high, 1.0)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _value(name: str, like: Tensor, task: Task) -> Tensor:
    try:
        value = torch.as_tensor(task[name], dtype=like.dtype).cpu()
    except KeyError:
        raise ShapeError(f"Expected a task value {name!r}, got {', '.join(task)}.") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"Expected numbers as the task value {name!r}: {error}.") from error
    if value.shape != like.shape[1:]:
        raise ShapeError(
            f"Expected the task value {name!r} of shape {tuple(like.shape[1:])}, got "
            f"{tuple(value.shape)}."
        )
    return value.unsqueeze(0).clone()


def _family(family: TaskFamily | str, split: Split, settings: Mapping[str, Any]) -> TaskFamily:
    if isinstance(family, str):
        family = make_family(family, **settings)
    elif settings:
        raise SettingsError(
            f"The settings {', '.join(settings)} are the family's: pass them where it is built."
        )
    return family.split(split)


def _rate(family: TaskFamily) -> int:
    """Returns how many pictures make a second: as many as there are steps, where time is real."""
    return max(round(1 / (step_seconds(family) or 0.1)), 1)
