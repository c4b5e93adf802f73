"""Several processes: resumed on another number, killed, hanging, started by torchrun."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from metarl import ranks
from metarl.errors import RankError, SettingsError
from metarl.lab.installed import EXPERIMENTS
from metarl.rank_watch import FAILED
from metarl.runs.checkpoints import Checkpoints
from tests.training.rank_cases import ROOT, run_ranks, start_ranks, train
from tests.training.test_ranks import trees_close

CASES = ["maml/navigation/trpo", "learned-optimizer/sine"]
KILLS = 20
SINE = [
    "train", "sine", "--training.iterations", "60", "--training.threads", "1",
    "--training.meta-batch-size", "5", "--training.eval-every", "0", "--training.log-every", "20",
    "--training.checkpoint-every", "5", "--test-tasks", "5",
]  # fmt: skip


def torchrun(count, folder, *arguments, options=()):
    """Starts `torchrun -m metarl` in a folder."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(count), *options, "-m", "metarl", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def workers_of(process):
    """Returns the process ids of the ranks that a torchrun has started."""
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in listing.stdout.split()]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Trainings of two ranks that two ranks resume at their second iteration."""
    one, two, on_two = (tmp_path_factory.mktemp(n) for n in ("one", "two", "on_two"))
    whole = {case: train(case, one / case) for case in CASES}
    run_ranks(2, two, *CASES)
    return one, two, whole, run_ranks(2, on_two, *CASES, resume=str(one))[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_one_process_continues_on_two(case, resumed):
    _, _, whole, continued = resumed
    trees_close(continued[case], whole[case], rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_two_processes_continues_on_one(case, resumed, tmp_path):
    _, two, whole, _ = resumed
    start = two / case / "checkpoints" / "step_000002"
    trees_close(train(case, tmp_path, start), whole[case], rtol=2e-4, atol=2e-5)


def wait_for_training(process, folder):
    """Waits until a rank has written a checkpoint after the first one."""
    checkpoints = Checkpoints(folder / "maml/sine/checkpoints")
    while (newest := checkpoints.latest()) is None or newest.name == "step_000000":
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(tmp_path):
    changes = ("rank_timeout=2", "iterations=1000000", "eval_every=0")
    processes = start_ranks(2, str(tmp_path), "", "maml/sine", *changes)
    try:
        wait_for_training(processes[0], tmp_path)
        processes[1].send_signal(signal.SIGSTOP)
        _, error = processes[0].communicate(timeout=60)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode == FAILED
    assert "Rank 1 hangs: rank 0 has waited for it for 2 s" in error


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_with_a_reason(tmp_path):
    changes = ("iterations=1000000", "eval_every=0")
    processes = start_ranks(2, str(tmp_path), "", "maml/sine", *changes)
    wait_for_training(processes[0], tmp_path)
    processes[1].kill()
    _, error = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode
    assert "Rank 0 lost the connection to another rank" in error
    assert Checkpoints(tmp_path / "maml/sine/checkpoints").newest_good() is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "change", "error", "message"),
    [
        ("maml/sine", "meta_batch_size=1", SettingsError, "at least one task for each of 2"),
        ("unseeded/sine", "iterations=2", RankError, "rank 0 differ by"),
    ],
)
def test_what_cannot_be_shared_is_refused(case, change, error, message, tmp_path):
    processes = start_ranks(2, str(tmp_path), "", case, change)
    ends = [process.communicate(timeout=60)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert any(error.__name__ in end and message in end for end in ends), ends


@pytest.mark.slow
def test_torchrun_writes_one_run_and_reports_once(tmp_path):
    process = torchrun(2, tmp_path, *SINE)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    (run,) = tmp_path.glob("runs/sine/maml/*")
    assert output.count("Run folder:") == 1
    assert Checkpoints(run / "checkpoints").load().iteration == 60


def test_restarts_without_resume_auto_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with pytest.raises(SettingsError, match="--resume auto"):
        EXPERIMENTS.get("sine").main(["--training.iterations", "1"])


@pytest.mark.parametrize("total", [3, 7, 8, 9])
def test_shares_are_disjoint_complete_and_equal_but_for_one(total, monkeypatch):
    monkeypatch.setattr(ranks, "_count", 3)
    shares = [range(*ranks.bounds(total, rank)) for rank in range(3)]
    assert [task for share in shares for task in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def kill_some_rank(process, random_numbers, runs):
    """Kills a rank some time after the first checkpoint; returns whether it was still training."""
    while not list(runs.glob("*/*/*/checkpoints/step_*")):
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(random_numbers.uniform(0, 1.5))
    workers = workers_of(process)
    if len(workers) < 2:
        return False
    os.kill(random_numbers.choice(workers), signal.SIGKILL)
    return True


@pytest.mark.slow
def test_ranks_killed_at_random_moments_lose_nothing(tmp_path):
    """Every run ends, and with the bits of the run that nobody killed."""
    iterations = ("--training.iterations", "1500", "--training.checkpoint-every", "100")
    arguments = [*SINE, *iterations, "--resume", "auto"]
    undisturbed = torchrun(2, tmp_path, *arguments, "--runs", "undisturbed")
    _, error = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, error
    expected = last_weights(tmp_path / "undisturbed")
    random_numbers, killed, equal = random.Random(0), 0, 0
    for number in range(KILLS):
        runs = tmp_path / f"runs_{number}"
        options = ("--max-restarts", "3")
        process = torchrun(2, tmp_path, *arguments, "--runs", str(runs), options=options)
        killed += kill_some_rank(process, random_numbers, runs)
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        weights = last_weights(runs)
        equal += all(torch.equal(weights[name], expected[name]) for name in expected)
    print(f"{killed} of {KILLS} runs had a rank killed, {equal} ended with the same bits")
    assert killed == equal == KILLS


def last_weights(runs):
    """Returns the last weights of the only run below a folder."""
    (run,) = runs.glob("*/*/*")
    checkpoint = Checkpoints(run / "checkpoints").load()
    assert checkpoint.iteration == 1500
    return checkpoint.weights
