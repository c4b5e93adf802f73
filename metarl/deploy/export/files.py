"""The folder of an exported adaptation: its metadata, written whole and checked when read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError, MetarlError, short_repr
from metarl.ranges import user_path
from metarl.tasks.files import read_json, sha256, sync_folder

FORMAT = "metarl-adaptation"
SCHEMA = 1
METADATA = "adaptation.json"
KINDS = ("supervised", "support", "control", "recurrent", "stream")


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes adaptation.json with the SHA-256 of every other file in the folder."""
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    content = {"format": FORMAT, "schema": SCHEMA, **metadata, "sha256": hashes}
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder / METADATA).write_text(text, encoding="utf-8")


def is_export(path: Path) -> bool:
    """Returns whether a path is the folder of an exported adaptation."""
    return (path / METADATA).is_file()


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """Reads adaptation.json and checks every file that it names.

    Args:
        folder: The folder of an exported adaptation.

    Raises:
        CheckpointError: The folder or a file is missing, altered, of a newer format, or no
            exported adaptation.
    """
    folder = user_path(folder, "folder")
    try:
        found = read_json(folder / METADATA)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"Expected the folder of an exported adaptation, {folder} has no {METADATA}. "
            "`metarl export RUN FOLDER --to onnx --with adaptation` writes one."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {folder / METADATA}: {error}.") from error
    _check_format(folder, found)
    for name, expected in found["sha256"].items():
        _check_file(folder, name, expected)
    return found


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder, which becomes `path` on success; replaces an earlier export.

    Raises:
        CheckpointError: `path` is something else than an exported adaptation or an empty folder,
            or cannot be written.
    """
    with replacing_folder(path, METADATA, "an exported adaptation") as folder:
        yield folder


@contextmanager
def replacing_folder(path: Path, marker: str, kind: str) -> Iterator[Path]:
    """Yields a temporary folder, which becomes `path` on success.

    Args:
        path: The folder. It may be absent, empty, or hold a file `marker`: then it is replaced.
        marker: The file that says that the folder may be replaced.
        kind: What such a folder is, for the message.

    Raises:
        CheckpointError: `path` is something else, or cannot be written.
    """
    path = path.absolute()
    if path.exists() and not _replaceable(path, marker):
        raise CheckpointError(
            f"Expected a new folder, or {kind} to replace, {path} holds something else. Name "
            "another one."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export_", dir=path.parent) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
            sync_folder(path.parent)
    except MetarlError:
        raise
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}.") from error


def _replaceable(path: Path, marker: str) -> bool:
    return path.is_dir() and (not os.listdir(path) or (path / marker).is_file())


def _check_format(folder: Path, found: Any) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(
            f"Expected an exported adaptation, {folder / METADATA} says the format "
            f"{short_repr(found.get('format') if isinstance(found, dict) else found)}."
        )
    schema = found.get("schema")
    if type(schema) is not int or schema < 1:
        raise CheckpointError(f"{folder / METADATA} has no schema number.")
    if schema > SCHEMA:
        raise CheckpointError(
            f"{folder} was written by a newer MetaRL (schema {schema}, this one reads {SCHEMA}): "
            "upgrade metarl, or export the run again with this version."
        )
    hashes, graphs = found.get("sha256"), found.get("graphs")
    if found.get("kind") not in KINDS or not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / METADATA} is not complete: export the run again.")
    graphs = graphs.values() if isinstance(graphs, dict) else [None]
    files = [g.get("file") if isinstance(g, dict) else g for g in graphs]
    missing = [short_repr(f) for f in files if not isinstance(f, str) or f not in hashes]
    if missing:
        raise CheckpointError(
            f"{folder / METADATA} has no SHA-256 of {', '.join(missing)}: export the run again."
        )


def _check_file(folder: Path, name: str, expected: Any) -> None:
    if Path(name).name != name or not name:
        raise CheckpointError(f"{folder / METADATA} names a file elsewhere: {short_repr(name)}.")
    try:
        actual = sha256(folder / name)
    except OSError as error:
        raise CheckpointError(f"Cannot read {short_repr(name)} in {folder}: {error}.") from error
    if actual != expected:
        raise CheckpointError(
            f"{folder / name} was altered or is damaged: its SHA-256 is not the one in {METADATA}. "
            "Copy the folder again, or export the run again."
        )
