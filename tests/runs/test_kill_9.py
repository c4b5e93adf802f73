"""`kill -9` at random moments: every file of a run is whole or not there, and runs go on."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from metarl.evaluation.curves import AdaptationCurve
from metarl.plots.figures import save_figure
from metarl.runs.checkpoints import Checkpoints, load_checkpoint
from metarl.runs.eval_file import read_curves
from metarl.runs.lock import LOCK_FILE
from metarl.runs.logger import RunLogger
from metarl.runs.run_folder import create_run_folder, write_config
from metarl.runs.run_search import find_run
from metarl.tasks.files import result_path

RANDOM_KILLS, CALLS = 300, 60
KILLED_RUNS = 10
SINE = Path(__file__).resolve().parents[2] / "experiments" / "sine.py"


def write_everything(root):
    """Writes every kind of file of a run, again and again."""
    figure = Figure((1, 1))
    figure.subplots().plot([1, 2])
    curve = AdaptationCurve("mse", torch.rand(3, 4), transductive=False)
    folder = create_run_folder(root, "sine", "maml", 0, {"n": [0] * 500})
    with RunLogger(folder) as logger:
        logger.settings({"n": 0})
        for n in range(10**6):
            write_config(folder, {"n": [n] * 500})
            logger.scalars({"x": 1.0}, n)
            logger.curve(curve, n)
            save_figure(figure, folder / "figure.png")
            logger.frames("film", [torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()] * 3, 5, n)
            with result_path(folder / "tasks.csv", "table") as path:
                path.write_text("\n".join(f"{i},{n}" for i in range(500)))
            weights = {"w": torch.full((2000,), float(n))}
            Checkpoints(folder / "checkpoints").save(n, weights, {"n": n})


def check_json(path):
    assert isinstance(json.loads(path.read_text()), dict)


def check_config(path):
    (value,) = set(json.loads(path.read_text())["n"])
    assert value >= 0


def check_image(path):
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()


def check_table(path):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [int(i) for i, _ in rows] == list(range(500)) and len({n for _, n in rows}) == 1


def check_lines(path):
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n") and [line["iteration"] for line in lines] == list(range(len(lines)))
    assert read_curves(path.parent) == lines


def check_command(path):
    assert path.read_text().startswith("cd ") and path.read_text().endswith("\n")


CHECKS = {
    "config.json": check_config, "experiment.json": check_json, "versions.json": check_json,
    "git.json": check_json, "git.diff": lambda path: path.read_text(),
    "command.txt": check_command, "eval.jsonl": check_lines, "figure.png": check_image,
    "film.gif": check_image, "tasks.csv": check_table,
}  # fmt: skip


def check_run(folder, interrupted):
    """Checks every file of a run folder that a killed process left; returns how many.

    Counts in `interrupted` the kinds of files in whose writing the process was killed.
    """
    count = 0
    for path in folder.iterdir():
        if path.is_dir():
            interrupted["checkpoint"] += bool(list(path.glob(".new_*")))
            checkpoints = Checkpoints(path)
            if checkpoints.latest() is not None:
                loaded = checkpoints.load()
                assert bool((loaded.weights["w"] == loaded.state["n"]).all())
                count += 1
        elif path.name.endswith(".part"):
            interrupted[path.name[1 : -len(f".{'0' * 32}.part")]] += 1
        elif path.name != LOCK_FILE and not path.name.startswith("events."):
            CHECKS[path.name](path)
            count += 1
    return count


def exit_code(action, delay=None):
    """Runs an action in a forked child, which may be killed after a delay; -9: it was killed."""
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_until(root, call):
    """Writes everything until the n-th call that syncs or renames, and dies before it."""
    calls = itertools.count(1)

    def dying(function):
        def run(*arguments, **options):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return run

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, dying(getattr(os, name)))
    write_everything(root)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_files_of_a_killed_process_are_whole(tmp_path):
    moments = random.Random(0)
    interrupted = Counter()
    files = 0
    for number in range(RANDOM_KILLS + CALLS):
        root, call = tmp_path / str(number), number - RANDOM_KILLS + 1
        if call < 1:
            code = exit_code(lambda root=root: write_everything(root), moments.uniform(0, 0.8))
        else:
            code = exit_code(lambda root=root, call=call: write_until(root, call))
        assert code == -signal.SIGKILL
        for folder in root.glob("sine/maml/*"):
            files += check_run(folder, interrupted)
            with RunLogger(folder, resume_from=10**6):  # the lock is free, the rest is cleared away
                assert not list(folder.glob(".*.part"))
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(interrupted.items()))
    print(
        f"\n{RANDOM_KILLS} kill -9 at random moments and {CALLS} at every call that syncs or "
        f"renames, {interrupted.total()} of them in the writing of a file ({kinds}): "
        f"{files} files, all of them whole"
    )
    assert interrupted.keys() >= {*CHECKS, "checkpoint"} - {"git.json", "git.diff"}


def train(runs, *arguments):
    command = [
        sys.executable, str(SINE), "--runs", str(runs), "--training.iterations", "2000",
        "--training.checkpoint-every", "20", "--training.eval-every", "50",
        "--training.eval-tasks", "4", "--test-tasks", "4", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def checkpoints_of(runs):
    return {path.name for path in runs.glob("sine/maml/*/checkpoints/step_*")}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path):
    moments, cut = random.Random(1), tmp_path / "cut"
    kills = 0
    for _ in range(KILLED_RUNS):
        before = checkpoints_of(cut)
        process = train(cut, *(("--resume", "latest") if before else ()))
        while process.poll() is None and checkpoints_of(cut) <= before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    for runs, arguments in ((cut, ("--resume", "latest")), (tmp_path / "whole", ())):
        assert train(runs, *arguments).wait() == 0
    ends = []
    for runs in (tmp_path / "whole", cut):
        point = find_run(runs, "sine", "maml")
        ends.append((load_checkpoint(point.checkpoint), read_curves(point.folder)))
    (first, first_lines), (second, second_lines) = ends
    assert first.iteration == second.iteration == 2000
    assert all(torch.equal(w, second.weights[n]) for n, w in first.weights.items())
    assert first_lines == second_lines
    print(f"\n{kills} kill -9 of a run, each resumed: equal to the uninterrupted run, to the bit")
    assert kills > KILLED_RUNS / 2
