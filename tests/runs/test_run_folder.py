import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl.errors import CheckpointError
from metarl.runs.run_folder import create_run_folder, to_json, write_config


@dataclass(frozen=True)
class Inner:
    """Settings within settings."""

    lr: float = 0.1
    sizes: tuple[int, ...] = (40, 40)


@dataclass(frozen=True)
class Outer:
    """Settings."""

    inner: Inner = field(default_factory=Inner)
    data: Path = Path("data/omniglot")
    dtype: torch.dtype = torch.float32
    clip: float | None = None


def test_it_is_named_by_time_and_seed_and_never_used_again(make):
    folders = [make(5, seed=7) for _ in range(3)]
    assert folders[0] == Path("runs/sine/maml/20260102_030405_s7")
    assert [f.name for f in folders[1:]] == ["20260102_030405_s7_2", "20260102_030405_s7_3"]
    assert all((f / "config.json").is_file() for f in folders)


def test_nothing_is_left_of_a_folder_that_a_full_disk_cuts_off(tmp_path, monkeypatch):
    def full(_):
        if (tmp_path / "sine").glob("*/*/experiment.json"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"Cannot write .*No space left.* Free some space"):
        create_run_folder(tmp_path, "sine", "maml", 0, Outer())
    assert not list((tmp_path / "sine" / "maml").iterdir())


def test_numbers_of_numpy_are_numbers_in_json():
    values = [np.int64(3), np.float32(0.5), np.float64(0.1), np.bool_(True), (np.int8(1), 2)]
    assert to_json(values) == [3, 0.5, 0.1, True, [1, 2]]
    assert [type(v) for v in to_json(values)] == [int, float, float, bool, list]


def test_settings_are_written_as_json(tmp_path):
    folder = create_run_folder(tmp_path, "sine", "maml", 0, Outer())
    assert json.loads((folder / "config.json").read_text()) == {
        "inner": {"lr": 0.1, "sizes": [40, 40]},
        "data": "data/omniglot",
        "dtype": "torch.float32",
        "clip": None,
    }
    assert to_json({"x": Inner()}) == {"x": {"lr": 0.1, "sizes": [40, 40]}}


def test_versions_and_command_are_written(make):
    folder = make(0)
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["metarl"] and versions["mujoco"] and versions["gymnasium"]
    assert versions["cpu_count"] >= 1
    assert {"python", "numpy", "platform", "devices"} <= set(versions)
    directory, command = (folder / "command.txt").read_text().splitlines()
    assert directory.startswith("cd /")
    assert "python" in command or "pytest" in command


def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_commit_and_diff_are_written_inside_a_repository(make):
    git("init", "--quiet")
    Path("tracked.txt").write_text("old\n")
    git("add", "tracked.txt")
    git("commit", "--quiet", "-m", "first")
    Path("tracked.txt").write_text("new\n")
    Path("loose.txt").write_text("x")
    folder = make(0)
    record = json.loads((folder / "git.json").read_text())
    assert record["commit"] == git("rev-parse", "HEAD")
    assert record["dirty"] is True
    assert "loose.txt" in record["untracked"]
    assert "-old\n+new\n" in (folder / "git.diff").read_text()


def test_nothing_fails_outside_a_repository_or_without_git(make, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.cwd().parent))
    assert not (make(0) / "git.json").exists()
    monkeypatch.setenv("PATH", "")
    assert not (make(1) / "git.json").exists()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot write a run folder in"):
        create_run_folder(tmp_path / "runs", "sine", "maml", 0, {})


def test_settings_that_stay_are_not_written_again(make):
    folder = make(1)
    before = (folder / "config.json").stat()
    write_config(folder, {"a": 1})
    assert os.path.samestat(before, (folder / "config.json").stat())
    write_config(folder, {"a": 2})
    assert json.loads((folder / "config.json").read_text()) == {"a": 2}


def test_a_full_disk_leaves_the_old_settings(make, monkeypatch):
    folder = make(1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*old config\.json remains"):
        write_config(folder, {"a": 2})
    assert json.loads((folder / "config.json").read_text()) == {"a": 1}
    assert not list(folder.glob(".*"))
