"""`metarl export`: a run's policy, meta-learned or adapted, for a robot or another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from metarl.deploy.export import Format, export_policy
from metarl.deploy.plain_policy import plain_policy
from metarl.errors import SettingsError
from metarl.lab.saved_run import reopened
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.sim.make import make_vec
from metarl.sim.single_env import as_arrays, task_values

_RANDOM = 256  # observations to compare on, beside those of the rollouts


def export(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    to: Format,
    steps: int = 0,
    task: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    task_seed: int = 0,
    script: Path | None = None,
    device: str | None = None,
) -> None:
    """Writes a run's policy to a file, reads that again and compares what it does.

    sb3: a PPO of Stable-Baselines3, to go on with (`PPO.load(out, env=...).learn(...)`); its value
    function starts anew. onnx, torch: observations [B, O] float32 to "action", what to do;
    and for exploring "mean" and "std", or "log_probs". Actions are clipped to the environment's
    limits, nothing is scaled.

    Args:
        run: A run folder, whose newest good checkpoint is taken, or a checkpoint.
        out: The file.
        to: The format.
        steps: Adaptation steps to the task; 0 exports the meta-learned start.
        task: A value of the task to adapt to, name=number or name=number,number; say it again for
            each. Without any, one test task is drawn.
        task_seed: Seed of that task and of the adaptation's rollouts.
        script: The experiment script, if it is not where it was.
        device: cpu, cuda, ... for the adaptation; that of the run by default.
    """
    if steps < 0:
        raise SettingsError(f"Expected steps >= 0, got {steps}.")
    with reopened(run, script=script, training__device=device) as (parts, loop, checkpoint):
        learner = parts.learner
        if not isinstance(learner, PolicyLearner):
            raise SettingsError(
                f"Only policies that adapt by gradients are exported, {run} trained a "
                f"{type(learner).__name__}."
            )
        generator = torch.Generator(loop.device).manual_seed(task_seed)
        tasks = _task(learner.family.split("test"), task, generator)
        params, rollouts = learner.adapted(tasks, steps, generator)
        env = make_vec(learner.family, 1, "cpu", observe_task=learner.worlds.observe_task)
        plain = plain_policy(
            learner.policy, params, env.single_observation_space, env.single_action_space
        )
        name = learner.family.name
    note = {
        "family": name,
        "task": ", ".join(f"{n}={v.tolist()}" for n, v in as_arrays(tasks.values).items()),
        "steps": str(steps),
        "checkpoint": str(checkpoint),
        "observation": f"{plain.observation_size} numbers, as {name} gives them"
        + (", then its task vector" if learner.worlds.observe_task else ""),
        "action": plain.expects(),
    }
    if to == "sb3":
        note["value function"] = (
            "starts anew, so the first updates are noisy: the run has linear fits to the rollouts "
            "of each task, no network"
        )
    difference = export_policy(plain, out, to, _observations(rollouts), note)
    console = Console()
    for key, value in note.items():
        if len(value) < 400:  # tabular tasks have thousands of numbers
            console.print(f"{key}:", value, markup=False, highlight=False, soft_wrap=True)
    console.print(f"return: {float(rollouts.returns()):.2f}, mean of {_count(rollouts)} rollouts")
    console.print(
        f"Wrote {out}; the file gives the same as the original to {difference:.1g}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _task(family: TaskFamily, texts: tuple[str, ...], generator: torch.Generator) -> ControlTasks:
    """Returns the task that the command line names, or one that is drawn."""
    drawn = family.sample(1, generator)
    if not texts:
        return drawn
    values = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            found = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise SettingsError(
                f"Expected a task value as name=number or name=number,number, got {text!r}."
            ) from None
        like = drawn.values.get(name)
        values[name] = found[0] if like is not None and like.dim() == 1 else found
    return ControlTasks({n: v.to(generator.device) for n, v in task_values(family, values).items()})


def _observations(rollouts: Rollouts) -> torch.Tensor:
    """Returns observations of the rollouts and random ones, [B, O]."""
    seen = rollouts.observations.flatten(0, 2).cpu()
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(_RANDOM, seen.shape[1], generator=generator)
    return torch.cat([seen[:_RANDOM], random, 10 * random])


def _count(rollouts: Rollouts) -> int:
    return rollouts.rewards.shape[1]
