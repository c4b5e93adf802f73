"""What stands in for CUDA graphs on the CPU: operations traced once, repeated on new values."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Recorder:
    """A `Driver` that traces a function into a graph of operations and repeats these.

    Like a CUDA graph, a replay runs no Python of the function: what the function decided on the
    host while it was captured stays as it was, and all new values must come through the inputs.
    Tracing raises where the host reads the value of a tensor, and where a GPU would wait (`Waits`).

    Attributes:
        captures: How many functions were captured.
        replays: How many times a graph was repeated.
    """

    def __init__(self):
        self.captures = self.replays = 0

    def capture(self, body, inputs, generator=None):
        """Traces `body` as a function of `inputs`; see `Driver.capture`."""
        self.captures += 1
        memory, waits = list(inputs), Waits(numbers=False)

        def flat(*values):
            inputs[:] = values  # what `body` reads
            try:
                with waits:
                    return body()
            finally:
                inputs[:] = memory

        graph = make_fx(flat)(*memory)
        if waits.found:
            raise RuntimeError(f"operation not permitted when stream is capturing: {waits.found}")
        with torch.no_grad():
            outputs = [output.clone() for output in graph(*memory)]

        def replay():
            self.replays += 1
            for output, value in zip(outputs, graph(*memory), strict=True):
                output.copy_(value)

        return replay, outputs


class Waits(TorchDispatchMode):
    """Notes what would make a GPU wait: reading a number or a size, or a tensor of numbers.

    Args:
        numbers: Whether tensors of one number count. On the CPU, `x[0] = 1` and some optimisers
            make one, where a GPU fills memory.

    Attributes:
        found: The names of these operations.
    """

    aten = torch.ops.aten
    KINDS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select)
    INDEXED = (aten.index, aten.index_put, aten.index_put_)

    def __init__(self, numbers=True):
        super().__init__()
        self.numbers = numbers
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Calls a function, and notes it if it waits."""
        if self._waits(func._overloadpacket, args):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))

    def _waits(self, packet, args):
        if packet is self.aten.lift_fresh:
            return args[0].dim() > 0 or self.numbers
        if packet in self.INDEXED:
            return any(index is not None and index.dtype == torch.bool for index in args[1])
        return packet in self.KINDS


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
