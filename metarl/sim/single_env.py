"""One world of any family as a Gymnasium environment of NumPy arrays, for other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.registry import check_choice
from metarl.sim.arguments import check_numbers, reset_seed
from metarl.sim.family import TaskFamily, Tasks, check_is_family
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.make import make_family, make_vec
from metarl.sim.numpy_vector_env import NumpyVectorEnv
from metarl.sim.rendering import make_renderer
from metarl.sim.spaces import FlatBox
from metarl.sim.vector_env import TensorVectorEnv
from metarl.tasks.base import Split
from metarl.trees import map_tensors, take_tasks

Task = Mapping[str, Any]
"""One task: name -> a number, or an array of numbers."""


class SingleEnv(gymnasium.Env[np.ndarray, Any]):
    """One world of a family: `gymnasium.make("metarl/HalfCheetahVelocity-v1")` returns one.

    `reset` returns the current task as `info["task"]`. Episodes are truncated at the family's
    horizon. `sample_tasks`, `set_task` and `get_task` follow the interface that other meta-learning
    libraries use. If the first reset has no seed, the operating system supplies one.

    Args:
        family: A family, or its name.
        task: A fixed task, such as {"velocity": 1.5}; None samples one at every reset.
        split: The split that tasks are sampled from.
        observe_task: Appends the family's `task_vector` to observations.
        render_mode: "rgb_array" or None. For "human", `gymnasium.make` shows these pictures in a
            window. Families without a renderer of their engine are drawn by `TaskFamily.draw`.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.
        engine: See `make_vec`.
        **settings: Settings of a family that is given by name, such as `horizon=100`.

    Raises:
        SettingsError: A setting is invalid.
        ShapeError: The task's names or shapes are not those of the family.
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
        self.family = _resolve_family(family, split, settings)
        self.metadata = {**SingleEnv.metadata, "render_fps": _render_fps(self.family)}
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(
                f"Expected the render mode 'rgb_array' or None, got {render_mode!r}; "
                "gymnasium.wrappers.HumanRendering shows pictures in a window."
            )
        self.render_mode = render_mode
        self._size = (width, height)
        # For one world, one thread is enough.
        threads = {"threads": 1} if self.family.engine == "mujoco" else {}
        worlds = self._worlds = make_vec(
            self.family, 1, device="cpu", engine=engine, autoreset="disabled",
            observe_task=observe_task, **threads,
        )  # fmt: skip
        self._task_generator = torch.Generator()
        self._fixed_task = None if task is None else task_values(self.family, task)
        self._seeded = False
        self._renderer: WorldRenderer | None = None
        self.observation_space = worlds.single_observation_space
        self.action_space = bounded(worlds.single_action_space)

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds the tasks, resets and steps; None continues with the generators' states.
            options: {"task": values} calls `set_task`.

        Returns:
            The observation, [O] float32, and {"task": the current task}.

        Raises:
            SettingsError: An option is unknown.
            ShapeError: The task's names or shapes are not those of the family.
        """
        super().reset(seed=(seed := reset_seed(seed)))
        for name in options or {}:
            check_choice("option of reset", name, ["task"])
        if options and "task" in options:
            self.set_task(options["task"])
        if seed is not None or not self._seeded:
            seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self._task_generator.manual_seed(int(self.np_random.integers(2**62)))
            self._seeded = True
        if self._fixed_task is None:
            self._worlds.set_tasks(self.family.sample(1, self._task_generator).values)
        else:
            self._worlds.set_tasks(self._fixed_task)
        observation, _ = self._worlds.reset(seed=seed)
        return observation[0].numpy().copy(), {"task": self.get_task()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Steps the world once.

        Args:
            action: [A] numbers, clipped to the space by the family, or one integer.

        Returns:
            The observation, [O] float32, the reward, terminated, truncated, and an empty dict.

        Raises:
            ShapeError: The action has another shape.
            SimulationError: `reset` was not called yet; or a number was not finite or an action
                not in the space. The values are checked at the end of the episode at the latest.
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
        """Returns a picture of the world, [height, width, 3] uint8; None without `render_mode`.

        Raises:
            SettingsError: The family needs OpenGL, which is not available.
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
        """Closes the renderer and the worlds; repeated calls have no effect."""
        if self._renderer is not None:
            self._renderer.close()
        self._worlds.close()

    # Tasks

    def sample_tasks(self, num_tasks: int) -> list[dict[str, np.ndarray]]:
        """Samples tasks of the split, for `set_task`; `reset(seed=...)` seeds the generator.

        Raises:
            TaskError: The number is below 1.
        """
        tasks = self.family.sample(num_tasks, self._task_generator).values
        return [as_arrays(take_tasks(tasks, t, t + 1)) for t in range(num_tasks)]

    def set_task(self, task: Task) -> None:
        """Sets the task of all episodes from the next reset on.

        Raises:
            ShapeError: The task's names or shapes are not those of the family.
        """
        self._fixed_task = task_values(self.family, task)

    def get_task(self) -> dict[str, np.ndarray]:
        """Returns the current task as arrays."""
        return as_arrays(self._worlds.get_tasks())


def make_worlds(
    family: TaskFamily | str,
    num_envs: int,
    *,
    split: Split = "train",
    task: Task | None = None,
    device: torch.device | str = "cpu",
    engine: str = "auto",
    autoreset: Any = "next_step",
    observe_task: bool = False,
    seed: int = 0,
    numpy: bool = True,
    render_mode: None = None,
    **settings: Any,
) -> TensorVectorEnv | NumpyVectorEnv:
    """Builds many worlds of a family: `gymnasium.make_vec("metarl/Navigation2D-v1", num_envs=64)`.

    As gymnasium's own vector environments, it has arrays and resets at the step after an end, which
    gymnasium's wrappers expect; `make_vec` has tensors. Tasks stay the same across resets.

    Args:
        family: A family, or its name.
        num_envs: The number of worlds.
        split: The split that tasks are sampled from.
        task: A task for all worlds; None samples one for each world with `seed`.
        device: See `make_vec`.
        engine: See `make_vec`.
        autoreset: See `TensorVectorEnv`.
        observe_task: See `TensorVectorEnv`.
        seed: See `TensorVectorEnv`.
        numpy: Whether values are NumPy arrays; False: the tensor environment of `make_vec`.
        render_mode: Must be None; use `make_renderer` for pictures.
        **settings: Settings of a family that is given by name.

    Raises:
        SettingsError: A setting is invalid.
        ShapeError: The task's names or shapes are not those of the family.
    """
    if render_mode is not None:
        raise SettingsError(
            "Vector environments have no render mode; `metarl.sim.make_renderer` makes pictures."
        )
    family = _resolve_family(family, split, settings)
    env = make_vec(
        family, num_envs, device, engine, autoreset=autoreset, observe_task=observe_task, seed=seed
    )
    if task is not None:
        values = task_values(family, task)
        env.set_tasks(map_tensors(lambda v: v.repeat_interleave(num_envs, 0), values))
    return NumpyVectorEnv(env) if numpy else env


def task_values(family: TaskFamily, task: Task) -> Tasks:
    """Returns the values of one task as tensors, [1, *] per name.

    Raises:
        ShapeError: It is no dict, or a value is missing, unknown, of another shape or not numeric.
    """
    example = family.sample(1, torch.Generator()).values
    if not isinstance(task, Mapping):
        names = ", ".join(f"{name!r}: ..." for name in example)
        raise ShapeError(
            f"Expected a task of {family.name} as a dict, {{{names}}}, got {short_repr(task)}."
        )
    for name in task:
        check_choice(f"task value of {family.name}", name, example, ShapeError)
    return {name: _task_value(name, like, task) for name, like in example.items()}


def as_arrays(tasks: Tasks) -> dict[str, np.ndarray]:
    """Returns the first task of a batch as arrays (copies)."""
    return {name: value[0].cpu().numpy().copy() for name, value in tasks.items()}


def bounded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the action space with infinite bounds replaced by -1 and 1.

    Where the other bound is finite and leaves less room than 1, such as 5, it is 1 from that one.
    Other libraries sample from the action space and require finite bounds. Actions are not scaled.
    """
    if not isinstance(space, spaces.Box) or space.is_bounded():
        return space
    low, high = space.low, space.high
    below, above = np.isfinite(low), np.isfinite(high)
    lower = np.where(above, np.minimum(high - 1, -1), -1)
    upper = np.where(below, np.maximum(low + 1, 1), 1)
    low, high = np.where(below, low, lower), np.where(above, high, upper)
    if isinstance(space, FlatBox):
        return FlatBox(low, high, space.source)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _task_value(name: str, like: Tensor, task: Task) -> Tensor:
    try:
        check_numbers(name, torch.as_tensor(task[name]), like)
        value = torch.as_tensor(task[name], dtype=like.dtype).cpu()
    except KeyError:
        raise ShapeError(f"Expected a task value {name!r}, got {', '.join(task)}.") from None
    except ShapeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"Expected numbers as the task value {name!r}: {error}.") from error
    if value.shape != like.shape[1:]:
        raise ShapeError(
            f"Expected the task value {name!r} of shape {tuple(like.shape[1:])}, got "
            f"{tuple(value.shape)}."
        )
    if not value.isfinite().all():
        raise ShapeError(f"Expected finite numbers as the task value {name!r}, got {task[name]}.")
    return value.unsqueeze(0).clone()


def _resolve_family(
    family: TaskFamily | str, split: Split, settings: Mapping[str, Any]
) -> TaskFamily:
    if isinstance(family, str):
        family = make_family(family, **settings)
    elif settings:
        raise SettingsError(
            f"The settings {', '.join(settings)} are the family's: pass them where it is built."
        )
    check_is_family(family)
    return family.split(split)


def _render_fps(family: TaskFamily) -> int:
    """Returns the frames per second at which a video runs in real time; 10 without a time step."""
    return max(round(1 / (family.step_seconds or 0.1)), 1)
