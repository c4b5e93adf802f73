"""Meta-World's robot arm as families of tensors: the model, its start, control and observation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.ranges import COUNT, SEED, check_fields
from metarl.sim import Card, ControlTasks, Fact, MujocoFamily, Tasks, WorldState
from metarl.sim.episode_metrics import Reduction
from metarl.sim.mujoco.derived import Derived
from metarl.sim.mujoco.physics import quiet
from metarl.tasks.base import Split, check_sampling, check_split
from metarl_envs.metaworld_package import asset
from metarl_envs.sawyer_rewards import distance

mj: Any = mujoco  # type checkers cannot see the contents of its compiled modules

HAND = (0.0, 0.6, 0.2)  # where the mocap body starts
DOWN = (1.0, 0.0, 1.0, 0.0)  # its orientation
REACHED = ((-0.5, 0.4, 0.05), (0.5, 1.0, 0.5))  # bounds of the mocap body
OBJECT = ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02))  # bounds of the object's start
ACTION_SCALE = 1 / 100  # m per step
TIMESTEP = 0.0025  # s
WELD = (0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5)  # anchor, relative pose, torque scale
SETTLING = 50  # steps before an episode, in which the hand moves to its start
CLOSEST = 0.15  # m between an object's start and its goal, in the plane
SEEN = (
    ((-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)),  # bounds of the hand
    14,  # numbers of objects: position, quaternion, 7 zeros
)
SOURCE = "Yu et al. 2019, arXiv:1910.10897; version 3: arXiv:2505.11289; package metaworld 3.1"


class Start(NamedTuple):
    """The state in which every episode starts, except for the object's place.

    Attributes:
        qpos: Positions, [nq] float64.
        qvel: Velocities, [nv] float64.
        warmstart: Accelerations from which the constraint solver starts, [nv] float64.
        tcp: Centre of the fingertips, [3] float64 in m.
        height: Height of the object, in m.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    warmstart: np.ndarray
    tcp: np.ndarray
    height: float


@dataclass(frozen=True)
class Sawyer(MujocoFamily):
    """Base class of Meta-World's ML1 families: the arm, with the goals of the benchmark.

    A task is the object's start and the goal: "object" and "goal" [T, 3] float64 in m. The goals of
    a split are a fixed list, drawn as Meta-World draws them: those of training are the training
    goals of `metaworld.ML1(name, seed)`, those of test its test goals, which it draws with
    `seed + 1`; validation has the goals of `seed + 2`. Policies do not observe the goal.

    Attributes:
        goals: The number of goals in each split, at least 1; Meta-World has 50.
        seed: Seed of the goals.
        horizon: Steps per episode.
        part: The split that tasks are sampled from.
        bounds: Lower and upper bounds of the goals, in m.
        file: The model's file in Meta-World.
        radius: The distance from the goal at which an episode succeeds, in m.
        summary: One sentence, for the card.
        reward_text: The reward, for the card.
    """

    goals: int = 50
    seed: int = 0
    horizon: int = 500
    part: Split = "train"

    bounds = ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3))
    file: ClassVar[str]
    radius: ClassVar[float]
    summary: ClassVar[str]
    reward_text: ClassVar[str]
    frame_skip = 5
    published_units = True
    metrics: ClassVar[Mapping[str, Reduction]] = {"success": "any"}
    derived: ClassVar[Derived] = {
        "hand": ("xpos", ("hand",)),
        "claws": ("xpos", ("leftclaw", "rightclaw")),
        "pads": ("xpos", ("leftpad", "rightpad")),
        "fingers": ("site_xpos", ("leftEndEffector", "rightEndEffector")),
    }

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        check_split(self.part)
        check_fields(self, goals=COUNT, seed=SEED, horizon=COUNT)

    @cached_property
    def model(self) -> str:
        """Path of the model in the installed Meta-World.

        Raises:
            SettingsError: Meta-World 3.1 is not installed.
        """
        return asset(self.file)

    @property
    def compiled(self) -> Any:
        """The compiled model, with the weld that Meta-World sets."""
        return _compiled(self.model)

    @property
    def start(self) -> Start:
        """The state in which every episode starts, except for the object's place."""
        return _start(self.model)

    @property
    def observation_space(self) -> spaces.Box:
        """The frame, the frame before it, and 3 zeros where others would see the goal."""
        low, high = _seen_bounds()
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """The hand's motion in x, y and z, in units of 1 cm, and the gripper's effort."""
        return spaces.Box(-1.0, 1.0, (4,), np.float32)

    def split(self, name: Split) -> Self:
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Draws uniformly, with replacement, from the goals of the split."""
        check_sampling(num_tasks, generator)
        draws = torch.rand(num_tasks, generator=generator, device=generator.device)
        return self.tasks_at((draws * self.goals).long())

    def tasks_at(self, index: Tensor) -> ControlTasks:
        """Returns tasks of the split by their number in its list.

        Args:
            index: Numbers of tasks, 0 to goals - 1, [T] int64.
        """
        seed = (self.seed + {"train": 0, "test": 1, "validation": 2}[self.part]) % 2**32
        table = _table(OBJECT, self.bounds, self.goals, seed, index.device)
        things, goals = table[index].split(3, 1)
        return ControlTasks(self.placed(things, goals))

    def placed(self, things: Tensor, goals: Tensor) -> Tasks:
        """Returns the tasks of objects and goals as Meta-World draws them, [T, 3] float64."""
        return {"object": things, "goal": goals}

    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        thing = tasks["object"].double()
        qpos, qvel, _ = _start_tensors(self.model, thing.device)
        worlds = len(thing)
        parts = (qpos[:9].expand(worlds, 9), thing, qpos[12:].expand(worlds, len(qpos) - 12))
        return torch.cat(parts, 1), qvel.expand(worlds, -1).clone()

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        state = super().reset(tasks, noise)
        worlds, device = len(state["qpos"]), state["qpos"].device
        poses = _poses(device)
        state["mocap_pos"], state["mocap_quat"] = (v.repeat(worlds, 1, 1) for v in poses[:2])
        state["ctrl"] = poses[2].repeat(worlds, 1)
        state["qacc_warmstart"] = _start_tensors(self.model, device)[2].repeat(worlds, 1)
        return state

    def controls(self, actions: Tensor, tasks: Tasks) -> Tensor:
        """Returns the targets of the two fingers, [W, 2]: the effort and its negative."""
        effort = actions[:, 3].clamp(-1, 1)
        return torch.stack((effort, -effort), 1)

    def mocap(self, state: WorldState, actions: Tensor, tasks: Tasks) -> WorldState:
        """Moves the mocap body, to which the hand is welded, by at most 1 cm along each axis."""
        place = state["mocap_pos"]
        low, high = _limits(place.dtype, place.device)
        move = actions[:, None, :3].clamp(-1, 1) * ACTION_SCALE
        return {
            "mocap_pos": torch.clamp(place + move, low, high),
            "mocap_quat": state["mocap_quat"],
        }

    def remember(self, before: WorldState | None, after: WorldState, tasks: Tasks) -> WorldState:
        """Returns the frame and the one before it, which at a reset is the same, [W, 18] each."""
        frame = self.frame(after)
        return {"frame": frame, "previous": frame if before is None else before["frame"]}

    def frame(self, state: WorldState) -> Tensor:
        """Returns what is seen of a state: hand, gripper's opening, object, 7 zeros, [W, 18]."""
        qpos, claws = state["qpos"], state["claws"]
        opening = (distance(claws[:, 0], claws[:, 1]) / 0.1).clamp(0, 1).unsqueeze(1)
        thing, quaternion = qpos[:, 9:12], _scalar_last(qpos[:, 12:16])
        zeros = qpos.new_zeros(len(qpos), 7)
        return torch.cat((state["hand"][:, 0], opening, thing, quaternion, zeros), 1)

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        frame, previous = state["frame"], state["previous"]
        low, high = _seen_tensors(frame.dtype, frame.device)
        seen = torch.cat((frame, previous, frame.new_zeros(len(frame), 3)), 1)
        return torch.clamp(seen, low, high).float()

    def tcp(self, state: WorldState) -> Tensor:
        """Returns the centre of the fingertips, [W, 3] in m."""
        fingers = state["fingers"]
        return (fingers[:, 0] + fingers[:, 1]) / 2

    def thing(self, state: WorldState) -> Tensor:
        """Returns the position of the object, [W, 3] in m."""
        return state["qpos"][:, 9:12]

    def measure(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> dict[str, Tensor]:
        """Returns whether the goal is reached."""
        return {"success": (self.distance_to_goal(after, tasks) <= self.radius).float()}

    @abstractmethod
    def distance_to_goal(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns the distance from the goal that decides on success, [W] in m."""

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the goals, [W, 3]."""
        return tasks["goal"].float()

    def card(self) -> Card:
        low, high = self.bounds
        steps = f"{self.frame_skip} steps of {TIMESTEP} s"
        seeds = ", ".join(f"seed + {i} for {n}" for i, n in enumerate(("train", "test")))
        return Card(
            self.name,
            self.summary,
            SOURCE,
            (
                Fact("tasks", f"object U({OBJECT[0]}, {OBJECT[1]}), goal U({low}, {high}) m, at "
                     f"least {CLOSEST} m apart in the plane; {self.goals} goals per split, "
                     f"{seeds}, seed {self.seed}"),
                Fact("start", f"hand at {HAND} m after {SETTLING} steps, gripper open"),
                Fact("observation", "hand, opening, object's position and quaternion, 7 zeros; the "
                     "same one step earlier; 3 zeros in place of the goal; 39 numbers"),
                Fact("action", f"motion of the hand, {ACTION_SCALE} m per unit, and effort of the "
                     "gripper, clipped to [-1, 1]"),
                Fact("dynamics", f"{self.file}, {steps}; the hand is welded to a mocap body, "
                     f"bounds {REACHED} m", "MuJoCo of the installed version"),
                Fact("reward", self.reward_text, "reward version v2"),
                Fact("success", f"at any step within {self.radius} m of the goal"),
                Fact("termination", "never"),
                Fact("horizon", f"{self.horizon} steps"),
            ),
        )  # fmt: skip


# Constants


def set_welds(model: Any) -> None:
    """Sets the welds as Meta-World does, which has the first 11 of MuJoCo 4's 12 numbers."""
    welds = model.eq_type == mj.mjtEq.mjEQ_WELD
    model.eq_data[welds, : len(WELD)] = WELD


@lru_cache(maxsize=16)
def _compiled(path: str) -> Any:
    with quiet():
        model = mj.MjModel.from_xml_path(path)
    set_welds(model)
    return model


@lru_cache(maxsize=16)
def _start(path: str) -> Start:
    """Moves the hand to its start, as Meta-World does at every reset."""
    model = _compiled(path)
    data = mj.MjData(model)
    for _ in range(SETTLING):
        data.mocap_pos[0], data.mocap_quat[0] = HAND, DOWN
        data.ctrl[:] = (-1, 1)
        mj.mj_step(model, data, nstep=Sawyer.frame_skip)
    right, left = (data.site(n).xpos for n in ("rightEndEffector", "leftEndEffector"))
    tcp, height = (right + left) / 2, float(data.body("obj").xpos[2])
    data.qpos[9:12] = OBJECT[0]
    data.qvel[9:15] = 0
    mj.mj_forward(model, data)
    qpos, qvel, warmstart = (v.copy() for v in (data.qpos, data.qvel, data.qacc_warmstart))
    return Start(qpos, qvel, warmstart, tcp, height)


@lru_cache(maxsize=64)  # copying constants at every step would synchronise with a GPU
def _start_tensors(path: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    qpos, qvel, warmstart, *_ = _start(path)
    return (
        torch.tensor(qpos).to(device),
        torch.tensor(qvel).to(device),
        torch.tensor(warmstart).to(device),
    )


@lru_cache(maxsize=64)
def start_tcp(path: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the centre of the fingertips at the start, [3] in m."""
    return torch.tensor(_start(path).tcp, dtype=dtype).to(device)


@lru_cache(maxsize=16)
def hand_start(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns where the mocap body starts, [3] in m."""
    return torch.tensor(HAND, dtype=dtype).to(device)


@lru_cache(maxsize=16)
def _poses(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mocap body's position and orientation and the gripper's controls at the start."""
    rows = ((HAND,), (DOWN,), (-1.0, 1.0))
    place, turn, controls = (torch.tensor(r, dtype=torch.float64).to(device) for r in rows)
    return place, turn, controls


@lru_cache(maxsize=16)
def _limits(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(REACHED, dtype=dtype).to(device)


def _seen_bounds() -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of observations, [39] float64 each."""
    (low, high), size = SEEN
    infinite = (np.inf,) * size
    frame = (*low, -1.0, *(-v for v in infinite)), (*high, 1.0, *infinite)
    bounds = [np.array((*side, *side, 0.0, 0.0, 0.0)) for side in frame]
    return bounds[0], bounds[1]


@lru_cache(maxsize=16)
def _seen_tensors(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(np.stack(_seen_bounds()), dtype=dtype).to(device)


def _scalar_last(quaternion: Tensor) -> Tensor:
    """Returns quaternions (w, x, y, z) as (x, y, z, w), whose largest entry is positive, [W, 4]."""
    turned = quaternion.roll(-1, 1)
    largest = turned.gather(1, turned.abs().argmax(1, keepdim=True))
    return turned * torch.where(largest < 0, -1.0, 1.0)


@lru_cache(maxsize=64)
def goal_table(
    things: tuple[tuple[float, ...], ...],
    goals: tuple[tuple[float, ...], ...],
    count: int,
    seed: int,
) -> np.ndarray:
    """Draws objects and goals as `metaworld.ML1` does, [count, 6] float64.

    Args:
        things: Lower and upper bounds of the object's start.
        goals: Lower and upper bounds of the goal.
        count: The number of goals.
        seed: Seed of numpy's global generator.
    """
    random = np.random.RandomState(seed)
    low, high = (np.concatenate(side) for side in zip(things, goals, strict=True))

    def draw() -> np.ndarray:
        while True:
            values = random.uniform(low, high, size=6)
            if np.linalg.norm(values[:2] - values[3:5]) >= CLOSEST:
                return values

    # A reset draws twice and keeps the second.
    return np.stack([[draw(), draw()][1] for _ in range(count)])


@lru_cache(maxsize=64)
def _table(things: Any, goals: Any, count: int, seed: int, device: torch.device) -> Tensor:
    return torch.tensor(goal_table(things, goals, count, seed)).to(device)
