"""Worlds of tensors as a VecEnv of Stable-Baselines3, so that its algorithms train on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.rendering import make_renderer
from metarl.sim.single_env import Task, as_arrays, bounded, task_values
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import choose, take_tasks, to_device

Indices = int | Sequence[int] | None
"""Which worlds: one, some or, None, all."""


class SB3VecEnv(VecEnv):
    """The worlds of a `TensorVectorEnv` as Stable-Baselines3 has them: NumPy arrays.

    All worlds go on in one call. Those that are done start anew within the step; their last
    observation is `infos[i]["terminal_observation"]`, and `infos[i]["TimeLimit.truncated"]` tells
    whether the horizon cut them off. As in gymnasium's `SingleEnv`, an infinite action space is
    declared as [-1, 1].

    Worlds keep their tasks, unless `resample` draws another one for each episode. Of one world,
    `env_method("set_task", task, indices=[i])` changes it at once, `env_method("get_task")` tells
    all. The worlds have one generator: `seed(s)` seeds it with s at the next reset.

    Args:
        env: The worlds, which must not reset themselves (`autoreset="disabled"`).
        resample: Draws a new task from the family at every reset of a world.
        render_mode: "rgb_array", for `render` and video recorders, or None.
        seed: Seed of the tasks that are drawn.

    Raises:
        SettingsError: The worlds reset themselves, or the render mode is unknown.
    """

    def __init__(
        self,
        env: TensorVectorEnv,
        *,
        resample: bool = False,
        render_mode: str | None = None,
        seed: int = 0,
    ) -> None:
        if env.metadata["autoreset_mode"] != gymnasium.vector.AutoresetMode.DISABLED:
            raise SettingsError('Expected worlds made with autoreset="disabled".')
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(
                f"Expected the render mode 'rgb_array' or None, got {render_mode!r}."
            )
        self.env = env
        self.env.render_mode = render_mode
        self._resample = resample
        self._task_source = torch.Generator().manual_seed(seed)
        self._actions: Any = None
        self._renderer: WorldRenderer | None = None
        super().__init__(
            env.num_envs, env.single_observation_space, bounded(env.single_action_space)
        )

    # Episodes

    def reset(self) -> np.ndarray:
        """Starts an episode in every world; returns the observations, [W, O] float32.

        Raises:
            SettingsError: Options were set: there are none.
        """
        if any(self._options):
            raise SettingsError(
                'Worlds of tensors take no options; env_method("set_task", task) sets tasks.'
            )
        seed = self._seeds[0]
        self._reset_seeds()
        if seed is not None:
            self._task_source.manual_seed(seed)
        self._draw_tasks(torch.ones(self.num_envs, dtype=torch.bool))
        observation, _ = self.env.reset(seed=seed)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return _array(observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions of the next step, [W, A] or [W]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Moves every world on by one step.

        Returns:
            Observations [W, O] float32, rewards [W] float32, which worlds are done [W] bool, and
            one dict per world.
        """
        observation, reward, terminated, truncated, _ = self.env.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        dones = done.cpu()
        if dones.any():
            final, cut = _array(observation), (truncated & ~terminated).tolist()
            for world in dones.nonzero()[:, 0].tolist():
                infos[world] = {
                    "terminal_observation": final[world],
                    "TimeLimit.truncated": cut[world],
                }
            self._draw_tasks(dones)
            observation, _ = self.env.reset(options={"reset_mask": done})
        return _array(observation), _array(reward), dones.numpy().copy(), infos

    def close(self) -> None:
        """Frees pictures and worlds; it may be called again."""
        if self._renderer is not None:
            self._renderer.close()
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray]:
        """Returns a picture of each world, [480, 480, 3] uint8 or of other proportions."""
        if self._renderer is None:
            self._renderer = make_renderer(self.env)
        return [self._renderer.frame(world) for world in range(self.num_envs)]

    # Attributes and methods

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Returns an attribute of the worlds, which have all of them in common.

        Raises:
            AttributeError: They have none of this name.
        """
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of all worlds.

        Raises:
            SettingsError: Only some worlds are meant.
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise SettingsError(
                f"The worlds have the attribute {attr_name!r} in common; set it for all of them."
            )
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls "set_task", "get_task" or "sample_tasks" of `SingleEnv` for some worlds.

        Raises:
            AttributeError: The method is another one.
            ShapeError: The task has other values than the family's.
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
        """Tells that no world is wrapped."""
        return [False for _ in self._get_indices(indices)]

    # Parts

    def _set_task(self, world: int, task: Task) -> None:
        values = self.env.get_tasks()
        for name, value in task_values(self.env.family, task).items():
            values[name][world] = value[0]
        self.env.set_tasks(values)

    def _draw_tasks(self, worlds: Tensor) -> None:
        if not self._resample:
            return
        fresh = self.env.family.sample(self.num_envs, self._task_source).values
        present = self.env.get_tasks()
        self.env.set_tasks(choose(worlds, to_device(fresh, self.env.device), present))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().copy()
