"""Checkpoints that are whole or not there at all, and that say so when they were altered."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metarl.errors import CheckpointError, SettingsError
from metarl.trees import map_tensors

FORMAT_VERSION = 1
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
_NAME = re.compile(r"step_(\d{6,})")
_ASIDE = re.compile(r"\.old_step_(\d{6,})")
_TEMPORARY = ".new_"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        iteration: Meta-iterations done when it was written.
        weights: Parameters by name, on the device asked for.
        state: What else training needs, its tensors on the CPU: generators want their states
            there, and optimisers move theirs to their parameters.
        path: The folder it was read from.
    """

    iteration: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one run, `step_000500/{weights.safetensors,state.pt,meta.json}` each.

    A checkpoint is written under a temporary name, synced to disk and renamed, so a process that
    dies at any moment leaves the newest one whole. Making this object touches no file.

    Args:
        folder: Where they lie; made on the first `save`.
        keep: How many of the newest are kept, at least 1.

    Raises:
        SettingsError: `keep` is below 1.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise SettingsError(f"Expected to keep at least 1 checkpoint, got {keep}.")
        self.folder = Path(folder)
        self.keep = keep

    def save(self, iteration: int, weights: Mapping[str, Tensor], state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then deletes those beyond `keep`.

        Checkpoints of later iterations are deleted too: they belong to a future that a resumed
        run has left. One of the same iteration is replaced.

        Args:
            iteration: Meta-iterations done so far, at least 0.
            weights: Parameters by name, any shapes and strides; they may share memory.
            state: Tensors, numbers, strings, None, and dicts, lists and tuples of these.

        Returns:
            The folder of the checkpoint.

        Raises:
            CheckpointError: The folder cannot be written, or `state` holds something that could
                not be read back safely. Earlier checkpoints are left as they were.
        """
        if iteration < 0:
            raise CheckpointError(f"Expected an iteration of at least 0, got {iteration}.")
        files = {WEIGHTS: _pack_weights(weights), STATE: _pack_state(iteration, state)}
        files[META] = _pack_meta(iteration, files)
        path = self.folder / f"step_{iteration:06d}"
        temporary = self.folder / f"{_TEMPORARY}{path.name}.{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_folder(temporary, files)
            _swap_in(temporary, path)
            self._prune(iteration)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"Cannot write the checkpoint {path}: {error}. Free some space or make the "
                "folder writable; the earlier checkpoints are as they were."
            ) from error
        return path

    def latest(self) -> Path | None:
        """Returns the folder of the newest checkpoint, not verified, or None without any."""
        found = _candidates(self.folder)
        return found[max(found)] if found else None

    def newest_good(self) -> Path | None:
        """Returns the folder of the newest checkpoint that verifies, or None without any."""
        return _newest_good_before(self.folder)

    def load(
        self, which: Path | str | int | None = None, device: torch.device | str = "cpu"
    ) -> Checkpoint:
        """Reads and verifies a checkpoint.

        Args:
            which: A checkpoint's folder, its iteration, or None for the newest.
            device: Where the weights go; the state stays on the CPU.

        Raises:
            CheckpointError: There is none, or it was truncated or altered; the message offers
                the newest one before it that verifies.
        """
        if isinstance(which, Path | str):
            return load_checkpoint(which, device)
        found = _candidates(self.folder)
        if not found:
            raise CheckpointError(f"There is no checkpoint in {self.folder}.")
        iteration = max(found) if which is None else which
        if iteration not in found:
            there = ", ".join(str(i) for i in sorted(found))
            raise CheckpointError(
                f"There is no checkpoint of iteration {iteration} in {self.folder}; "
                f"those there: {there}."
            )
        return load_checkpoint(found[iteration], device)

    def _prune(self, newest: int) -> None:
        """Deletes what is not one of the `keep` newest up to `newest`, and leftovers."""
        found = _candidates(self.folder)
        kept = sorted(i for i in found if i <= newest)[-self.keep :]
        wanted = {found[i] for i in kept}
        for path in self.folder.iterdir():
            ours = _iteration(path) is not None or path.name.startswith(_TEMPORARY)
            if ours and path not in wanted:
                shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads and verifies the checkpoint in a folder.

    Args:
        path: The checkpoint's folder.
        device: Where the weights go; the state stays on the CPU.

    Raises:
        CheckpointError: It is missing, truncated or altered; the message offers the newest
            earlier one in the same folder that verifies.
    """
    path = Path(path)
    try:
        return _read(path, torch.device(device))
    except CheckpointError as error:
        earlier = _newest_good_before(path.parent, _iteration(path))
        advice = (
            f"The newest good one before it: {earlier}"
            if earlier
            else f"No good one lies before it in {path.parent}; start the run anew."
        )
        raise CheckpointError(f"Cannot load the checkpoint {path}: {error} {advice}") from error


def is_checkpoint(path: Path) -> bool:
    """Tells whether a path has the name of a checkpoint; it need not be whole, or exist."""
    return _iteration(path) is not None


def _iteration(path: Path) -> int | None:
    match = _NAME.fullmatch(path.name) or _ASIDE.fullmatch(path.name)
    return int(match.group(1)) if match else None


def _candidates(folder: Path) -> dict[int, Path]:
    """Returns checkpoints by iteration; one set aside counts only where its successor is not."""
    found: dict[int, Path] = {}
    try:
        paths = sorted(folder.iterdir())  # ".old_step_" sorts before "step_"
    except OSError:
        return {}
    for path in paths:
        iteration = _iteration(path)
        if iteration is not None and path.is_dir():
            found[iteration] = path
    return found


def _newest_good_before(folder: Path, limit: int | None = None) -> Path | None:
    for iteration, candidate in sorted(_candidates(folder).items(), reverse=True):
        if limit is not None and iteration >= limit:
            continue
        with contextlib.suppress(CheckpointError):
            return _read(candidate, torch.device("cpu")).path
    return None


def _pack_weights(weights: Mapping[str, Tensor]) -> bytes:
    # safetensors takes neither views of one storage nor strides: give it dense copies.
    dense = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in weights.items()
    }
    return safetensors.torch.save(dense)


def _pack_state(iteration: int, state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        # A copy, since torch.save writes the whole storage of a view.
        value = map_tensors(lambda t: t.detach().cpu().clone(), state)
        torch.save({"iteration": iteration, "state": value}, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)  # now rather than on resume
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            "The state of a checkpoint may hold tensors, numbers, strings, None, and dicts, lists "
            f"and tuples of these; got something else: {error}"
        ) from error
    return buffer.getvalue()


def _pack_meta(iteration: int, files: dict[str, bytes]) -> bytes:
    meta = {
        "format_version": FORMAT_VERSION,
        "iteration": iteration,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return json.dumps(meta, indent=2).encode() + b"\n"


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync_folder(folder)


def _swap_in(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`; what was there stays readable, aside, until it is done."""
    aside = path.with_name(f".old_{path.name}")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    temporary.rename(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, device: torch.device) -> Checkpoint:
    """Reads a checkpoint and verifies it; the errors leave its path to the caller."""
    meta = _read_meta(path)
    weights = _read_verified(path / WEIGHTS, meta)
    state = _read_verified(path / STATE, meta)
    try:
        tensors = safetensors.torch.load(weights)
        content = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        iteration = content["iteration"]
    except (SafetensorError, pickle.PickleError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"it cannot be decoded ({error}).") from error
    if iteration != meta["iteration"]:
        raise CheckpointError(f"{META} says iteration {meta['iteration']}, {STATE} {iteration}.")
    moved = {name: t.to(device) for name, t in tensors.items()}
    return Checkpoint(iteration, moved, content["state"], path)


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError("there is no such folder.")
    try:
        meta = json.loads((path / META).read_bytes())
        version, _ = meta["format_version"], (meta["iteration"], meta["sha256"][WEIGHTS])
    except FileNotFoundError as error:
        raise CheckpointError(f"{META} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{META} cannot be read ({error!r}).") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"it has format version {version!r}, this MetaRL reads {FORMAT_VERSION}."
        )
    return meta


def _read_verified(path: Path, meta: dict[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing.") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error}).") from error
    if hashlib.sha256(data).hexdigest() != meta["sha256"].get(path.name):
        raise CheckpointError(
            f"{path.name} ({len(data)} bytes) was truncated or altered: its SHA-256 is not the "
            f"one in {META}."
        )
    return data
