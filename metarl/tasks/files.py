"""Files that are written whole or not at all, and a cache of arrays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from metarl.errors import CheckpointError, MetarlError

Arrays = dict[str, np.ndarray]
_PART = re.compile(r"\..+\.[0-9a-f]{32}\.part")
# What file systems answer that cannot sync folders.
_NOT_SYNCED = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


def cache_folder() -> Path:
    """Returns the folder for decoded data: $METARL_CACHE, or `~/.cache/metarl`."""
    return Path(os.environ.get("METARL_CACHE") or Path.home() / ".cache" / "metarl")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, and moves it to `path` on success.

    Readers see either the old file or the complete new one, also after a power failure. On an
    error the temporary file is removed.

    Raises:
        OSError: If the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # keeps the error that came first
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def result_path(path: Path, kind: str) -> Iterator[Path]:
    """Yields a temporary path like `atomic_path`, for a result that the user asked for.

    Args:
        path: The file.
        kind: What it is, for the message ("figure").

    Raises:
        CheckpointError: The file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except MetarlError:
        raise
    except OSError as error:
        raise CheckpointError(f"Cannot write the {kind} {path}: {error}.") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; a file with the same content is not written again.

    Raises:
        OSError: If the file cannot be written.
    """
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_parts(folder: Path) -> None:
    """Removes the temporary files of writers that died; no other process may write here."""
    for path in folder.iterdir():
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Syncs a folder to disk, so that new names in it survive a power failure.

    Has no effect where folders cannot be opened (Windows) or synced (some file systems).

    Raises:
        OSError: If the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)


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


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:  # Windows syncs only files that are open for writing
        os.fsync(file.fileno())
