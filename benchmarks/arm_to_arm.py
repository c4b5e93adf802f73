r"""From one MuJoCo model to another: an arm that reaches for a place that only the reward knows.

    metarl train custom --algorithm mamlplusplus --family benchmarks.arm_to_arm:Arms \
        --hidden 64 64 \
        --training.iterations 300 --training.meta-batch-size 20 --training.task-chunk-size 20 \
        --gradients.trajectories 10
    python -m benchmarks.arm_to_arm RUN
    python -m benchmarks.arm_to_arm RUN --ppo 1 10 100

RUN was trained on arms with Euler steps of 10 ms whose load, friction, motors, late commands and
noise are in narrow ranges. The robots differ in one of these beyond the ranges, in the integrator
and its step, or in all of them; each reaches for two places. See `benchmarks.sim_to_real` for the
columns. The return is minus the distance in m, summed over 50 steps (2.5 s).
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from benchmarks.sim_to_real import compare
from metarl.sim import (
    Damping,
    Gain,
    Latency,
    LogUniform,
    Mass,
    MujocoTasks,
    SensorNoise,
    Uniform,
)
from metarl.sim.family import Tasks, WorldState
from metarl.sim.single_env import SingleEnv

ARM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 0 1" damping="0.2"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="1"/>
      <body name="fore" pos="0.3 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1" damping="0.2"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.03" mass="0.5"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="shoulder" joint="shoulder" gear="1" ctrlrange="-1 1"/>
    <motor name="elbow" joint="elbow" gear="1" ctrlrange="-1 1"/>
  </actuator>
</mujoco>"""
FINE_ARM = ARM.replace("0.01", "0.002")
PLACES = ((0.3, 0.25), (-0.2, -0.3))


class Arms(MujocoTasks):
    """Arms of training."""

    name, model, frame_skip, horizon = "Arms-v1", ARM, 5, 50
    parameters = {  # noqa: RUF012 - nothing writes into it
        "x": Uniform(-0.4, 0.4),
        "y": Uniform(-0.4, 0.4),
        "load": Mass("fore", LogUniform(0.5, 2)),
        "joints": Damping("*", LogUniform(0.5, 2)),
        "motors": Gain("*", Uniform(0.7, 1.3)),
        "late": Latency(0, 2),
        "noise": SensorNoise(0, 0.02),
    }

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """Returns minus the distance of the hand from the place, [W]."""
        first, second = after["qpos"].cumsum(1).unbind(1)  # rad, against the x axis
        x = 0.3 * first.cos() + 0.2 * second.cos() - tasks["x"]
        y = 0.3 * first.sin() + 0.2 * second.sin() - tasks["y"]
        return -torch.hypot(x, y).float()


class OtherArms(Arms):
    """Arms beyond the ranges of training."""

    name = "OtherArms-v1"
    parameters = {  # noqa: RUF012 - nothing writes into it
        **Arms.parameters,
        "load": Mass("fore", LogUniform(0.1, 10)),
        "joints": Damping("*", LogUniform(0.1, 10)),
        "motors": Gain("*", Uniform(-2, 2)),
        "late": Latency(0, 5),
        "noise": SensorNoise(0, 0.2),
    }


USUAL = {"load": 1.0, "joints": 1.0, "motors": 1.0, "late": 1, "noise": 0.01}
FINE = {"model": FINE_ARM, "frame_skip": 25, "integrator": "RK4"}
ROBOTS = {
    "as in training": ({}, {}),
    "RK4, 2 ms": ({}, FINE),
    "load x 4": ({"load": 4.0}, FINE),
    "motors x 0.4": ({"motors": 0.4}, FINE),
    "friction x 5": ({"joints": 5.0}, FINE),
    "late by 4 (200 ms)": ({"late": 4}, FINE),
    "noise 0.1 rad": ({"noise": 0.1}, FINE),
    "load x 3, motors x 0.5, late by 3, noise 0.05": (
        {"load": 3.0, "motors": 0.5, "late": 3, "noise": 0.05}, FINE
    ),
}  # fmt: skip
"""Name -> numbers other than usual, and settings of the simulator."""


def robot(name: str, place: int) -> SingleEnv:
    """Returns an arm that reaches for a place."""
    changes, simulator = ROBOTS[name]
    x, y = PLACES[place]
    return SingleEnv(OtherArms(**simulator), task={"x": x, "y": y, **USUAL, **changes})


def main() -> None:
    """Parses the arguments and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--ppo", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    robots = {
        f"{name}, place {place}": partial(robot, name, place)
        for name in ROBOTS
        for place in range(len(PLACES))
    }
    compare(arguments.run, robots, arguments.ppo)


if __name__ == "__main__":
    main()
