"""What stands in for CUDA graphs on the CPU: operations traced once, repeated on new values."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode


class Recorder:
    """A `Driver` that traces a function into a graph of operations and repeats these.

    Like a CUDA graph, a replay runs no Python of the function: what the function decided on the
    host while it was captured stays as it was, and all new values must come through the inputs.
    Tracing raises where the host reads the value of a tensor, and where `NoHostValues` does.

    Attributes:
        captures: How many functions were captured.
        replays: How many times a graph was repeated.
    """

    def __init__(self):
        self.captures = self.replays = 0

    def capture(self, body, inputs, generator=None):
        """Traces `body` as a function of `inputs`; see `Driver.capture`."""
        self.captures += 1
        memory = list(inputs)

        def flat(*values):
            inputs[:] = values  # what `body` reads
            try:
                return body()
            finally:
                inputs[:] = memory

        with NoHostValues():
            graph = make_fx(flat)(*memory)
        with torch.no_grad():
            outputs = [output.clone() for output in graph(*memory)]

        def replay():
            self.replays += 1
            for output, value in zip(outputs, graph(*memory), strict=True):
                output.copy_(value)

        return replay, outputs


class NoHostValues(TorchFunctionMode):
    """Refuses what a CUDA graph cannot hold and a trace on the CPU can.

    These are tensors made of values of the host, which are copied to the GPU, and results whose
    size depends on values of a tensor.
    """

    MADE = (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
    SIZED = (
        torch.nonzero, torch.Tensor.nonzero, torch.argwhere, torch.Tensor.argwhere,
        torch.masked_select, torch.Tensor.masked_select, torch.unique, torch.Tensor.unique,
        torch.bincount, torch.Tensor.bincount,
    )  # fmt: skip
    INDEXED = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
    REPEATED = (torch.repeat_interleave, torch.Tensor.repeat_interleave)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Runs an operation, or raises the error of a capture."""
        kwargs = kwargs or {}
        if self._refuses(func, args, kwargs):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        return func(*args, **kwargs)

    def _refuses(self, func, args, kwargs):
        if func in self.MADE:
            return not isinstance(args[-1], torch.Tensor) and kwargs.get("device") != "cpu"
        if func in self.INDEXED:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(_depends(i) for i in index)
        if func in self.REPEATED:
            return any(isinstance(a, torch.Tensor) for a in (*args[1:], *kwargs.values()))
        return func in self.SIZED


def _depends(index):
    """Returns whether an index is a mask of a tensor or a list of the host."""
    return isinstance(index, list) or getattr(index, "dtype", None) is torch.bool


class Refusing:
    """A `Driver` on which nothing can be captured."""

    def capture(self, body, inputs, generator=None):
        raise RuntimeError("operation not permitted when stream is capturing")


class CountedReads(TorchFunctionMode):
    """Counts what makes the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Runs an operation, and counts it if it reads a number."""
        names = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__")
        self.count += func in [getattr(torch.Tensor, name) for name in names]
        return func(*args, **(kwargs or {}))
