"""Which device a run computes on."""

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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"Device {name!r} was asked for, but torch finds no CUDA; use cpu.")
    return device
