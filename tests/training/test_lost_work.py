"""The outer loop loses nothing: other runs, full disks, weights that are not finite, interrupts."""

import errno
import os
import shutil
import signal
import threading

import pytest
import torch
from tensorboard.compat.tensorflow_stub.io import gfile

from metarl.errors import CheckpointError, NonFiniteError, SettingsError
from metarl.runs.checkpoints import load_checkpoint, not_finite
from metarl.runs.eval_file import read_curves
from metarl.runs.progress import Progress
from metarl.tasks import Sine
from metarl.training import TrainingSettings
from tests.runs.test_lock import other_process
from tests.training.test_loop import Tasks, loop


def finished(folder, iterations=3):
    run = loop("maml", folder, iterations)
    run.run()
    run.logger.close()
    return run


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    first = finished(tmp_path / "run")
    before = contents(first.folder)
    message = rf"holds one \(.*step_000003\)\. Resume that run, .*--resume {first.folder}; or"
    with pytest.raises(CheckpointError, match=message):
        loop("maml", first.folder, 5)
    shutil.rmtree(first.folder / "checkpoints")
    (first.folder / "eval.jsonl").write_text("{}\n")
    with pytest.raises(CheckpointError, match=r"eval\.jsonl.*another folder"):
        loop("maml", first.folder, 5)
    assert contents(first.folder).keys() < before.keys() | {first.folder / "eval.jsonl"}


def test_a_run_is_not_resumed_into_the_folder_of_another(tmp_path):
    first, second = finished(tmp_path / "first"), finished(tmp_path / "second")
    before = contents(second.folder)
    with pytest.raises(CheckpointError, match="holds one"):
        loop("maml", second.folder, 5, resume=first.checkpoints.latest())
    assert contents(second.folder) == before
    copy = loop("maml", tmp_path / "third", 4, resume=first.checkpoints.latest())
    assert copy.run().finished


def test_links_out_of_the_run_folder_are_not_followed(tmp_path):
    mine, other = finished(tmp_path / "mine"), finished(tmp_path / "other")
    checkpoint = mine.checkpoints.latest()
    (mine.folder / "eval.jsonl").unlink()
    (mine.folder / "eval.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"eval\.jsonl in its .*, it is a link to .*now"):
        loop("maml", mine.folder, 5, resume=checkpoint)
    (mine.folder / "eval.jsonl").unlink()
    shutil.rmtree(mine.checkpoints.folder)
    mine.checkpoints.folder.symlink_to(other.checkpoints.folder)
    before = contents(other.folder)
    with pytest.raises(CheckpointError, match=r"checkpoints in its run folder, .* with `runs`"):
        loop("maml", mine.folder, 5, resume=checkpoint)
    assert contents(other.folder) == before


def test_a_second_process_is_refused(tmp_path):
    run = finished(tmp_path)
    before = contents(tmp_path)
    with other_process(tmp_path) as process:
        with pytest.raises(CheckpointError, match=f"process {process.pid} on"):
            loop("maml", tmp_path, 5, resume=run.checkpoints.latest())
        (tmp_path / ".lock").replace(tmp_path.parent / "aside")
        assert contents(tmp_path) == before
        (tmp_path.parent / "aside").replace(tmp_path / ".lock")


class FullDisk:
    """A disk that is full from some batch of tasks on."""

    def __init__(self, monkeypatch, everything):
        self.full = False
        self.errors = []
        monkeypatch.setattr(threading, "excepthook", self.errors.append)
        self.patch(monkeypatch, gfile.LocalFileSystem, "append")
        if everything:
            self.patch(monkeypatch, os, "fsync")

    def patch(self, monkeypatch, owner, name):
        original = getattr(owner, name)

        def write(*arguments, **options):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, write)


class Filling(Tasks):
    """Tasks that fill the disk when they are sampled for the n-th time."""

    def __init__(self, disk, at):
        super().__init__()
        self.disk, self.at = disk, at

    def after(self, count):
        self.disk.full |= count == self.at


def test_a_disk_too_full_for_events_still_gets_the_state(tmp_path, monkeypatch, capfd):
    disk = FullDisk(monkeypatch, everything=False)
    run = loop("maml", tmp_path / "full", 100, tasks=Filling(disk, 5), every=1000)
    with pytest.raises(
        CheckpointError,
        match=r"No space left.*after meta-iteration (\d+)\. Nothing is lost: .*step_0*\1, .*resume",
    ):
        run.run()
    run.logger.close()
    assert "Traceback" not in capfd.readouterr().err and not disk.errors
    disk.full = False
    saved = load_checkpoint(run.checkpoints.latest())
    assert saved.iteration == run.iteration > 4
    rest = loop("maml", run.folder, saved.iteration + 3, resume=saved.path)
    rest.run()
    whole = loop("maml", tmp_path / "whole", saved.iteration + 3)
    whole.run()
    for name, weight in whole.learner.state_dict().items():
        assert torch.equal(weight, rest.learner.state_dict()[name]), name


def test_a_disk_too_full_for_anything_is_reported_with_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    disk = FullDisk(monkeypatch, everything=True)
    run = loop("maml", tmp_path, 100, tasks=Filling(disk, 8), every=3)
    with pytest.raises(CheckpointError, match=r"could not be saved .*good checkpoint is .*000006"):
        run.run()
    assert run.checkpoints.newest_good().name == "step_000006"
    assert not disk.errors


def test_a_folder_that_vanishes_is_reported(tmp_path):
    class Vanishing(Tasks):
        def after(self, count):
            if count == 4:
                # In one call: the thread of TensorBoard may write into it meanwhile.
                (tmp_path / "run").rename(tmp_path / "gone")
                (tmp_path / "run").write_text("in the way")

    run = loop("maml", tmp_path / "run", 100, tasks=Vanishing(), every=5)
    with pytest.raises(CheckpointError, match=r"could not be saved .*no good checkpoint"):
        run.run()


def test_a_rank_that_writes_nothing_does_not_claim_to_have_saved(tmp_path, monkeypatch):
    class Failing(Tasks):
        def after(self, count):
            if count == 6:
                monkeypatch.setattr("metarl.ranks.is_first", lambda: False)
                raise ValueError("on one rank only")

    run = loop("maml", tmp_path / "run", 100, tasks=Failing())
    with pytest.raises(ValueError) as raised:
        run.run()
    (note,) = raised.value.__notes__
    assert "Nothing is lost" not in note and "Rank 0 writes the checkpoints" in note
    assert str(tmp_path / "run" / "checkpoints" / "step_000004") in note


@pytest.mark.parametrize("rate", [1e308, 1e38])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, rate, monkeypatch):
    monkeypatch.setattr("metarl.ranges.LARGEST_NUMBER", float("inf"))  # it refuses such rates
    run = loop("maml", tmp_path, 9, optimizer="sgd", outer_lr=rate, every=1)
    with pytest.raises(NonFiniteError, match=r"last good checkpoint is .*step_0\d+"):
        run.run()
    good = run.checkpoints.newest_good()
    assert good == run.checkpoints.latest()
    assert not not_finite(load_checkpoint(good).weights)


def test_a_checkpoint_of_an_older_version_with_nan_is_no_good_one(tmp_path):
    run = finished(tmp_path)
    weights = {n: torch.full_like(w, torch.nan) for n, w in run.learner.state_dict().items()}
    run.checkpoints.save(9, weights, {})
    assert run.checkpoints.latest().name == "step_000009"
    assert run.checkpoints.newest_good().name == "step_000003"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_final_rate_is_finite(rate):
    with pytest.raises(SettingsError, match="`final_lr`"):
        TrainingSettings(schedule="linear", final_lr=rate)


def test_a_second_interrupt_names_the_last_checkpoint(tmp_path):
    class Impatient(Tasks):
        def after(self, count):
            if count == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    run = loop("maml", tmp_path, 100, tasks=Impatient(), every=3)
    with pytest.raises(KeyboardInterrupt) as caught:
        run.run()
    (note,) = caught.value.__notes__
    assert "meta-iteration 4 without saving" in note and "step_000004" in note


def test_a_closed_output_saves_and_stops(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as closed:
        monkeypatch.setattr("sys.stderr", closed)
        monkeypatch.setitem(Progress.__init__.__kwdefaults__, "line_interval", 0.0)
        run = loop("maml", tmp_path, 1000)
        result = run.run()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed.fileno())
    assert (result.finished, result.stopped_by) == (False, "SIGPIPE")
    assert load_checkpoint(run.checkpoints.latest()).iteration == result.iteration


def test_results_are_whole_and_unchanged_files_stay(tmp_path):
    run = finished(tmp_path)
    file = tmp_path / "eval.jsonl"
    before = file.stat()
    (tmp_path / f".eval.jsonl.{'0' * 32}.part").write_text("left by kill -9")
    again = loop("maml", tmp_path, 3, resume=run.checkpoints.latest())
    assert os.path.samestat(before, file.stat()) and file.stat().st_mtime_ns == before.st_mtime_ns
    again.logger.close()
    assert not list(tmp_path.glob(".*"))
    assert len(read_curves(tmp_path)) == 1
    assert isinstance(again.tasks, Sine)
