"""Checkpoints: written atomically, verified by checksums when read."""

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
from torch import Tensor, nn

from metarl.devices import resolve_device
from metarl.errors import CheckpointError, SettingsError, short_repr
from metarl.tasks.files import read_json, read_regular, sync_folder
from metarl.trees import map_tensors

FORMAT_VERSION = 1
MOST_BYTES = 1 << 36  # of a file of a checkpoint, 64 GiB
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
_NAME = re.compile(r"step_(\d{6,})")
_OLD_NAME = re.compile(r"\.old_step_(\d{6,})")
_TEMPORARY = ".new_"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        iteration: Number of meta-iterations completed when it was written.
        weights: Parameters by name, on the requested device.
        state: The other state of the training run. Its tensors are on the CPU: generators require
            this, and optimisers move their state to the device of the parameters.
        path: The folder of the checkpoint.
    """

    iteration: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one run: `step_000500/{weights.safetensors,state.pt,meta.json}` and so on.

    A checkpoint is written under a temporary name, synced to disk and renamed, so a process that
    dies at any moment leaves the newest checkpoint intact. The constructor touches no files.

    Args:
        folder: The folder of the checkpoints; the first `save` creates it.
        keep: Number of newest checkpoints to keep, at least 1.

    Attributes:
        kept: The iteration of a checkpoint that is kept although newer ones exist, or None.

    Raises:
        SettingsError: `keep` is below 1.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if keep < 1:
            raise SettingsError(f"Expected to keep at least 1 checkpoint, got {keep}.")
        self.folder = Path(folder)
        self.keep = keep
        self.kept: int | None = None

    def save(self, iteration: int, weights: Mapping[str, Tensor], state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then deletes all but the newest `keep` checkpoints and `kept`.

        Checkpoints of later iterations are deleted too: they remain from before the run was
        resumed at an earlier iteration. A checkpoint of the same iteration is replaced.

        Args:
            iteration: Number of completed meta-iterations, at least 0.
            weights: Parameters by name, any shapes and strides; they may share memory.
            state: Tensors, numbers, strings, None, and dicts, lists and tuples of these.

        Returns:
            The folder of the checkpoint.

        Raises:
            CheckpointError: The folder cannot be written, or `state` holds a value of another
                type. Earlier checkpoints remain unchanged.
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
        """Returns the folder of the newest checkpoint, without verifying it; None without one."""
        folders = _checkpoint_folders(self.folder)
        return folders[max(folders)] if folders else None

    def of(self, iteration: int) -> Path | None:
        """Returns the folder of the checkpoint of an iteration, without verifying it, or None."""
        return _checkpoint_folders(self.folder).get(iteration)

    def newest_good(self) -> Path | None:
        """Returns the folder of the newest valid checkpoint with finite weights, or None."""
        return _newest_valid(self.folder)

    def load(
        self, which: Path | str | int | None = None, device: torch.device | str = "cpu"
    ) -> Checkpoint:
        """Reads and verifies a checkpoint.

        Args:
            which: The folder of a checkpoint, its iteration, or None for the newest.
            device: The device of the weights; the state stays on the CPU.

        Raises:
            CheckpointError: The checkpoint does not exist or is corrupt; the message names the
                newest valid checkpoint before it.
        """
        if isinstance(which, Path | str):
            return load_checkpoint(which, device)
        folders = _checkpoint_folders(self.folder)
        if not folders:
            raise CheckpointError(f"There is no checkpoint in {self.folder}.")
        iteration = max(folders) if which is None else which
        if iteration not in folders:
            iterations = ", ".join(str(i) for i in sorted(folders))
            raise CheckpointError(
                f"There is no checkpoint of iteration {iteration} in {self.folder}; "
                f"those there: {iterations}."
            )
        return load_checkpoint(folders[iteration], device)

    def _prune(self, newest: int) -> None:
        """Deletes temporary folders and all but the last `keep` checkpoints up to `newest`."""
        folders = _checkpoint_folders(self.folder)
        until = sorted(i for i in folders if i <= newest)
        paths_to_keep = {folders[i] for i in until[-self.keep :]}
        paths_to_keep |= {folders[i] for i in until if i == self.kept}
        for path in self.folder.iterdir():
            is_ours = checkpoint_iteration(path) is not None or path.name.startswith(_TEMPORARY)
            if is_ours and path not in paths_to_keep:
                shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads and verifies the checkpoint in a folder.

    Args:
        path: The folder of the checkpoint.
        device: The device of the weights; the state stays on the CPU.

    Raises:
        CheckpointError: The checkpoint is missing or corrupt; the message names the newest valid
            earlier one in the same folder.
    """
    path = Path(path)
    try:
        return _read(path, resolve_device(device))
    except CheckpointError as error:
        earlier = _newest_valid(path.parent, checkpoint_iteration(path))
        advice = (
            f"The newest good one before it: {earlier}"
            if earlier
            else f"No good one lies before it in {path.parent}; start a new run."
        )
        raise CheckpointError(f"Cannot load the checkpoint {path}: {error} {advice}") from error


def is_checkpoint(path: Path) -> bool:
    """Returns whether a path is named like a checkpoint; it need not exist."""
    return checkpoint_iteration(path) is not None


def checkpoint_iteration(path: Path) -> int | None:
    """Returns the iteration in a checkpoint's name, or None if it is not named like one."""
    match = _NAME.fullmatch(path.name) or _OLD_NAME.fullmatch(path.name)
    return int(match.group(1)) if match else None


def saving_time(path: Path) -> datetime | None:
    """Returns when a checkpoint was written, as its meta.json says; None if it does not say."""
    try:
        time = datetime.fromisoformat(read_json(path / META)["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a module; a float of another size is rounded, an integer is refused.

    Args:
        module: The module.
        weights: The weights, by the names of its `state_dict`.

    Raises:
        RuntimeError: Names, shapes or kinds of numbers are not those of the module.
    """
    own = module.state_dict()
    for name in own.keys() & weights.keys():
        kinds = [(w.is_floating_point(), w.is_complex()) for w in (own[name], weights[name])]
        if kinds[0] != kinds[1]:
            raise RuntimeError(
                f"Expected {name} in {own[name].dtype}, got {weights[name].dtype}: numbers would "
                "be lost."
            )
    module.load_state_dict(weights)


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the weights that contain NaN or infinity."""
    return [n for n, w in weights.items() if not bool(torch.isfinite(w).all())]


def _checkpoint_folders(folder: Path) -> dict[int, Path]:
    """Returns the folders by iteration; `.old_step_*` only where `step_*` does not exist."""
    folders: dict[int, Path] = {}
    try:
        paths = sorted(folder.iterdir())  # ".old_step_" sorts before "step_"
    except OSError:
        return {}
    for path in paths:
        iteration = checkpoint_iteration(path)
        if iteration is not None and path.is_dir():
            folders[iteration] = path
    return folders


def _newest_valid(folder: Path, limit: int | None = None) -> Path | None:
    """Returns the newest valid checkpoint, with finite weights, of an iteration below `limit`."""
    for iteration, candidate in sorted(_checkpoint_folders(folder).items(), reverse=True):
        if limit is not None and iteration >= limit:
            continue
        with contextlib.suppress(CheckpointError):
            checkpoint = _read(candidate, torch.device("cpu"))
            if not not_finite(checkpoint.weights):  # MetaRL 0.1 saved others, too
                return checkpoint.path
    return None


def _pack_weights(weights: Mapping[str, Tensor]) -> bytes:
    # safetensors refuses tensors with shared storage and with strides, so these are dense copies.
    dense = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in weights.items()
    }
    return safetensors.torch.save(dense)


def _pack_state(iteration: int, state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        # Cloned because torch.save writes the whole storage of a view.
        value = map_tensors(lambda t: t.detach().cpu().clone(), state)
        torch.save({"iteration": iteration, "state": value}, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)  # fail now, not on resume
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            "The state of a checkpoint may hold tensors, numbers, strings, None, and dicts, lists "
            f"and tuples of these; got {_unsuitable(state) or short_repr(str(error), 200)}."
        ) from error
    return buffer.getvalue()


def _unsuitable(value: Any, place: str = "") -> str:
    """Returns the type and the place of the first value that no checkpoint holds; "" for none."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next(filter(None, (_unsuitable(v, f"{place}[{k!r}]") for k, v in items)), "")
    fits = value is None or isinstance(value, Tensor | int | float | complex | str | bytes)
    return "" if fits and type(value).__module__ != "numpy" else f"{type(value)} at {place}"


def _pack_meta(iteration: int, files: dict[str, bytes]) -> bytes:
    meta = {
        "format_version": FORMAT_VERSION,
        "iteration": iteration,
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
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
    sync_folder(folder)


def _swap_in(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`; until then the old checkpoint is `.old_step_*`, readable."""
    old = path.with_name(f".old_{path.name}")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    sync_folder(path.parent)


def _read(path: Path, device: torch.device) -> Checkpoint:
    """Reads and verifies a checkpoint; the error messages do not include its path."""
    meta = _read_meta(path)
    weights = _read_verified(path / WEIGHTS, meta)
    packed = _read_verified(path / STATE, meta)
    try:
        tensors = safetensors.torch.load(weights)
        content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
        iteration = content["iteration"]
        state = content["state"]
    except pickle.UnpicklingError as error:  # torch's message advises to load it without the check
        raise CheckpointError(
            f"it cannot be decoded ({STATE} is damaged, or holds more than tensors, numbers, "
            "strings and collections of these, which is not loaded as that may run code)."
        ) from error
    except Exception as error:  # the decoders raise anything for damaged bytes
        raise CheckpointError(
            f"it cannot be decoded ({type(error).__name__}: {short_repr(str(error), 200)})."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{STATE} holds {short_repr(state)} where a dict was expected.")
    if type(iteration) is not int or iteration != meta["iteration"]:
        raise CheckpointError(
            f"{META} says iteration {meta['iteration']}, {STATE} {short_repr(iteration)}."
        )
    on_device = {name: t.to(device) for name, t in tensors.items()}
    return Checkpoint(iteration, on_device, state, path)


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError("there is no such folder.")
    try:
        meta = read_json(path / META)
        version, iteration = meta["format_version"], meta["iteration"]
        _ = meta["sha256"][WEIGHTS], meta["sha256"][STATE]
        if type(iteration) is not int or iteration < 0:
            raise ValueError(f"expected an iteration of at least 0, got {short_repr(iteration)}")
    except FileNotFoundError as error:
        raise CheckpointError(f"{META} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{META} cannot be read ({error!r}).") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"it has format version {short_repr(version)}, this MetaRL reads "
            f"{FORMAT_VERSION}; install the version that wrote it."
        )
    return meta


def _read_verified(path: Path, meta: dict[str, Any]) -> bytes:
    """Reads a file and checks its SHA-256."""
    try:
        data = read_regular(path, MOST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing.") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path.name} cannot be read ({error!r}).") from error
    if hashlib.sha256(data).hexdigest() != meta["sha256"].get(path.name):
        raise CheckpointError(
            f"{path.name} ({len(data)} bytes) was truncated or altered: its SHA-256 is not the "
            f"one in {META}."
        )
    return data
