"""Downloads with checksum, progress bar and atomic result."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from metarl.errors import DataError
from metarl.tasks.files import atomic_path

CHUNK = 1 << 16
TIMEOUT = 30.0  # seconds without a byte


def download(url: str, path: Path, sha256: str, size: int) -> None:
    """Downloads a file to a temporary name, checks it and moves it to `path`.

    Shows a progress bar on standard error if that is a terminal.

    Args:
        url: Address of the file.
        path: Destination; its folder is created.
        sha256: The expected SHA-256 in hexadecimal.
        size: The expected size in bytes.

    Raises:
        DataError: If the server or the disk fails, or size or checksum differ. `path` is then
            left as it was.
    """
    try:
        with atomic_path(path) as temporary:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as source:
                digest, received = _copy(source, temporary, path.name, size)
            if (received, digest) != (size, sha256):
                raise DataError(
                    f"{url} gave {received} bytes with SHA-256 {digest}, expected {size} with "
                    f"{sha256}; try again, or download it by other means to {path}."
                )
    except DataError:
        raise
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DataError(
            f"Cannot download {url} to {path}: {error}. Check the connection and the folder, or "
            "download the file by other means and put it there."
        ) from error


def _copy(source: BinaryIO, path: Path, name: str, size: int) -> tuple[str, int]:
    """Copies a stream to a file and returns its SHA-256 and its number of bytes."""
    digest, received = hashlib.sha256(), 0
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        path.open("wb") as target,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task(name, total=size)
        while chunk := source.read(CHUNK):
            target.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(bar, completed=received)
    return digest.hexdigest(), received
