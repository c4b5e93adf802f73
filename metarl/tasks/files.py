"""Atomic file writes and a cache of arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Returns the folder for decoded data: $METARL_CACHE, or `~/.cache/metarl`."""
    return Path(os.environ.get("METARL_CACHE") or Path.home() / ".cache" / "metarl")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, and moves it to `path` on success.

    Readers see either the old file or the complete new one. On an error the temporary file is
    removed.

    Raises:
        OSError: If the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_arrays(key: str, build: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays cached under `key`, or builds and caches them.

    A damaged cache file is rebuilt. If the cache cannot be written, the arrays are built on every
    call.

    Args:
        key: File name without its suffix. It must differ for different arrays.
        build: Builds the arrays; their dtypes must not be object.
    """
    path = cache_folder() / f"{key}.npz"
    arrays = _load(path)
    if arrays is None:
        arrays = build()
        # A cache that cannot be written only costs time.
        with (
            contextlib.suppress(OSError),
            atomic_path(path) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return arrays


def _load(path: Path) -> Arrays | None:
    try:
        # Reading checks the CRC of each array. numpy does not close a damaged file itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
