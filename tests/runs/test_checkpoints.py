import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl.errors import CheckpointError, SettingsError
from metarl.runs.checkpoints import Checkpoints, load_checkpoint, load_weights


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {"w": torch.randn(3, 4, generator=generator), "b": torch.zeros(4)}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=3)


@pytest.fixture
def two(checkpoints, weights):
    """Two checkpoints, of iterations 1 and 2."""
    return checkpoints, [checkpoints.save(i, weights, {"i": i}) for i in (1, 2)]


def test_what_was_saved_comes_back_to_the_bit(checkpoints, weights):
    generator = torch.Generator().manual_seed(7)
    parameter = torch.nn.Parameter(weights["w"].clone())
    optimizer = torch.optim.Adam([parameter], 0.1)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"generator": generator.get_state(), "adam": optimizer.state_dict(), "note": ["a", 1.5]}
    path = checkpoints.save(500, weights, state)
    expected = torch.randn(5, generator=generator)

    loaded = checkpoints.load()
    assert path.name == "step_000500"
    assert loaded.path == path
    assert loaded.iteration == 500
    assert all(torch.equal(loaded.weights[n], weights[n]) for n in weights)
    generator.set_state(loaded.state["generator"])
    assert torch.equal(torch.randn(5, generator=generator), expected)
    adam = loaded.state["adam"]["state"][0]["exp_avg"]
    assert torch.equal(adam, optimizer.state_dict()["state"][0]["exp_avg"])
    assert loaded.state["note"] == ["a", 1.5]


def test_shared_and_strided_weights_are_saved(checkpoints):
    base = torch.arange(12.0).reshape(3, 4)
    weights = {"base": base, "same": base, "transposed": base.t(), "expanded": base[0].expand(2, 4)}
    checkpoints.save(1, weights, {})
    loaded = checkpoints.load().weights
    assert all(torch.equal(loaded[n], t) for n, t in weights.items())


def test_a_view_in_the_state_does_not_drag_its_storage_along(checkpoints):
    checkpoints.save(1, {}, {"view": torch.zeros(1_000_000)[:2]})
    assert (checkpoints.folder / "step_000001" / "state.pt").stat().st_size < 10_000


def test_the_newest_are_kept_and_leftovers_cleaned(checkpoints, weights):
    (checkpoints.folder / ".new_step_000003.dead").mkdir(parents=True)
    mine = checkpoints.folder / "notes"
    mine.mkdir()
    assert checkpoints.latest() is None
    for iteration in range(1, 6):
        checkpoints.save(iteration, weights, {})
    names = {p.name for p in checkpoints.folder.iterdir()}
    assert names == {"notes", "step_000003", "step_000004", "step_000005"}


def test_a_resumed_run_drops_the_future_it_left(checkpoints, weights):
    for iteration in (10, 20, 30):
        checkpoints.save(iteration, weights, {})
    assert checkpoints.load(10).iteration == 10
    checkpoints.save(15, weights, {})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step_000015"
    assert {p.name for p in checkpoints.folder.iterdir()} == {"step_000010", "step_000015"}


def test_the_same_iteration_is_replaced(checkpoints, weights):
    checkpoints.save(1, weights, {"x": 1})
    checkpoints.save(1, weights, {"x": 2})
    assert checkpoints.load(1).state == {"x": 2}
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step_000001"]


def test_a_crash_while_replacing_leaves_the_old_one(checkpoints, weights):
    path = checkpoints.save(1, weights, {"x": 1})
    path.rename(path.with_name(f".old_{path.name}"))
    assert checkpoints.load().state == {"x": 1}
    checkpoints.save(2, weights, {"x": 2})
    assert checkpoints.load(1).state == {"x": 1}


def truncate(path):
    data = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(data[:-3])


def flip(path):
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(bytes(data))


def lie_about_iteration(path):
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "iteration": 9}))


DAMAGES = {
    "truncated weights": (truncate, "weights.safetensors .* truncated or altered"),
    "flipped bit": (flip, "state.pt .* truncated or altered"),
    "no meta": (lambda p: (p / "meta.json").unlink(), "meta.json is missing"),
    "no weights": (
        lambda p: (p / "weights.safetensors").unlink(),
        "weights.safetensors is missing",
    ),
    "broken json": (lambda p: (p / "meta.json").write_text('{"itera'), "meta.json cannot be read"),
    "json of another kind": (lambda p: (p / "meta.json").write_text("[1]"), "cannot be read"),
    "another iteration": (lie_about_iteration, "says iteration 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(two, damage):
    checkpoints, (first, second) = two
    break_it, message = DAMAGES[damage]
    break_it(second)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load()
    assert str(second) in str(caught.value)
    assert f"The newest good one before it: {first}" in str(caught.value)
    assert load_checkpoint(first).iteration == 1


def test_the_offer_skips_damaged_ones(two, weights):
    checkpoints, (first, second) = two
    third = checkpoints.save(3, weights, {})
    flip(second)
    flip(third)
    with pytest.raises(CheckpointError, match=f"before it: {first}"):
        checkpoints.load(3)
    flip(first)
    with pytest.raises(CheckpointError, match="No good one lies before it"):
        checkpoints.load(3)


def test_a_newer_format_is_refused(two):
    checkpoints, (_, second) = two
    text = (second / "meta.json").read_text().replace('"format_version": 1', '"format_version": 2')
    (second / "meta.json").write_text(text)
    with pytest.raises(CheckpointError, match="format version 2, this MetaRL reads 1"):
        checkpoints.load()


def test_a_missing_checkpoint_is_reported(checkpoints, two):
    with pytest.raises(CheckpointError, match=r"iteration 7 .* those there: 1, 2"):
        checkpoints.load(7)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoints.load(checkpoints.folder / "step_000009")
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        Checkpoints(checkpoints.folder / "elsewhere").load()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, weights):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot write the checkpoint"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, weights, {})


def test_a_failed_save_leaves_the_earlier_ones_and_no_rest(two, weights, monkeypatch):
    checkpoints, (_, second) = two

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save(3, weights, {})
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_000001", "step_000002"]
    assert checkpoints.load().path == second


@pytest.mark.parametrize("value", [lambda: 0, Path("x"), object(), np.float64(1.5)])
def test_state_that_could_not_be_loaded_is_refused_when_saved(checkpoints, weights, value):
    place = r"may hold tensors, numbers.*got <class '.*'> at \['x'\]\[1\]\.$"
    with pytest.raises(CheckpointError, match=place):
        checkpoints.save(1, weights, {"a": [weights], "x": (None, value)})
    assert checkpoints.latest() is None


def test_bad_arguments_are_refused(checkpoints, tmp_path):
    with pytest.raises(SettingsError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(CheckpointError, match="at least 0"):
        checkpoints.save(-1, {}, {})


SAVE_FOREVER = """
import itertools, pathlib, sys, torch
from metarl.runs.checkpoints import Checkpoints
torch.set_num_threads(1)
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), keep=1)
start = int(sys.argv[2])
for i in itertools.count(start):
    for _ in range(2):  # the second one replaces the first
        checkpoints.save(i, {"w": torch.full((50_000,), float(i))}, {"i": i})
    print(i, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_loadable_latest(tmp_path):
    folder, start = tmp_path / "checkpoints", 1
    for delay in (0.0013, 0.0041):
        command = [sys.executable, "-c", SAVE_FOREVER, str(folder), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            printed = [start, *map(int, process.stdout.read().split())]
        loaded = Checkpoints(folder).load()
        assert loaded.iteration >= max(printed)
        assert loaded.state == {"i": loaded.iteration}
        assert bool((loaded.weights["w"] == loaded.iteration).all())
        start = loaded.iteration + 1


def test_a_process_that_dies_at_any_call_leaves_a_loadable_latest(
    checkpoints, weights, monkeypatch
):
    """Dies, so to speak, at the n-th file operation of a save, for every n there is."""

    class Death(BaseException):
        """No handler for OSError catches it, as none would catch kill -9."""

    checkpoints.keep = 1
    checkpoints.save(5, weights, {"i": 0})
    originals = {
        name: getattr(os, name) for name in ("fsync", "rename", "mkdir", "rmdir", "unlink")
    }
    for die_at in range(1, 100):
        calls = 0

        def counted(name):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == die_at:  # noqa: B023
                    raise Death
                return originals[name](*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in originals:
                patch.setattr(os, name, counted(name))
            try:
                checkpoints.save(5, weights, {"i": die_at})
            except Death:
                died = True
            else:
                died = False
        assert checkpoints.load().state["i"] in (die_at, die_at - 1, 0)
        if not died:
            break
    assert die_at > 8
    assert checkpoints.load().state["i"] == die_at


def test_windows_which_cannot_open_folders_still_gets_its_checkpoints(
    checkpoints, weights, monkeypatch
):
    original = os.open

    def windows(path, flags, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", windows)
    checkpoints.save(1, weights, {"i": 1})
    assert checkpoints.load().state == {"i": 1}


def test_a_file_system_that_cannot_sync_folders_still_gets_its_checkpoints(
    checkpoints, weights, monkeypatch
):
    original = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoints.save(1, weights, {"i": 1})
    assert checkpoints.load().state == {"i": 1}


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_weights_whose_numbers_would_be_lost_are_refused(kind):
    layer = torch.nn.Linear(2, 1)
    weights = {name: w.to(kind) for name, w in layer.state_dict().items()}
    with pytest.raises(RuntimeError, match="numbers would be lost"):
        load_weights(layer, weights)
    load_weights(layer, {name: w.double() for name, w in layer.state_dict().items()})


def test_one_checkpoint_is_kept_beyond_the_newest(checkpoints):
    for iteration in range(1, 7):
        checkpoints.kept = None if iteration < 2 else 2
        checkpoints.save(iteration, {}, {})
    there = [path.name for path in sorted(checkpoints.folder.iterdir())]
    assert there == [f"step_{k:06d}" for k in (2, 4, 5, 6)]
    assert checkpoints.of(2) == checkpoints.folder / "step_000002"
    assert checkpoints.of(3) is None
    checkpoints.save(1, {}, {})  # resumed before it
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_000001"]
