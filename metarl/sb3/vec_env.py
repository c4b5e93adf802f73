"""An adapter from `TensorVectorEnv` to the VecEnv of Stable-Baselines3."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.ranges import SEED, check_int
from metarl.rl.units import ActionScale
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.rendering import make_renderer
from metarl.sim.single_env import Task, as_arrays, bounded, task_values
from metarl.sim.spaces import source_of
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import choose, take_tasks, to_device

Indices = int | Sequence[int] | None
"""Indices of worlds; None stands for all worlds."""


class SB3VecEnv(VecEnv):
    """Stable-Baselines3 VecEnv over a `TensorVectorEnv`, with NumPy arrays.

    One call steps all worlds. A world whose episode ends is reset within the step; its last
    observation is `infos[i]["terminal_observation"]`, and `infos[i]["TimeLimit.truncated"]` is
    whether the episode was truncated at the horizon, and `infos[i]["metrics"]` are the family's
    metrics of the episode, by name. As in `SingleEnv`, an unbounded action space is declared as
    [-1, 1], with a warning: Stable-Baselines3 clips actions to that.

    Worlds keep their tasks, unless `resample` is set. `env_method("set_task", task, indices=[i])`
    changes the task of world i immediately, but for families of gymnasium environments and batched
    simulators at its next reset; `env_method("get_task")` returns the tasks of all worlds. All
    worlds share one generator: `seed(s)` seeds it with s at the next reset.

    Args:
        env: The vector environment, with `autoreset="disabled"`.
        resample: Whether every reset of a world draws a new task from the family.
        render_mode: "rgb_array", for `render` and video recorders, or None.
        seed: Seed for drawing tasks.
        scale_actions: Whether actions are declared as [-1, 1] and mapped to their finite bounds.

    Raises:
        SettingsError: `env` resets its worlds automatically, or the render mode is unknown.
    """

    def __init__(
        self,
        env: TensorVectorEnv,
        *,
        resample: bool = False,
        render_mode: str | None = None,
        seed: int = 0,
        scale_actions: bool = False,
    ) -> None:
        if not isinstance(env, TensorVectorEnv):
            raise SettingsError(
                f"Expected worlds of `metarl.sim.make_vec`, got {short_repr(env)}. "
                "Stable-Baselines3 takes environments of gymnasium as they are."
            )
        if env.metadata["autoreset_mode"] != gymnasium.vector.AutoresetMode.DISABLED:
            raise SettingsError('Expected worlds made with autoreset="disabled".')
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(
                f"Expected the render mode 'rgb_array' or None, got {render_mode!r}."
            )
        self.env = env
        self.env.render_mode = render_mode
        self._resample = resample
        self._task_source = torch.Generator().manual_seed(check_int("seed", seed, SEED))
        self._actions: Any = None
        self._renderer: WorldRenderer | None = None
        space = bounded(env.single_action_space)
        if space is not env.single_action_space:
            warnings.warn(
                f"The actions {env.single_action_space} have no finite bounds, which "
                f"Stable-Baselines3 needs: it clips them to {space}. Declare the bounds that are "
                "meant in the environment's action space.",
                stacklevel=2,
            )
        self._scale: ActionScale | None = None
        if scale_actions and isinstance(space, spaces.Box):
            # A plain box, so that the numbers of choices are mapped too.
            entries = spaces.Box(space.low, space.high, dtype=np.float32)
            self._scale = ActionScale(entries).to(env.device)
            limits = np.ones(space.shape, np.float32)
            space = spaces.Box(-limits, limits, dtype=np.float32)
        elif isinstance(source_of(space), spaces.MultiDiscrete | spaces.MultiBinary):
            space = _from_zero(source_of(space))
        super().__init__(env.num_envs, env.single_observation_space, space)

    # Episodes

    def reset(self) -> np.ndarray:
        """Resets all worlds and returns the observations, [W, O] float32.

        Raises:
            SettingsError: Options were set; there are no options.
        """
        if any(self._options):
            raise SettingsError(
                'Worlds of tensors take no options; env_method("set_task", task) sets tasks.'
            )
        seed = self._seeds[0]
        self._reset_seeds()
        if seed is not None:
            self._task_source.manual_seed(check_int("seed", seed, SEED))
        self._draw_tasks(torch.ones(self.num_envs, dtype=torch.bool))
        observation, _ = self.env.reset(seed=seed)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return _array(observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Stores the actions of the next step, [W, A] float32 or [W] int64."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps all worlds, and resets those whose episode has ended.

        Returns:
            Observations [W, O] float32, rewards [W] float32, whether each episode has ended [W]
            bool, and one dict per world.
        """
        actions = self._actions
        if self._scale is not None:
            actions = self._scale(torch.as_tensor(actions, device=self.env.device))
        observation, reward, terminated, truncated, info = self.env.step(actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        dones = done.cpu()
        if dones.any():
            final, cut_off = _array(observation), (truncated & ~terminated).tolist()
            metrics = {n: v.tolist() for n, v in info.get("metrics", {}).items()}
            for world in dones.nonzero()[:, 0].tolist():
                infos[world] = {
                    "terminal_observation": final[world],
                    "TimeLimit.truncated": cut_off[world],
                    "metrics": {name: values[world] for name, values in metrics.items()},
                }
            self._draw_tasks(dones)
            mask = None if dones.all() else done  # a reset of all worlds takes fewer operations
            observation, _ = self.env.reset(options={"reset_mask": mask})
        return _array(observation), _array(reward), dones.numpy().copy(), infos

    def close(self) -> None:
        """Closes the renderer and the worlds; repeated calls are allowed."""
        if self._renderer is not None:
            self._renderer.close()
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray]:
        """Returns one frame per world, uint8 [H, W, 3] with H, W <= 480."""
        if self._renderer is None:
            self._renderer = make_renderer(self.env)
        return [self._renderer.frame(world) for world in range(self.num_envs)]

    # Attributes and methods

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Returns an attribute of the vector environment, once per requested world.

        Raises:
            AttributeError: There is no such attribute.
        """
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the vector environment, which all worlds share.

        Raises:
            SettingsError: `indices` does not name all worlds, or it is a value of tasks.
        """
        if attr_name in self.env.get_tasks():
            raise SettingsError(
                f"{attr_name!r} is a value of tasks, which an attribute would not change: call "
                f'`env_method("set_task", {{{attr_name!r}: ...}})`.'
            )
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise SettingsError(
                f"The worlds have the attribute {attr_name!r} in common; set it for all of them."
            )
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls "set_task", "get_task" or "sample_tasks" for each requested world.

        The methods have the same arguments and results as those of `SingleEnv`.

        Raises:
            AttributeError: There is no such method.
            ShapeError: The task has other values than the family's tasks.
        """
        methods: dict[str, Callable[..., Any]] = {
            "set_task": self._set_task,
            "get_task": lambda world: as_arrays(take_tasks(self.env.get_tasks(), world, world + 1)),
            "sample_tasks": lambda _, number: [
                as_arrays(self.env.family.sample(1, self._task_source).values)
                for _ in range(number)
            ],
        }
        if method_name not in methods:
            raise AttributeError(
                f"Worlds of tensors have no method {method_name!r} of one world; "
                f"known: {', '.join(methods)}."
            )
        method = methods[method_name]
        return [method(i, *method_args, **method_kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Indices = None
    ) -> list[bool]:
        """Returns False for each requested world: worlds have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    # Parts

    def _set_task(self, world: int, task: Task) -> None:
        values = self.env.get_tasks()
        for name, value in task_values(self.env.family, task).items():
            values[name][world] = value[0]
        self.env.set_tasks(values)

    def _draw_tasks(self, mask: Tensor) -> None:
        """With `resample`, draws new tasks for the marked worlds, [W] bool."""
        if not self._resample:
            return
        new = self.env.family.sample(self.num_envs, self._task_source).values
        old = self.env.get_tasks()
        self.env.set_tasks(choose(mask, to_device(new, self.env.device), old))


def _from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the space of flat actions, whose choices count from 0."""
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.ravel())
    return spaces.MultiBinary(int(np.prod(space.shape or ())))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().copy()
