"""Selection of the device, the number of CPU threads and deterministic algorithms."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from metarl.errors import SettingsError, short_repr

MatmulPrecision = Literal["highest", "high"]
Precision = Literal["float32", "bfloat16"]
DEVICES = ("cpu", "cuda")
MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
KEPT_BYTES = 1 << 30
_GENERATOR = torch.Generator  # tests replace the name in torch
LARGEST_ON_HEAP = 1 << 25  # glibc's limit


def resolve_device(name: str | torch.device) -> torch.device:
    """Returns the device called `name`; "auto" is CUDA if it is available, else the CPU.

    A CUDA device has an index: "cuda" is torch's current device. Libraries other than torch need
    the index.

    Raises:
        SettingsError: This machine has no such device, it is neither a CPU nor a GPU of CUDA, or
            torch's default device is not the CPU.
    """
    check_default_device()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"Expected auto, cpu, cuda or cuda:N, got {name!r}.") from error
    if device.type not in DEVICES:
        raise SettingsError(
            f"Expected auto, cpu, cuda or cuda:N, got {str(device)!r}: MetaRL runs on CPUs and on "
            "GPUs of CUDA; use cpu."
        )
    if device.type == "cpu":
        return device
    index = _current_index() if device.index is None else device.index
    _check_cuda(str(name), index)
    return torch.device("cuda", index)


def seeded_generator(device: str | torch.device, seed: int) -> torch.Generator:
    """Returns a generator with a seed on a device.

    Args:
        device: See `resolve_device`.
        seed: The seed.

    Raises:
        SettingsError: If this machine has no such device.
    """
    return torch.Generator(resolve_device(device)).manual_seed(seed)


def check_default_device() -> None:
    """Raises SettingsError unless torch makes tensors on the CPU if no device is named."""
    default = torch.get_default_device()
    if default.type != "cpu":
        raise SettingsError(
            f"Expected torch's default device to be the CPU, it is {default}: MetaRL names the "
            "device of each tensor. Call `torch.set_default_device('cpu')`, and choose the device "
            "by `device` (`--training.device`)."
        )


def check_generator(generator: object) -> None:
    """Raises SettingsError unless a value is a generator of torch."""
    if not isinstance(generator, _GENERATOR):
        seed = generator if isinstance(generator, int) else 0
        raise SettingsError(
            f"Expected `generator` to be a torch.Generator, got {short_repr(generator)} "
            f"({type(generator).__name__}). Pass torch.Generator().manual_seed({seed})."
        )


def _current_index() -> int:
    """Returns torch's current device; before there is one, that of this process of torchrun."""
    if torch.cuda.is_initialized():
        return torch.cuda.current_device()
    return int(os.environ.get("LOCAL_RANK") or 0)


def set_threads(threads: int | None) -> None:
    """Sets torch's number of CPU threads for the whole process; None keeps torch's default."""
    if threads is not None:
        torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Lets the C library of Linux keep freed memory for the next tensors, for the whole process.

    Otherwise glibc gives the memory of a graph back to the system after each chunk of tasks, and
    the next one pays for each page that it touches first: up to a quarter of an iteration of
    convolutional networks. At most `KEPT_BYTES` stay unused. Settings of the environment
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES) come first.

    Returns:
        Whether it changed the settings.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in MALLOC):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries have none
    if set_option is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    done = set_option(trim_threshold, KEPT_BYTES) and set_option(mmap_threshold, LARGEST_ON_HEAP)
    return bool(done)


def set_deterministic(deterministic: bool) -> None:
    """Makes torch's results on CUDA the same bit for bit in every run, for the whole process.

    Warp's physics follow, by the default of `WarpVectorEnv`. Torch warns of operations that have no
    such algorithm. On the CPU results are the same anyway.

    Args:
        deterministic: False changes nothing: a user may have chosen deterministic algorithms.
    """
    if not deterministic:
        return
    # cuBLAS reads it when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def set_matmul_precision(precision: MatmulPrecision) -> None:
    """Sets the precision of float32 matrix products and convolutions on CUDA, process-wide.

    Args:
        precision: "highest" is float32; "high" multiplies numbers of 10 bits (TF32), which is
            faster and changes the third digit of results. Torch's own default is TF32 for
            convolutions only.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"


def _check_cuda(name: str, index: int) -> None:
    if not torch.cuda.is_available():
        raise SettingsError(f"Device {name!r} was asked for, but torch finds no CUDA; use cpu.")
    count = torch.cuda.device_count()
    if index >= count:
        raise SettingsError(
            f"Device {name!r} was asked for, but torch finds {count} CUDA device(s); "
            f"use cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}, auto or cpu."
        )
