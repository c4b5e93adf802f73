import numpy as np
import pytest

from metarl.tasks.files import atomic_path, cached_arrays


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
        data[300] ^= 1  # inside the values: only their checksum tells
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
