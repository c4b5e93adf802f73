"""TensorBoard's event files of a run: what a resumed run writes again is cut out of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from metarl.tasks.files import atomic_path, check_regular

_HEAD = struct.Struct("<QI")  # length of the event, and a checksum of the length
_TAIL = 4  # bytes of the checksum of the event
_CHUNK = 1 << 20


def event_files(folder: Path) -> list[Path]:
    """Returns the event files in a folder, without links."""
    paths = sorted(folder.glob("events.out.tfevents.*"))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def keep_events(paths: Iterable[Path], wanted: Callable[[Any], bool]) -> None:
    """Drops events that are not wanted, and the remains of an event that a crash has cut.

    A file is written whole or not at all, and only if it changes.

    Args:
        paths: Event files to which nothing is written at present.
        wanted: Whether to keep an event, a protocol buffer `Event`.

    Raises:
        OSError: A file cannot be read or written.
    """
    for path in paths:
        size = check_regular(path)
        kept = [(start, stop) for event, start, stop in _events(path, size) if wanted(event)]
        if sum(stop - start for start, stop in kept) < size:
            _write(path, kept)


def _write(path: Path, spans: list[tuple[int, int]]) -> None:
    """Replaces a file by the bytes [start, stop) of it."""
    with atomic_path(path) as temporary, path.open("rb") as old, temporary.open("wb") as new:
        for start, stop in spans:
            old.seek(start)
            left = stop - start
            while left:
                left -= new.write(old.read(min(left, _CHUNK)))


def _events(path: Path, size: int) -> Iterator[tuple[Any, int, int]]:
    """Yields the whole events of a file with their bytes [start, stop), up to a damaged one."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    decode = getattr(event_pb2, "Event").FromString  # noqa: B009 - type checkers cannot see it
    start = 0
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            stop = start + _HEAD.size + length + _TAIL
            if stop > size or checksum != masked_crc32c(head[:8]):
                return
            try:
                event = decode(file.read(length))
            except DecodeError:
                return
            file.seek(stop)
            yield event, start, stop
            start = stop
