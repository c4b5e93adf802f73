"""Selection of the device and the number of CPU threads."""

from __future__ import annotations

import torch

from metarl.errors import SettingsError


def resolve_device(name: str | torch.device) -> torch.device:
    """Returns the device called `name`; "auto" is CUDA if it is available, else the CPU.

    A CUDA device has an index: "cuda" is torch's current device. Libraries other than torch need
    the index.

    Raises:
        SettingsError: If this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"Expected auto, cpu, cuda or cuda:N, got {name!r}.") from error
    if device.type != "cuda":
        return device
    _check_cuda(str(name), device.index or 0)
    return device if device.index is not None else torch.device("cuda", _current_index())


def seeded_generator(device: str | torch.device, seed: int) -> torch.Generator:
    """Returns a generator with a seed on a device.

    Args:
        device: See `resolve_device`.
        seed: The seed.

    Raises:
        SettingsError: If this machine has no such device.
    """
    return torch.Generator(resolve_device(device)).manual_seed(seed)


def _current_index() -> int:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def set_threads(threads: int | None) -> None:
    """Sets torch's number of CPU threads for the whole process; None keeps torch's default."""
    if threads is not None:
        torch.set_num_threads(threads)


def _check_cuda(name: str, index: int) -> None:
    if not torch.cuda.is_available():
        raise SettingsError(f"Device {name!r} was asked for, but torch finds no CUDA; use cpu.")
    count = torch.cuda.device_count()
    if index >= count:
        raise SettingsError(
            f"Device {name!r} was asked for, but torch finds {count} CUDA device(s); "
            f"use cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}, auto or cpu."
        )
