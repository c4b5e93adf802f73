"""Meta-World's evaluation of meta-learners: 10 episodes to adapt, 3 to be judged, per goal.

    python -m metarl_envs.metaworld_protocol RUN            # in Meta-World's own environments
    python -m metarl_envs.metaworld_protocol RUN --where tensors    # in the family of tensors
    python -m metarl_envs.metaworld_protocol RUN --goals 10 --workers 4

As in `metaworld.evaluation.metalearning_evaluation`, an episode has 500 steps, an adaptation is one
step, judged actions are the mode, and success is the flag at any step. There, a vector environment
counts the first 3 episodes of a kind of environment that end, which are those that succeed if it
holds several goals of one kind; here all 3 episodes of each goal count.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from torch import Tensor

from metarl.devices import seeded_generator
from metarl.errors import SettingsError
from metarl.evaluation.statistics import summarise
from metarl.rl.control_learner import ControlLearner
from metarl.rl.policies import GaussianPolicy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import RolloutNoise, draw_noise
from metarl.rl.trials.play import draw_trial_noise, play
from metarl.rl.trials.proximal_learner import ProximalLearner
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.trees import concatenate_tasks, take_tasks
from metarl_envs.metaworld import benchmark
from metarl_envs.sawyer import Sawyer

ADAPTATION = 10  # episodes
JUDGED = 3  # episodes
SEED = 3_000_017

L = TypeVar("L", bound=ControlLearner)


def judge(
    learner: ControlLearner,
    family: TaskFamily,
    tasks: ControlTasks,
    generator: torch.Generator,
    goals_at_once: int = 5,
) -> dict[str, Tensor]:
    """Evaluates a learner on goals by Meta-World's protocol.

    A learner that adapts by gradients takes one step on 10 episodes. A recurrent one plays a trial
    of 10 episodes and 3 judged ones, in which its memory is kept.

    Args:
        learner: The learner, of a `PolicyLearner` or a `ProximalLearner`.
        family: The family in which it is judged; Meta-World's own or that of tensors.
        tasks: T goals of this family.
        generator: Source of all randomness.
        goals_at_once: Goals whose worlds exist at once.

    Returns:
        "success" and "return" of the judged episodes, [T, 3] float32.

    Raises:
        SettingsError: The learner is of another kind or has no Gaussian policy.
    """
    judged = _moved(learner, family)
    rows = []
    for low in range(0, tasks.num_tasks, goals_at_once):
        values = take_tasks(tasks.values, low, min(low + goals_at_once, tasks.num_tasks))
        part = ControlTasks(values)
        if isinstance(judged, PolicyLearner) and isinstance(judged.policy, GaussianPolicy):
            rows.append(_adapt_by_gradients(judged, family, part, generator))
        elif isinstance(judged, ProximalLearner):
            rows.append(_adapt_by_memory(judged, family, part, generator))
        else:
            raise SettingsError(
                "Expected a PolicyLearner with a Gaussian policy or a policy with a memory, got "
                f"{type(judged).__name__}: its mode actions are not known."
            )
    return concatenate_tasks(rows)


def evaluate(
    run: tyro.conf.Positional[Path],
    where: Literal["metaworld", "tensors"] = "metaworld",
    goals: int = 50,
    runs: Path = Path("runs"),
    workers: int = 0,
    goals_at_once: int = 5,
    seed: int = SEED,
) -> None:
    """Evaluates a run of the experiment meta_world on test goals by Meta-World's protocol.

    Args:
        run: A run folder, whose newest valid checkpoint is used; a checkpoint; or `latest`.
        where: In Meta-World's own environments, or in the family of tensors.
        goals: Test goals, at most 50.
        runs: Folder of the run folders, for `latest`.
        workers: Processes that step Meta-World's environments; 0 for this one.
        goals_at_once: Goals whose worlds exist at once.
        seed: Seed of the rollouts.
    """
    from metarl.lab.saved_run import reopened

    with reopened(run, runs=runs, training__device="cpu") as (components, _, checkpoint):
        learner: Any = components.learner
        family = learner.family.split("test")
        if not isinstance(family, Sawyer):
            raise SettingsError(f"Expected a run on a family of Meta-World, got {family.name}.")
        if not 1 <= goals <= family.goals:
            raise SettingsError(f"Expected 1 to {family.goals} goals, got {goals}.")
        tasks = family.tasks_at(torch.arange(goals))
        if where == "metaworld":
            family, tasks = original(family, goals, workers)
        measured = judge(learner, family, tasks, seeded_generator("cpu", seed), goals_at_once)
    print(f"{family.name}, {goals} goals, {ADAPTATION} + {JUDGED} episodes, {checkpoint}")
    for name, values in measured.items():
        found = summarise(values.mean(1), torch.Generator().manual_seed(seed))
        interval = f"95 % interval {found.mean_low:.3f} to {found.mean_high:.3f} over goals"
        print(f"{name}: {found.mean:.3f}, {interval}")


def original(family: Sawyer, goals: int, workers: int = 0) -> tuple[TaskFamily, ControlTasks]:
    """Returns Meta-World's own test tasks of a family of tensors, with the same goals.

    Args:
        family: The family of tensors.
        goals: The number of goals.
        workers: Processes that step the environments; 0 for this one.
    """
    name = Path(family.file).stem.removeprefix("sawyer_").replace("_", "-")
    own = benchmark(name, seed=family.seed, horizon=family.horizon, workers=workers).split("test")
    first = sum(len(own.pools[part]) for part in ("train", "validation"))
    return own, own.tasks_at(first + torch.arange(goals))


# Helpers


def _moved(learner: Any, family: TaskFamily) -> Any:
    """Returns a learner with the same parameters, which acts in another family."""
    moved = copy.copy(learner)
    moved.family = family
    moved.worlds = Worlds(family, learner.worlds.observe_task)
    return moved


def _adapt_by_gradients(
    learner: PolicyLearner, family: TaskFamily, tasks: ControlTasks, generator: torch.Generator
) -> dict[str, Tensor]:
    numbers = (learner.policy, family, tasks.num_tasks)
    noises = draw_noise(*numbers, ADAPTATION, generator), draw_noise(*numbers, JUDGED, generator)
    noises = noises[0], _mode(noises[1], slice(None))
    *_, rollouts = learner.rollouts(tasks, 1, generator, noises=noises)
    return {"success": rollouts.metrics["success"], "return": rollouts.rewards.sum(2)}


def _adapt_by_memory(
    learner: ProximalLearner, family: TaskFamily, tasks: ControlTasks, generator: torch.Generator
) -> dict[str, Tensor]:
    episodes = ADAPTATION + JUDGED
    noise = draw_trial_noise(learner.agent, family, tasks.num_tasks, 1, episodes, generator)
    noise = _mode(noise, (slice(None), slice(None), slice(ADAPTATION, None)))
    trials = play(learner.worlds.get(noise), learner.agent, tasks.values, noise, learner.units)
    judged = slice(ADAPTATION, None)
    return {
        "success": trials.metrics["success"][:, 0, judged],
        "return": trials.returns[:, 0, judged],
    }


def _mode(noise: RolloutNoise, where: Any) -> RolloutNoise:
    """Returns random numbers with which a Gaussian policy takes its mode, in some episodes."""
    actions = noise.actions.clone()
    actions[where] = 0
    return noise._replace(actions=actions)


if __name__ == "__main__":
    tyro.cli(evaluate)
