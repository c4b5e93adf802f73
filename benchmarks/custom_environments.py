"""Speed of custom environments: the gymnasium engine against gymnasium's vector environments.

    python -m benchmarks.custom_environments                 # Pendulum and HalfCheetah, 64 worlds
    python -m benchmarks.custom_environments --environments CartPole-v1 --workers 2 4

All candidates step the same random actions, without a policy. Prints a table per environment. An
environment that gymnasium has as one object of many worlds, as CartPole, is also stepped as that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from metarl_envs.models import own_model

from benchmarks.timing import TurnSettings, print_race, race
from metarl.sim import GymTasks, TensorVectorEnv, Uniform, VectorEnvTasks, make_vec

# The attribute that differs between tasks; setting it costs next to nothing.
PARAMETERS = {"Pendulum-v1": "g", "HalfCheetah-v5": "_forward_reward_weight"}
# For gymnasium's own model, MuJoCo prints a warning per world.
SETTINGS = {"HalfCheetah-v5": {"xml_file": own_model("half_cheetah.xml")}}


@dataclass(frozen=True)
class CustomBenchmark(TurnSettings):
    """Settings of the benchmark."""

    environments: tuple[str, ...] = ("Pendulum-v1", "HalfCheetah-v5")
    """Gymnasium environment ids."""
    worlds: int = 64
    """Number of parallel worlds."""
    workers: tuple[int, ...] = (2,)
    """Numbers of worker processes."""
    steps: int = 20
    """Environment steps per call."""
    rounds: int = 7
    seconds: float = 0.5


def main(settings: CustomBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    torch.set_num_threads(settings.threads)
    for name in settings.environments:
        candidates = {"SyncVectorEnv": _gymnasium(settings, name)}
        for workers in (0, *settings.workers):
            where = f"{workers} workers" if workers else "in process"
            candidates[f"MetaRL, {where}"] = _metarl(settings, name, workers)
        if gymnasium.spec(name).vector_entry_point is not None:
            candidates["MetaRL, one object"] = _batched(settings, name)
        times = race(candidates, settings.rounds, settings.seconds)
        print_race(f"{settings.worlds} worlds of {name}", times, ["SyncVectorEnv"])


def _gymnasium(settings: CustomBenchmark, name: str) -> Callable[[], None]:
    keywords: dict[str, Any] = SETTINGS.get(name, {})
    envs = gymnasium.make_vec(name, settings.worlds, vectorization_mode="sync", **keywords)
    envs.reset(seed=0)
    actions = _actions(settings, envs.single_action_space)

    def run() -> None:
        for chosen in actions:
            envs.step(chosen)

    return run


def _metarl(settings: CustomBenchmark, name: str, workers: int) -> Callable[[], None]:
    parameter = PARAMETERS.get(name, "gravity")
    family = GymTasks(name, {parameter: Uniform(9, 10)}, settings=SETTINGS.get(name, {}))
    return _stepped(make_vec(family, settings.worlds, device="cpu", workers=workers), settings)


def _batched(settings: CustomBenchmark, name: str) -> Callable[[], None]:
    parameter = PARAMETERS.get(name, "gravity")
    simulator = gymnasium.make_vec(name, settings.worlds, vectorization_mode="vector_entry_point")

    def set_tasks(env: Any, tasks: dict[str, Any]) -> None:
        setattr(env.unwrapped, parameter, tasks[parameter])

    family = VectorEnvTasks(simulator, set_tasks, {parameter: Uniform(9, 10)}, horizon=500)
    env = make_vec(family, settings.worlds, device="cpu")
    run = _stepped(env, settings)

    def run_from_start() -> None:
        env.reset(seed=0)  # it does not step worlds that have all ended
        run()

    return run_from_start


def _stepped(env: TensorVectorEnv, settings: CustomBenchmark) -> Callable[[], None]:
    env.reset(seed=0)
    actions = torch.from_numpy(_actions(settings, env.single_action_space))

    def run() -> None:
        for chosen in actions:
            env.step(chosen)

    return run


def _actions(settings: CustomBenchmark, space: gymnasium.Space) -> np.ndarray:
    space.seed(0)
    return np.stack(
        [[space.sample() for _ in range(settings.worlds)] for _ in range(settings.steps)]
    )


if __name__ == "__main__":
    main(tyro.cli(CustomBenchmark))
