"""Two CUDA devices that are not there: what asks for one gets the CPU, and the question is kept."""

from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode

COUNT = 2


def _is_cuda(value):
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


class FakeCuda(TorchFunctionMode):
    """Records the CUDA devices that reach torch, and the copies between devices.

    Attributes:
        devices: Every CUDA device that an operation or a generator was given, as it was given.
        non_blocking: Names of operations that were asked not to wait for their copy.
    """

    def __init__(self):
        super().__init__()
        self.devices = []
        self.non_blocking = []

    def on_cpu(self, value):
        """Returns the CPU for a CUDA device, which is recorded; any other value as it is."""
        if not _is_cuda(value):
            return value
        self.devices.append(value)
        return torch.device("cpu")

    def __torch_function__(self, func, types, given=(), kwargs=None):
        """Runs an operation on the CPU, and records what it asks for."""
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*given, **kwargs)
        seen = len(self.devices)
        args: list = [self.on_cpu(a) for a in given]
        kwargs = {name: self.on_cpu(a) for name, a in kwargs.items()}
        if kwargs.get("non_blocking"):
            self.non_blocking.append(getattr(func, "__name__", str(func)))
        if func is torch.Tensor.to and len(self.devices) > seen:
            kwargs["copy"] = True  # a tensor on another device never shares its memory
        if func is torch.Tensor.cuda:
            tensor, *place = args
            self.devices.append(place[0] if place else kwargs.get("device", "cuda"))
            return tensor.clone()
        return func(*args, **kwargs)

    def without_index(self):
        """Returns the recorded devices that have no index."""
        return [d for d in self.devices if ":" not in str(d)]


@contextmanager
def fake_cuda():
    """Torch seems to find two CUDA devices; yields the record of what is asked of them."""
    fake, generator = FakeCuda(), torch.Generator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: COUNT)
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "current_device", lambda: 1)
        patch.setattr(torch, "Generator", lambda device="cpu": generator(fake.on_cpu(device)))
        with fake:
            yield fake
