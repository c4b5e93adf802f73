"""Damaged and hand-edited files of a run: one clear error each, no traceback and no hang."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch

from metarl import load
from metarl.errors import CheckpointError, MetarlError, SettingsError
from metarl.lab.lookup import script_experiment
from metarl.runs.checkpoints import Checkpoints, load_checkpoint
from metarl.runs.eval_file import read_curves
from metarl.training import TrainingSettings
from tests.commands.conftest import EXPERIMENTS

SECONDS = 60
NEWEST = "checkpoints/step_000002"


@pytest.fixture(autouse=True)
def no_hang():
    """Ends a test that waits for a FIFO or a device."""

    def stop(number, frame):
        raise TimeoutError(f"hung for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def as_fifo(path):
    path.unlink()
    os.mkfifo(path)


def as_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_sparse(path):
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)


def text(content):
    return lambda path: path.write_text(content)


def data(content):
    return lambda path: path.write_bytes(content)


DAMAGE = {
    "empty": text(""),
    "not UTF-8": data(b"\xff\xfe{\x80"),
    "nested": text("[" * 100_000),
    "long number": text('{"algorithm": ' + "9" * 10_000 + "}"),
    "list": text("[1]"),
    "number": text("3"),
    "null": text("null"),
    "empty dict": text("{}"),
    "giant field": text(json.dumps({"algorithm": "x" * (1 << 23)})),
    "long field": text(json.dumps({"algorithm": "x" * (1 << 20)})),
    "fifo": as_fifo,
    "device": as_device,
    "folder": as_folder,
    "sparse": as_sparse,
}


def check_refused(metarl, run, expected=""):
    status, printed = metarl("evaluate", run)
    assert status == 1, printed.out
    assert "Traceback" not in printed.err and len(printed.err) < 3000
    assert expected in printed.err, printed.err


@pytest.mark.parametrize("damage", DAMAGE)
def test_config(damage, copied, metarl):
    run = copied("sine")
    DAMAGE[damage](run / "config.json")
    check_refused(metarl, run, "config.json")


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": ["maml"]},
        {"algorithm": "mamml"},
        {"training": 3},
        {"training": {"iterations": "many"}},
        {"training": {"iterations": 1.5}},
        {"training": {"workers": 10**30}},
        {"training": {"outer_lr": float("nan")}},
        {"training": {"device": 7}},
        {"training": {"schedule": {}}},
        {"learner": {"steps": -1}},
        {"learner": {"frozen": "blocks.*"}},
        {"learner": [1]},
        {"shots": None},
        {"nothing": 1},
        {"\ud800": 1},
        {"shots": {"a": {"b": []}}},
    ],
    ids=str,
)
def test_edited_settings(change, copied, metarl):
    run = copied("sine")
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    check_refused(metarl, run, "config.json")


def test_sizes_beyond_any_memory(copied, metarl):
    run = copied("bandit")
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden": [10**9, 10**9]}))
    check_refused(metarl, run, "Expected `hidden` in [1, 65536], got 1000000000")
    experiment = script_experiment(EXPERIMENTS / "sine.py")
    for size in (10**16, 10**18):
        huge = dataclasses.replace(experiment, build=lambda settings, n=size: torch.empty(n))
        with pytest.raises(SettingsError, match="does not fit into the memory"):
            huge.main(["--runs", str(run.parent / "runs")])
    assert not (run.parent / "runs").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_experiment(damage, copied, metarl):
    run = copied("sine")
    DAMAGE[damage](run / "experiment.json")
    check_refused(metarl, run, "--script")


@pytest.mark.parametrize("damage", [d for d in DAMAGE if d != "empty"])
def test_results(damage, copied):
    run = copied("sine")
    path = run / "eval.jsonl"
    DAMAGE[damage](path)
    if path.is_file() and path.stat().st_size < 1 << 30:
        path.write_bytes(path.read_bytes() + b"\n{}\n")  # the damaged line is not the last one
    with pytest.raises(CheckpointError, match=r"eval\.jsonl"):
        read_curves(run)


def test_only_a_line_without_its_end_is_one_that_a_crash_cut(copied):
    run = copied("sine")
    path = run / "eval.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    assert len(read_curves(run)) == 2 * whole.count(b"\n") - 1
    path.write_bytes(whole + whole[:-20] + b"\n")
    with pytest.raises(CheckpointError, match=r"Line \d+ of .*eval\.jsonl is not JSON"):
        read_curves(run)


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": "1"},
        {"iteration": None},
        {"mean": 3},
        {"mean": ["x"]},
        {"split": 3},
        {"environment_steps": 10**30},
        {"environment_steps": "many"},
    ],
    ids=str,
)
def test_edited_results(change, copied, monkeypatch):
    run = copied("bandit")
    path = run / "eval.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]) + "\n")
    with pytest.raises(CheckpointError, match=r"Line 1 of .*eval\.jsonl cannot be used"):
        resume(run, monkeypatch)


def resume(run, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["bandit", "--resume", str(run), *arguments])
    script_experiment(EXPERIMENTS / "bandit.py").main()


@pytest.mark.parametrize("name", ["meta.json", "state.pt", "weights.safetensors"])
@pytest.mark.parametrize("damage", [d for d in DAMAGE if d != "sparse"])
def test_the_checkpoint_before_a_damaged_one_is_used(name, damage, copied, metarl):
    run = copied("sine")
    DAMAGE[damage](run / NEWEST / name)
    with pytest.raises(CheckpointError, match="newest good one before it"):
        load_checkpoint(run / NEWEST)
    with pytest.warns(RuntimeWarning, match=f"{NEWEST}, is damaged or not finite: step_000001"):
        status, printed = metarl("evaluate", run)
    assert status == 0 and "step_000001" in printed.out, printed.err
    with pytest.warns(RuntimeWarning, match="from earlier in training, is used"):
        load(run)


def forge(run, state):
    """Replaces the state of the newest checkpoint, with the right checksum."""
    import hashlib

    path, meta = run / NEWEST / "state.pt", run / NEWEST / "meta.json"
    torch.save(state, path)
    note = json.loads(meta.read_text())
    note["sha256"]["state.pt"] = hashlib.sha256(path.read_bytes()).hexdigest()
    meta.write_text(json.dumps(note))


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        """Returns what unpickling calls."""
        return os.system, (self.command,)


def test_code_in_a_state_is_not_run(copied, tmp_path):
    run, marker = copied("sine"), tmp_path / "marker"
    forge(run, {"iteration": 2, "state": {"x": Evil(f"touch {marker}")}})
    with pytest.raises(CheckpointError, match="not loaded as that may run code") as error:
        load_checkpoint(run / NEWEST)
    assert "weights_only" not in str(error.value) and not marker.exists()


@pytest.mark.parametrize(
    "state",
    [
        [1], {"iteration": 2}, {"iteration": 2, "state": 3}, {"iteration": "2", "state": {}},
        {"iteration": torch.zeros(3), "state": {}}, {"iteration": 2.0, "state": {}},
    ],
)  # fmt: skip
def test_states_of_another_form(state, copied):
    run = copied("sine")
    forge(run, state)
    with pytest.raises(CheckpointError, match="newest good one before it"):
        load_checkpoint(run / NEWEST)


@pytest.mark.parametrize(
    "change",
    [
        {"generator": 3},
        {"generator": torch.zeros(3)},
        {"carried": 7},
        {"seconds": "long"},
        {"optimizer": [1]},
        {"optimizer": {"state": 3}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_states_with_other_entries(change, copied, monkeypatch):
    run = copied("bandit")
    state = load_checkpoint(run / NEWEST).state
    forge(run, {"iteration": 2, "state": state | change})
    with pytest.raises(CheckpointError, match=r"made with another network"):
        resume(run, monkeypatch)


def test_an_iteration_must_be_a_number(copied):
    run = copied("sine")
    meta = run / NEWEST / "meta.json"
    for value in ("2", None, -1, 2.0, True, [2]):
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"iteration": value}))
        with pytest.raises(CheckpointError, match=r"meta\.json cannot be read"):
            load_checkpoint(run / NEWEST)


def test_the_latest_run_is_found_next_to_a_fifo(copied, metarl, tmp_path):
    run = copied("sine")
    folder = tmp_path / "runs" / "sine" / "maml" / "run"
    shutil.copytree(run, folder)
    as_fifo(folder / NEWEST / "meta.json")
    with pytest.warns(RuntimeWarning, match="from earlier in training, is used"):
        status, printed = metarl("evaluate", "latest", "--runs", tmp_path / "runs")
    # The newest checkpoint cannot be read; the run is found, and the one before is evaluated.
    assert status == 0 and str(folder) in printed.out + printed.err


def test_a_run_that_never_began_leaves_no_folder(tmp_path, monkeypatch):
    experiment = script_experiment(EXPERIMENTS / "sine.py")
    with pytest.raises(MetarlError):
        experiment.main(["--runs", str(tmp_path), "--training.device", "cuda:77"])

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("metarl.runs.silent.RunLogger", fail)
    with pytest.raises(KeyboardInterrupt):
        experiment.main(["--runs", str(tmp_path)])
    assert not list(tmp_path.glob("sine/maml/*"))


def test_good_runs_are_not_refused(copied):
    run = copied("sine")
    assert Checkpoints(run / "checkpoints").newest_good() == run / NEWEST
    assert TrainingSettings(seed=-1, iterations=0).seed == -1
