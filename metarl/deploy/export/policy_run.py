"""Exports the policy of a run, adapted to a task, and reports what was exported."""

from __future__ import annotations

from pathlib import Path

import torch

from metarl.console import OutputConsole
from metarl.deploy.export.adaptation_run import export_network, export_run_adaptation, one_task
from metarl.deploy.export.described import describes_itself, export_described
from metarl.deploy.export.policies import Format, export_policy
from metarl.errors import SettingsError
from metarl.lab.experiment import Components
from metarl.lab.saved_run import reopened
from metarl.rl.plain_policy import PlainPolicy, plain_policy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.runs.run_search import run_path
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.sim.make import make_vec
from metarl.sim.single_env import as_arrays, task_values
from metarl.training.learner_file import read_learner_file

_RANDOM = 256  # observations to compare the outputs on, in addition to those of the rollouts


def export_run(
    run: Path,
    out: Path,
    to: Format,
    *,
    steps: int = 0,
    task: tuple[str, ...] = (),
    task_seed: int = 0,
    script: str | None = None,
    runs: Path = Path("runs"),
    device: str | None = None,
    trust: bool = False,
    with_adaptation: bool = False,
    horizon: int | None = None,
) -> None:
    """Writes a run's policy or network to a file, or its adaptation to a folder, and compares.

    The arguments are those of the command `metarl export`.

    Raises:
        SettingsError: The run's learner cannot be exported so, or a task value is not usable.
        ExportError: What was written does not compute what the learner does.
        CheckpointError: The run cannot be opened.
        UntrustedError: The run's settings name code, and `trust` is false.
    """
    if steps < 0:
        raise SettingsError(f"Expected test_steps >= 0, got {steps}.")
    if to == "sb3" and not out.suffix:
        out = out.with_name(f"{out.name}.zip")  # as Stable-Baselines3 names it
    run = run_path(run, runs)
    if script is None and describes_itself(run):
        if not with_adaptation:
            raise SettingsError(
                f"The run {run} has no experiment.json: a run of the library alone is exported "
                "`--with adaptation`. Or name its experiment: --script PATH."
            )
        _refuse_fixed(to, steps, task)
        return _wrote(out, export_described(run, out, to, horizon, task_seed))
    device = "cpu" if with_adaptation else device
    with reopened(run, runs=runs, script=script, trust=trust, training__device=device) as reopening:
        components, loop, checkpoint = reopening
        learner = components.learner
        if with_adaptation:
            _refuse_fixed(to, steps, task)
            source = _source(components, checkpoint)
            difference = export_run_adaptation(
                components, out, to, source, horizon=horizon, seed=task_seed,
                ranges=(read_learner_file(checkpoint.parents[1]) or {}).get("data"),
            )  # fmt: skip
            return _wrote(out, difference)
        if horizon is not None:
            raise SettingsError("`horizon` belongs to `--with adaptation`.")
        if not isinstance(learner, PolicyLearner):
            return _export_network(components, out, to, steps, task, task_seed)
        generator = torch.Generator(loop.device).manual_seed(task_seed)
        tasks = _task(learner.family.split("test"), task, generator)
        policy, rollouts = _adapted_policy(learner, tasks, steps, generator)
    note = _note(learner, policy, tasks, steps, checkpoint, to)
    difference = export_policy(policy, out, to, _observations(rollouts, policy), note)
    _print_policy(note, rollouts)
    _wrote(out, difference)


def _adapted_policy(
    learner: PolicyLearner, tasks: ControlTasks, steps: int, generator: torch.Generator
) -> tuple[PlainPolicy, Rollouts]:
    """Returns the policy after adaptation to a task, and rollouts with it."""
    params, rollouts = learner.adapted(tasks, steps, generator)
    env = make_vec(learner.family, 1, "cpu", observe_task=learner.worlds.observe_task)
    spaces = env.single_observation_space, env.single_action_space
    return plain_policy(learner.policy, params, *spaces), rollouts


def _print_policy(note: dict[str, str], rollouts: Rollouts) -> None:
    """Prints what the file says of the policy, and its return."""
    console = OutputConsole()
    for key, value in note.items():
        if len(value) < 400:  # tabular tasks have thousands of numbers
            console.print(f"{key}:", value, markup=False, highlight=False, soft_wrap=True)
    count = rollouts.rewards.shape[1]
    console.print(f"return: {float(rollouts.returns()):.2f}, mean of {count} rollouts")


def _export_network(
    components: Components, out: Path, to: str, steps: int, task: tuple[str, ...], seed: int
) -> None:
    """Writes the network of a supervised run, adapted to one of its test tasks."""
    if to == "sb3":
        raise SettingsError("Stable-Baselines3 takes policies only: choose onnx or torch.")
    if task:
        raise SettingsError(
            "`task` belongs to control tasks; `--task-seed` chooses a supervised task, or export "
            "`--with adaptation` and adapt to your data."
        )
    tasks = one_task(components, seed)
    _wrote(out, export_network(components.learner, out, to, tasks, steps, seed))


def _refuse_fixed(to: str, steps: int, task: tuple[str, ...]) -> None:
    """Refuses options of an export without the adaptation."""
    if to == "sb3":
        raise SettingsError("Stable-Baselines3 cannot adapt: choose onnx or torch.")
    if steps or task:
        raise SettingsError(
            "`--with adaptation` exports the start and the adaptation: leave out `test_steps` and "
            "`task`."
        )


def _source(components: Components, checkpoint: Path) -> dict[str, str]:
    """Returns what the metadata says of the origin; no absolute path of this machine."""
    parts = checkpoint.resolve().parts[-5:]
    return {
        "checkpoint": "/".join(parts),
        "tasks": type(components.tasks).__name__,
    }


def _wrote(out: Path, difference: float) -> None:
    OutputConsole().print(
        f"Wrote {out}; its outputs differ from the run's by at most {difference:.1g}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _note(
    learner: PolicyLearner,
    policy: PlainPolicy,
    tasks: ControlTasks,
    steps: int,
    checkpoint: Path,
    to: Format,
) -> dict[str, str]:
    """Returns what is written into the file to describe the policy."""
    name, observe_task = learner.family.name, learner.worlds.observe_task
    note = {
        "family": name,
        "task": ", ".join(f"{n}={v.tolist()}" for n, v in as_arrays(tasks.values).items()),
        "steps": str(steps),
        "checkpoint": str(checkpoint),
        "observation": f"{policy.observation_size} numbers, as {name} gives them"
        + (", then its task vector" if observe_task else ""),
        "action": policy.expects(),
    }
    if to == "sb3":
        note["value function"] = (
            "starts untrained, so the first updates are noisy: the run has linear fits to the "
            "rollouts of each task, no network"
        )
    return note


def _task(family: TaskFamily, texts: tuple[str, ...], generator: torch.Generator) -> ControlTasks:
    """Returns the task that the command line names, or a sampled one."""
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


def _observations(rollouts: Rollouts, policy: PlainPolicy) -> torch.Tensor:
    """Returns observations of the rollouts and random ones, [B, O], in the environment's units."""
    observations = rollouts.observations.flatten(0, 2).cpu()
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(_RANDOM, observations.shape[1], generator=generator)
    own = torch.cat([observations[:_RANDOM], random, 10 * random])
    return own if policy.units is None else policy.units.raw_observations(own)
