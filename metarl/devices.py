"""Which device to compute on, with how many threads."""

from __future__ import annotations

import torch

from metarl.errors import SettingsError


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        SettingsError: There is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"Expected auto, cpu, cuda or cuda:N, got {name!r}.") from error
    if device.type == "cuda":
        _check_cuda(name, device.index or 0)
    return device


def set_threads(threads: int | None) -> None:
    """Sets the CPU threads of torch for the whole process; None leaves torch's own choice."""
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
