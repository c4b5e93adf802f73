"""Short trainings of every algorithm, run on one process or on several.

`python -m tests.training.rank_cases FOLDER NAME ...` with the variables of torchrun is one rank.
"""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from metarl_envs.navigation import Navigation2D

from metarl import ranks
from metarl.adaptation import MAML
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.training.loop import OuterLoop
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from tests import test_all_algorithms as supervised
from tests import test_all_policy_algorithms as control
from tests.training.rank_experiments import experiment_loop

ROOT = Path(__file__).resolve().parents[2]
SUPERVISED = [f"{name}/{problem}" for name, problem in supervised.CASES]
CONTROL = [
    f"{name}/navigation/{update}"
    for name in control.ALGORITHMS
    for update in control.UPDATES
    if not (update == "trpo" and name in control.WITHOUT_TRUST_REGION)
]
STATISTICS = ["statistics/trpo", "exploration/promp", "minibatches/two"]
MINIBATCHES = ProximalSettings(2, minibatches=2)
QUICK = [
    "maml/sine", "learned-optimizer/sine", "reptile/sine", "mamlplusplus/glyphs",
    "prototypical/glyphs", "maml/navigation/trpo", "maml-3-steps/navigation/promp",
    "learned-optimizer/navigation/adam", "rl2/navigation/promp", *STATISTICS,
]  # fmt: skip
SETTINGS = TrainingSettings(
    iterations=3, meta_batch_size=5, log_every=1, eval_every=3, eval_tasks=2, eval_steps=1,
    checkpoint_every=2, threads=1, rank_timeout=60,
)  # fmt: skip


def special(name):
    """A policy with running statistics of its observations, or with terms between tasks."""
    family, generator = Navigation2D(horizon=6), torch.Generator().manual_seed(0)
    statistics = name == "statistics"
    policy = policy_for(family, generator, hidden=(6,), normalize_observations=statistics)
    settings = PolicyGradientSettings(trajectories=3, exploration=not statistics)
    return PolicyLearner(MAML(policy, 0.3), family, settings), family


def loop(case, folder, resume=None, **changes):
    """Returns the outer loop of a case."""
    if ":" in case:
        return experiment_loop(case, folder, resume, **changes)
    settings = replace(SETTINGS, **changes)
    name, *rest = case.split("/")
    seed = 0
    if name == "unseeded":  # a mistake: each rank begins with other weights
        ranks.start()
        name, seed = "maml", ranks.rank()
        case = f"{name}/{rest[0]}"
    if case in SUPERVISED:
        learner, tasks = supervised.build(name, rest[0], seed)[0], supervised.tasks_of(rest[0])
        update = None
        if name in supervised.SGD:
            settings = replace(settings, optimizer="sgd", outer_lr=0.5)
    else:
        if case in STATISTICS:
            learner, tasks = special(name)
        else:
            tasks = control.FAMILIES[rest[0]]()
            learner = control.build(name, tasks)[0]
        update = control.UPDATES.get(rest[-1], MINIBATCHES)
        if update == MINIBATCHES:
            settings = replace(settings, meta_batch_size=4)
        if isinstance(update, TrustRegionSettings):
            # With little damping, the order of sums changes a step of few rollouts by a tenth.
            update = replace(update, damping=1.0)
            settings = replace(settings, outer_lr=TrainingSettings.outer_lr)
    return OuterLoop(
        learner, tasks, settings, folder, validation=tasks, update=update, resume=resume
    )


def train(case, folder, resume=None, **changes):
    """Trains a case; returns its weights, carried state and number of iterations."""
    run = loop(case, folder, resume, **changes)
    result = run.run()
    run.logger.close()
    state = {"weights": run.learner.state_dict(), "carried": run.learner.extra_state()}
    return {**state, "generator": run.generator.get_state(), "iteration": result.iteration}


def environment(rank, count, port):
    """The variables that torchrun sets."""
    return {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def start_ranks(count, *arguments, module="tests.training.rank_cases"):
    """Starts the ranks; returns their processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, text=True,
            env=environment(rank, count, port), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip


def run_ranks(count, folder, *cases, resume=""):
    """Trains cases on several ranks; returns what each rank returns of each case."""
    arguments = [str(folder), resume, *cases]
    processes = start_ranks(count, *arguments)
    ends = [p.communicate(timeout=1800) for p in processes]
    assert not any(p.returncode for p in processes), "\n".join(e for _, e in ends)
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(count)]


def main(folder, resume, *cases):
    """Trains the cases as one rank, and saves what `train` returns; "name=1" changes a setting."""
    torch.set_num_threads(1)
    folder, results = Path(folder), {}
    changes = {n: int(v) for n, _, v in (c.partition("=") for c in cases if "=" in c)}
    cases = [c for c in cases if "=" not in c]
    for case in cases:
        start = next(Path(resume, case).glob("checkpoints/step_*2")) if resume else None
        results[case] = train(case, folder / case, start, **changes)
    torch.save(results, folder / f"rank_{ranks.rank()}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
