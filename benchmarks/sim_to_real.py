"""From one simulator to another: how much a few episodes of adaptation are worth.

    metarl train cart_pole                                   # or: python experiments/cart_pole.py
    python -m benchmarks.sim_to_real RUN                     # gymnasium's cart-pole: minutes
    python -m benchmarks.sim_to_real RUN --where mujoco      # MuJoCo's inverted pendulum
    python -m benchmarks.sim_to_real RUN --ppo 1 10 --targets 3

RUN was trained in the cart-pole of tensors (Euler steps of 20 ms, masses, lengths and forces in
narrow ranges, motors that push either way). The targets are outside of these ranges:

- gymnasium: its own cart-pole with other lengths, masses and forces;
- mujoco: MuJoCo's inverted pendulum with other integrators, time steps, latency, sensor noise,
  masses and motor gains; its force is scaled to the masses, and two entries of its observation are
  swapped to the order of training.

Each target is unadapted, adapted once from 1, 5 and 20 episodes (20: twice from 10, as in
training), and learned from scratch by Stable-Baselines3's PPO for as many environment steps as
those 20 episodes took, 10 and 100 times as many. Returns are means of 20 episodes of at most 200
steps, sampled actions for all but PPO's, which act by the mode as is usual for it, then means over
the targets.
"""

from __future__ import annotations

import argparse
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch

import metarl
from metarl.deploy.robot.changed_env import changed_env

MakeRobot = Callable[[], gymnasium.Env]
"""Builds the environment of a robot."""
STEPS, TESTS, SEED = 200, 20, 1000
BUDGETS = (1, 5, 20)
TRAINED = 10  # episodes of an adaptation step in training


@dataclass(frozen=True)
class Target:
    """A robot that the policy never saw.

    Attributes:
        name: What is other than in training.
        values: Attributes of gymnasium's cart-pole.
        integrator: MuJoCo's: 0 Euler, 1 RK4, 3 implicitfast.
        timestep: Of MuJoCo, in seconds.
        skip: Time steps per control step.
        latency: Control steps between an action and its effect.
        noise: Deviation of the sensor noise.
        mass: Factor on the mass of the pole.
        gain: Force of the motor over the mass of cart and pole, in m/s^2; training: 5 to 17.
    """

    name: str
    values: dict[str, float] | None = None
    integrator: int = 1
    timestep: float = 0.02
    skip: int = 1
    latency: int = 0
    noise: float = 0.0
    mass: float = 1.0
    gain: float = 9.0


GYMNASIUM = (
    Target("length 1.0", {"length": 1.0, "force_mag": 10.0}),
    Target("length 1.0, mirrored", {"length": 1.0, "force_mag": -10.0}),
    Target("length 0.2, force 16", {"length": 0.2, "force_mag": 16.0}),
    Target("cart 2.5, force 6", {"masscart": 2.5, "force_mag": 6.0}),
    Target("pole 0.5, mirrored", {"masspole": 0.5, "force_mag": -10.0}),
    Target("length 1.5, force 20, mirrored", {"length": 1.5, "force_mag": -20.0}),
)
MUJOCO = (
    Target("RK4"),
    Target("mirrored", gain=-9.0),
    Target("Euler, 10 ms x 2, mirrored, pole x 2", integrator=0, timestep=0.01, skip=2,
           mass=2.0, gain=-9.0),
    Target("implicitfast, 5 ms x 6 (33 Hz)", integrator=3, timestep=0.005, skip=6),
    Target("latency 1, mirrored", latency=1, gain=-9.0),
    Target("noise 0.01, gain 20, mirrored", noise=0.01, gain=-20.0),
)  # fmt: skip


class MuJoCoCart(gymnasium.Env[np.ndarray, Any]):
    """MuJoCo's inverted pendulum with the observations and actions of the cart-pole.

    Args:
        target: What is other than in training.
    """

    def __init__(self, target: Target) -> None:
        self._env = gymnasium.make(
            "InvertedPendulum-v5", frame_skip=target.skip, max_episode_steps=STEPS
        )
        model = self._model = self._env.unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
        model.opt.integrator, model.opt.timestep = target.integrator, target.timestep
        model.body_mass[-1] *= target.mass
        model.body_inertia[-1] *= target.mass
        force = target.gain * float(model.body_mass.sum())
        self._control = force / float(model.actuator_gear[0, 0])
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._target = target
        self.dt = target.timestep * target.skip
        self._late: deque[int] = deque()
        # `control_range` of the file is 3: stronger motors are a wider range.
        model.actuator_ctrlrange[:] = (-10, 10)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Starts an episode."""
        super().reset(seed=seed)
        self._late = deque([0] * self._target.latency)
        observation, info = self._env.reset(seed=seed)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Steps the pendulum by the action of `latency` steps before."""
        self._late.append(2 * int(action) - 1)
        control = self._control * self._late.popleft()
        base: Any = self._env.unwrapped
        base.do_simulation(np.array([control]), base.frame_skip)
        observation = base._get_obs()
        fell = not np.isfinite(observation).all() or abs(float(observation[1])) > 0.2
        return self._seen(observation), 1.0, fell, False, {}

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        """Returns x, x', theta, theta'; MuJoCo has x, theta, x', theta'."""
        noise = self._target.noise * self.np_random.normal(size=4)
        return observation[[0, 2, 1, 3]] + noise


def robot(target: Target) -> gymnasium.Env:
    """Returns the environment of a target, with episodes of at most 200 steps."""
    if target.values is None:
        return gymnasium.wrappers.TimeLimit(MuJoCoCart(target), STEPS)
    env = changed_env("CartPole-v1", target.values)
    return gymnasium.wrappers.TimeLimit(env.unwrapped, STEPS)


def adapted(run: str, make: MakeRobot) -> tuple[dict[str, float], int, float]:
    """Returns the return before and after each budget, and the steps and seconds of the last."""
    rows: dict[str, float] = {}
    steps, seconds = 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # of the ranges and the rate: they are meant
        for budget in (0, *BUDGETS):
            adapter: Any = metarl.load(run)
            env = make()
            if budget:
                every = min(budget, TRAINED)
                curve = adapter.run(env, budget, every, seed=0)
                steps, seconds = curve.environment_steps, curve.seconds or 0.0
            rows[f"adapted, {budget} episodes" if budget else "unadapted"] = float(
                adapter.evaluate(env, TESTS, seed=SEED).mean()
            )
            env.close()
    return rows, steps, seconds


def scratch(make: MakeRobot, steps: int) -> float:
    """Returns the return of PPO after so many environment steps from scratch.

    Its settings are those of RL Baselines3 Zoo for CartPole-v1, in one environment: rollouts of 256
    steps, 20 epochs, gamma .98, lambda .8, rates that fall from 1e-3.
    """
    from stable_baselines3 import PPO

    env = make()
    rollout = max(32, min(256, steps // 2))
    model = PPO(
        "MlpPolicy", env, n_steps=rollout, batch_size=rollout, n_epochs=20, gamma=0.98,
        gae_lambda=0.8, learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left
        + 1e-6, ent_coef=0.0, seed=0, device="cpu", verbose=0,
    )  # fmt: skip
    model.learn(steps)
    returns = []
    for episode in range(TESTS):
        observation, _ = env.reset(seed=SEED + episode)
        total, ended = 0.0, False
        while not ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            ended = terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def compare(run: str, robots: Mapping[str, MakeRobot], factors: list[int]) -> None:
    """Prints the returns on each robot, and their means.

    Args:
        run: The folder of the run.
        robots: The robots by name.
        factors: Environment steps of PPO from scratch, as multiples of those of 20 episodes.
    """
    columns: list[dict[str, float]] = []
    times = []
    for robot_name, make in robots.items():
        rows, steps, seconds = adapted(run, make)
        times.append(seconds)
        for factor in factors:
            rows[f"PPO from scratch, {factor} x the steps"] = scratch(make, factor * steps)
        columns.append(rows)
        cells = ", ".join(f"{name} {value:.1f}" for name, value in rows.items())
        print(f"{robot_name} ({steps} steps, {seconds:.0f} s): {cells}", flush=True)
    print(f"\n{'return':34}{'mean':>7}   lowest to highest of {len(robots)} robots")
    for name in columns[0]:
        values = np.array([column[name] for column in columns])
        print(f"{name:34}{values.mean():7.1f}   {values.min():.1f} to {values.max():.1f}")
    print(f"20 episodes took {np.mean(times):.0f} s of the robot's time on average.")


def main() -> None:
    """Parses the arguments and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--where", choices=("gymnasium", "mujoco"), default="gymnasium")
    parser.add_argument("--ppo", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--targets", type=int, default=6, help="the first so many")
    parser.add_argument("--skip", type=int, default=0, help="of these, without the first so many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    targets = GYMNASIUM if arguments.where == "gymnasium" else MUJOCO
    targets = targets[arguments.skip : arguments.targets]
    compare(arguments.run, {t.name: partial(robot, t) for t in targets}, arguments.ppo)


if __name__ == "__main__":
    main()
