"""Modules in files: weights and structure as data, from which the module runs without its code.

A file is one of safetensors. Its header holds the structure as JSON: layers of `torch.nn` by name
and the graph of their calls, of functions that only compute (`vocabulary`). Nothing in it is code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from metarl.errors import CheckpointError, SettingsError, short_repr
from metarl.models.modules.description import Description, NotStored, describe
from metarl.models.modules.rebuilt import Damaged, rebuilt
from metarl.ranges import user_path
from metarl.tasks.files import MOST_JSON, parse_json, read_regular, result_path

KEY = "metarl_modules"
SUFFIX = ".safetensors"
FORMAT_VERSION = 1
MOST_BYTES = 1 << 36  # 64 GiB, as for a checkpoint
REBUILD = (
    "Build the module again with its own class: in Python pass it as the network (and "
    "`network=` where a function has that argument), on the command line name its script: "
    "--script PATH"
)


def save_module(module: nn.Module, path: Path | str) -> None:
    """Writes a module with its weights into a file, whole or not at all.

    `load_module` gives the module back without its code. The layers must be those of `torch.nn`,
    and `torch.fx` must be able to trace `forward`.

    Args:
        module: The module, as `from_module` takes it.
        path: The file, usually `.safetensors`.

    Raises:
        SettingsError: The structure cannot be stored.
        CheckpointError: The file cannot be written.
    """
    try:
        described = describe(module)
    except NotStored as error:
        name = type(module).__name__
        raise NotStored(
            f"The structure of {name} cannot be stored: {error}. Store its weights "
            "(`state_dict`), and build it again with its class."
        ) from error
    write_modules({"": described}, _own_tensors(module), user_path(path))


def load_module(path: Path | str) -> nn.Module:
    """Reads a module that `save_module` wrote; the file holds no code.

    Returns:
        A module with the parameters, buffers, names and modes of the stored one. Its class is
        another: its forward computes the stored graph.

    Raises:
        CheckpointError: The file is missing, damaged or another file.
        SettingsError: The file has no structure of the module, with the reason.
    """
    modules = read_modules(user_path(path))
    if list(modules) != [""]:
        raise CheckpointError(
            f"Expected a file that `save_module` wrote, {path} holds {len(modules)} modules of a "
            "run; `metarl.runs.load_networks` reads those."
        )
    return stored_module(modules[""], path)


def network_file(path: Path | str) -> nn.Module:
    """Returns the only module of a file that `save_module` or a run wrote, for a setting.

    Weights that the file lacks, as those of a run do, are 0 until a checkpoint is loaded.

    Raises:
        CheckpointError: The file is missing, damaged or another file, or has several modules.
        SettingsError: The structure of the module is not in it.
    """
    modules = read_modules(user_path(path))
    if len(modules) != 1:
        raise CheckpointError(f"Expected a file with one module, {path} has {len(modules)}.")
    (found,) = modules.values()
    return stored_module(found, path)


def is_network_file(text: str) -> bool:
    """Returns whether a setting is the path of a file with a module, not the name of a network."""
    return text.endswith(SUFFIX)


def stored_module(found: nn.Module | str, path: Path | str) -> nn.Module:
    """Returns a module that was read.

    Raises:
        SettingsError: Its structure is not stored; then it is the reason.
    """
    if isinstance(found, str):
        raise SettingsError(
            f"The structure of a module is not stored in {path}: {found}. {REBUILD}."
        )
    return found


def write_modules(
    modules: Mapping[str, Description | str], tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Writes modules, each by its description or by the reason why it has none, into a file.

    Raises:
        CheckpointError: The file cannot be written.
        NotStored: The structure is larger than 4 MB.
    """
    header: dict[str, Any] = {"format_version": FORMAT_VERSION, "modules": {}}
    content = dict(tensors)
    for name, described in modules.items():
        if isinstance(described, str):
            header["modules"][name] = {"reason": described}
            continue
        header["modules"][name] = described.structure
        content |= {f"{name}#{key}": value for key, value in described.constants.items()}
    text = json.dumps(header)
    if len(text) > MOST_JSON:
        raise NotStored(f"its structure has {len(text)} characters, and {MOST_JSON} are read")
    dense = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in content.items()
    }
    with result_path(path, "module") as temporary:
        temporary.write_bytes(safetensors.torch.save(dense, {KEY: text}))


def read_modules(path: Path) -> dict[str, nn.Module | str]:
    """Reads the modules of a file by name, or the reasons why their structure is not stored.

    Tensors that the file does not hold are 0.

    Raises:
        CheckpointError: The file is missing, damaged or another file.
    """
    try:
        data = read_regular(path, MOST_BYTES)
        header = _header(data)
        tensors = safetensors.torch.load(data)
        return {
            name: found["reason"] if "reason" in found else rebuilt(found, name, tensors)
            for name, found in header.items()
        }
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {path}.") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    except (Damaged, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"Expected a file that `save_module` wrote, {path} is another one or damaged "
            f"({type(error).__name__}: {short_repr(str(error), 200)})."
        ) from error


def _header(data: bytes) -> dict[str, Any]:
    """Returns the descriptions in the header of a file of safetensors."""
    length = int.from_bytes(data[:8], "little")
    if length > 2 * MOST_JSON + (1 << 24):
        raise ValueError(f"its header has {length} bytes")
    text = parse_json(data[8 : 8 + length])["__metadata__"][KEY]
    if len(text) > MOST_JSON:
        raise ValueError(f"its structure has {len(text)} characters")
    header = parse_json(text.encode())
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"format version {short_repr(header['format_version'])}, this MetaRL reads "
            f"{FORMAT_VERSION}"
        )
    return header["modules"]


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by name, tied ones once."""
    named: Iterable[tuple[str, Tensor]] = (*module.named_parameters(), *module.named_buffers())
    return dict(named)
