import os
import uuid

import numpy as np
import pytest

from metarl.errors import CheckpointError
from metarl.tasks.files import (
    atomic_path,
    cached_arrays,
    read_regular,
    remove_parts,
    result_path,
    sha256,
    write_bytes,
)


@pytest.fixture
def builder():
    """Builds arrays and counts how often."""

    def build():
        build.calls += 1
        return {"values": np.arange(100), "names": np.array(["a", "b"])}

    build.calls = 0
    return build


def test_arrays_are_built_once(fresh_cache, builder):
    first, second = (cached_arrays("key", builder) for _ in range(2))
    assert builder.calls == 1
    assert (first["values"] == second["values"]).all()
    assert second["names"].tolist() == ["a", "b"]


@pytest.mark.parametrize("damage", ["truncated", "altered", "nonsense"])
def test_a_damaged_cache_is_rebuilt(fresh_cache, builder, damage):
    cached_arrays("key", builder)
    path = fresh_cache / "key.npz"
    data = bytearray(path.read_bytes())
    if damage == "altered":
        data[300] ^= 1  # inside the values: only their checksum shows it
    path.write_bytes({"truncated": data[:400], "altered": data, "nonsense": b"?"}[damage])
    assert (cached_arrays("key", builder)["values"] == np.arange(100)).all()
    assert builder.calls == 2
    cached_arrays("key", builder)
    assert builder.calls == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, builder, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file"))
    assert (cached_arrays("key", builder)["values"] == np.arange(100)).all()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_results_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def write():
        with result_path(tmp_path / "file" / "tasks.csv", "table") as path:
            path.write_text("1,2")

    with pytest.raises(CheckpointError, match=r"Cannot write the table .*tasks\.csv"):
        write()


def test_only_parts_of_dead_writers_are_removed(tmp_path):
    (tmp_path / f".config.json.{uuid.uuid4().hex}.part").write_text("{")
    mine = [tmp_path / name for name in (".notes.part", "config.json", ".config.json.part")]
    for path in mine:
        path.write_text("mine")
    remove_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(mine)


def test_a_fifo_is_replaced_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "file")
    with pytest.raises(OSError, match="expected a regular file"):
        sha256(tmp_path / "file")
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(OSError, match="no name of a file"):
        read_regular(tmp_path / name, 10)
