"""Families for tests of engines: all random, with ends; a model that tasks change."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium import spaces

from metarl.sim import Card, ControlTasks, MujocoFamily, TaskFamily, TorchFamily
from metarl.tasks.base import check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform


def task_size(family: TaskFamily) -> int:
    """Returns D, the size of the family's task vectors."""
    return family.task_vector(family.sample(1, torch.Generator()).values).shape[1]


@dataclass(frozen=True)
class Drift(TorchFamily):
    """A number drifts by a task's speed, noise and the action, until it leaves [-1, 1]."""

    horizon: int = 6
    part: str = "train"

    name = "Drift-v1"
    reset_noise = 1
    step_noise = 2

    @property
    def observation_space(self):
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self):
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def card(self):
        return Card(self.name, "a number drifts", "tests", ())

    def split(self, name):
        return replace(self, part=check_split(name))

    def sample(self, num_tasks, generator):
        check_sampling(num_tasks, generator)
        draws = torch.rand(2, num_tasks, generator=generator, device=generator.device)
        return ControlTasks({"speed": 0.2 * split_uniform(draws[0], draws[1], self.part)})

    def reset(self, tasks, noise):
        return {"place": noise[:, 0] - 0.5, "steps": torch.zeros(len(noise), dtype=torch.int64)}

    def step(self, state, actions, tasks, noise):
        move = 0.5 * actions[:, 0].clamp(-1, 1) + tasks["speed"] + 0.1 * noise.sum(1)
        return {"place": state["place"] + move, "steps": state["steps"] + 1}

    def observe(self, state, tasks):
        return torch.stack([state["place"], state["steps"].float()], 1)

    def reward(self, before, actions, after, tasks):
        return after["place"] - before["place"]

    def terminated(self, state, tasks):
        return state["place"].abs() > 1

    def task_vector(self, tasks):
        return tasks["speed"].unsqueeze(1)


CART = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0" integrator="Euler"/>
  <worldbody>
    <body name="cart">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom type="sphere" size="0.1" mass="2"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="3"/></actuator>
</mujoco>
"""


@dataclass(frozen=True)
class Cart(MujocoFamily):
    """A cart of a task's mass is pushed by a force without limits, 3 N for an action of 1."""

    horizon: int = 6
    model: str = CART
    frame_skip: int = 4
    integrator: str = "xml"
    part: str = "train"

    name = "Cart-v1"
    reset_noise = 2

    @property
    def observation_space(self):
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def card(self):
        return Card(self.name, "a cart is pushed", "tests", ())

    def split(self, name):
        return replace(self, part=check_split(name))

    def sample(self, num_tasks, generator):
        draws = torch.rand(2, num_tasks, generator=generator, device=generator.device)
        return ControlTasks({"mass": split_uniform(draws[0], draws[1], self.part, 1, 4)})

    def model_fields(self, tasks):
        share = tasks["mass"].unsqueeze(1) / 2
        mass = self.default("body_mass", share) * share
        inertia = self.default("body_inertia", share) * share.unsqueeze(2)
        return {"body_mass": mass, "body_inertia": inertia}

    def initial(self, noise, tasks):
        return noise[:, :1], noise[:, 1:]

    def observe(self, state, tasks):
        return torch.cat([state["qpos"], state["qvel"]], 1).float()

    def reward(self, before, actions, after, tasks):
        return (after["qvel"] - before["qvel"])[:, 0].float()

    def terminated(self, state, tasks):
        return state["qpos"][:, 0] > 1

    def task_vector(self, tasks):
        return tasks["mass"].unsqueeze(1)
