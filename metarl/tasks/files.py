"""Reads of regular files, files that are written whole or not at all, and a cache of arrays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metarl.errors import CheckpointError, MetarlError, short_repr

Arrays = dict[str, np.ndarray]
_PART = re.compile(r"\..+\.[0-9a-f]{32}\.part")
# What file systems answer that cannot sync folders.
_NOT_SYNCED = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)

MOST_JSON = 1 << 22
"""Upper bound on the bytes of a JSON file with settings."""


def cache_folder() -> Path:
    """Returns the folder for decoded data: $METARL_CACHE, or `~/.cache/metarl`."""
    return Path(os.environ.get("METARL_CACHE") or Path.home() / ".cache" / "metarl")


def read_regular(path: Path, limit: int) -> bytes:
    """Reads a regular file of bounded size.

    Reading a FIFO or a device, or a link to one, may never end.

    Args:
        path: The file.
        limit: Upper bound on its size in bytes.

    Raises:
        OSError: The file is missing, cannot be read, is not a regular file, or is too large.
    """
    size = check_regular(path)
    if size > limit:
        raise OSError(f"expected at most {limit} bytes, {path.name} has {size}")
    with path.open("rb") as file:
        return file.read(size)


def check_regular(path: Path) -> int:
    """Returns the size of a regular file in bytes, without opening it.

    Raises:
        OSError: The file is missing, or is a folder, a FIFO or a device.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a name that no file can have
        raise OSError(f"{short_repr(str(path))} is no name of a file") from error
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"expected a regular file, {path.name} is a folder, a FIFO or a device")
    return status.st_size


def read_json(path: Path, limit: int = MOST_JSON) -> Any:
    """Reads a JSON file in UTF-8; see `read_regular`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON in UTF-8, or nested too deeply.
    """
    return parse_json(read_regular(path, limit))


def parse_json(data: bytes) -> Any:
    """Decodes JSON in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_text(path: Path, limit: int = MOST_JSON) -> str:
    """Reads a text in UTF-8 without spaces around; see `read_regular`.

    Raises:
        OSError: The file cannot be read, or is not UTF-8.
    """
    try:
        return read_regular(path, limit).decode().strip()
    except UnicodeDecodeError as error:
        raise OSError(f"{path.name} is no text in UTF-8") from error


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
        if read_regular(path, len(data)) == data:
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
    """Returns the SHA-256 of a regular file in hexadecimal; see `check_regular`."""
    check_regular(path)
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
