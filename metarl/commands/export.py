"""`metarl export`: a run's policy, meta-learned or adapted, for a robot or another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.commands.options import Device, Run, TestSteps


def export(
    run: Run,
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    to: Literal["sb3", "onnx", "torch"],
    test_steps: TestSteps = 0,
    task: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    task_seed: int = 0,
    script: str | None = None,
    runs: Path = Path("runs"),
    device: Device = None,
    trust: bool = False,
    with_: Annotated[Literal["adaptation"] | None, tyro.conf.arg(name="with")] = None,
    horizon: int | None = None,
) -> None:
    """Writes a run's policy or network to a file, reads the file and compares the outputs.

    sb3: a PPO of Stable-Baselines3 to train further (`PPO.load(out, env=...).learn(...)`); its
    value function starts untrained. onnx, torch: from observations [B, O] float32 to "action", and
    for exploration "mean" and "std", or "log_probs", all in the environment's units; actions are
    clipped to its limits. A supervised network maps "inputs" to "outputs".

    With `--with adaptation`, writes a folder with the start, the inner step on raw data, and the
    policy or network as a function of its parameters; of a metric or memory learner, how it reads a
    support set, and the scores: see docs/export.md.

    Args:
        run: A run folder, whose newest valid checkpoint is used; `RUN/best`, that of the best
            value on validation tasks; a checkpoint; or `latest`.
        out: The file; with the adaptation the folder.
        to: The format.
        test_steps: Adaptation steps to the task; 0 exports the meta-learned start.
        task: A value of the task to adapt to, name=number or name=number,number; repeat the option
            for each value. By default one test task is sampled.
        task_seed: Seed of that task and of the adaptation's rollouts.
        script: The experiment, if it is not installed: the path of its script, which is executed,
            or module:EXPERIMENT.
        runs: Folder of the run folders, for `latest`.
        device: cpu, cuda, ... for the adaptation; by default that of the run.
        trust: Imports code that the run's settings name as module:Name, such as its family.
        with_: `adaptation` exports the start and the adaptation in place of one policy.
        horizon: With the adaptation: steps of an episode that the step's batch has room for; by
            default those of the family.
    """
    from metarl.deploy.export.policy_run import export_run

    export_run(
        run, out, to,
        steps=test_steps, task=task, task_seed=task_seed, script=script, runs=runs, device=device,
        trust=trust, with_adaptation=with_ is not None, horizon=horizon,
    )  # fmt: skip
