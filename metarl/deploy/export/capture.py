"""Functions of tensors captured as graphs, derivatives included, and written as files."""

from __future__ import annotations

import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.deploy.export.onnx_decompositions import decompositions, translations
from metarl.errors import ExportError, short_repr
from metarl.extras import import_extra

TOLERANCE = 1e-5
ROUGH_TOLERANCE = 1e-3
"""The tolerance of functions that make rounding errors larger."""
Batches = Callable[[int, torch.Generator], list[Tensor]]
Fitting = Callable[[list[Tensor], torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph.

    Attributes:
        name: Its name in the file.
        example: A tensor of its shape and type.
        text: What it is, and its units.
        free: Dimensions of any size: dimension -> name of the size.
    """

    name: str
    example: Tensor
    text: str
    free: dict[int, str] = field(default_factory=dict)

    @property
    def shape(self) -> list[int | str]:
        """The shape, with names for free sizes."""
        return [self.free.get(i, int(n)) for i, n in enumerate(self.example.shape)]

    @property
    def dtype(self) -> str:
        """The type, such as "float32"."""
        return str(self.example.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Graph:
    """A function to be captured.

    Attributes:
        name: Name of the file, without its suffix.
        function: Maps the tensors of the inputs to those of the outputs; pure, and without control
            flow that depends on the values of tensors.
        inputs: The inputs, with examples.
        outputs: The outputs; their examples say shapes and types.
        batches: Returns all inputs of the n-th call of the comparison, drawn from a generator;
            None: variations of the examples.
        fit: Returns such variations as inputs that the function is made for; None: they are.
        calls: Calls in a row that the comparison may make.
        tolerance: The largest difference of an output, relative to max(1, max |output|).
        least: Fewest examples of the comparison: 2 for a network that normalises its batches.
    """

    name: str
    function: Callable[..., Sequence[Tensor]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batches: Batches | None = None
    fit: Fitting | None = None
    calls: int = 10
    tolerance: float = TOLERANCE
    least: int = 1

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """The examples of the inputs."""
        return tuple(port.example for port in self.inputs)


def graph_of(
    name: str,
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Port],
    outputs: Sequence[tuple[str, str, dict[int, str]]],
    batches: Batches | None = None,
    fit: Fitting | None = None,
    calls: int = 10,
) -> Graph:
    """Returns a graph; the outputs are given by names, texts and free dimensions."""
    examples = [port.example for port in inputs]
    found = [t.detach() for t in function(*examples)]
    ports = [Port(n, t, text, free) for (n, text, free), t in zip(outputs, found, strict=True)]
    return Graph(name, function, tuple(inputs), tuple(ports), batches, fit, calls)


def free_size(tensors: Sequence[Tensor], least: int = 5) -> int:
    """Returns a size that no dimension of the tensors has, for examples of free dimensions.

    Capturing takes equal sizes of inputs for one and the same.
    """
    taken = {int(n) for t in tensors for n in t.shape}
    return next(n for n in itertools.count(least) if n not in taken)


def capture(graph: Graph) -> torch.export.ExportedProgram:
    """Returns the function as a program of tensor operations.

    Raises:
        ExportError: The function depends on the value of a tensor in Python, has an operator that
            cannot be captured, or a free size would be fixed.
    """
    examples = tuple(e.detach().clone() for e in graph.examples)
    try:
        with torch.no_grad(), _plain_kernels():
            traced = make_fx(
                graph.function,
                tracing_mode="symbolic",
                decomposition_table=decompositions(),
                _allow_non_fake_inputs=True,
            )(*examples)
            _allow_any_layout(traced)
            _fix_constants(traced)
            sizes: dict[str, Any] = {}
            shapes = [
                {i: sizes.setdefault(n, torch.export.Dim(n, min=1)) for i, n in port.free.items()}
                for port in graph.inputs
            ]
            return torch.export.export(traced, examples, dynamic_shapes=shapes or None)
    except Exception as error:  # torch raises anything here
        raise ExportError(
            f"The {graph.name} of this learner cannot be captured as a graph: "
            f"{type(error).__name__}: {short_repr(str(error), 400)}. Networks, losses and rules "
            "must consist of tensor operations, and read no values of tensors in Python."
        ) from error


def _allow_any_layout(traced: torch.fx.GraphModule) -> None:
    """Replaces views by reshapes: the layouts of tensors are inferred again for the program.

    They may be others, such as those of convolutions of images with one channel.
    """
    aten = torch.ops.aten
    for node in traced.graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    traced.recompile()


def _fix_constants(traced: torch.fx.GraphModule) -> None:
    """Makes parameters of the learner constants, which leave no derivatives to the outputs.

    A state that is fed back for a whole trial would keep all earlier steps in the memory.
    """
    for name, value in list(traced.named_parameters()):
        setattr(traced, name, nn.Parameter(value.detach(), requires_grad=False))


def save_program(
    program: torch.export.ExportedProgram, path: Path, files: Mapping[str, str] | None = None
) -> None:
    """Writes a `torch.export` program, under any name.

    Args:
        program: The program.
        path: The file.
        files: Texts that it contains, by name.

    Raises:
        OSError: The file cannot be written, for example on a full disk.
    """
    buffer = io.BytesIO()  # a file that cannot be written makes torch raise anything
    torch.export.save(program, buffer, extra_files=dict(files or {}))
    path.write_bytes(buffer.getbuffer())


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Turns oneDNN off, whose kernels, such as that of LSTMs, are not decomposed."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def write_program(graph: Graph, program: torch.export.ExportedProgram, folder: Path) -> Path:
    """Writes NAME.pt2; `torch.export.load(path).module()` loads it."""
    path = folder / f"{graph.name}.pt2"
    save_program(program, path)
    return path


def write_model(graph: Graph, program: torch.export.ExportedProgram, folder: Path) -> Path:
    """Writes NAME.onnx, constants included.

    Raises:
        SettingsError: The extra "onnx" is not installed.
        ExportError: ONNX has no operator for a part of the program.
    """
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    try:
        with quiet_exporter():
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, custom_translation_table=translations(),
                optimize=False,  # it removes the addition of 1e-8, as of 0
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
            )  # fmt: skip
    except Exception as error:
        raise ExportError(
            f"ONNX cannot express the {graph.name} of this learner: {_first_cause(error)}. "
            "Choose the format torch."
        ) from error
    assert exported is not None
    path = folder / f"{graph.name}.onnx"
    model = exported.model_proto
    for part in (model.graph, *model.functions):
        _without_origins(part)
    _with_plain_casts(model.graph)
    onnx.save(model, str(path))
    return path


def _without_origins(part: Any) -> None:
    """Removes the notes of where in the source each node comes from."""
    for node in part.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _without_origins(attribute.g)
    for value in getattr(part, "value_info", ()):
        value.ClearField("metadata_props")


def _with_plain_casts(graph: Any) -> None:
    """Names the types of casts, which ONNX Runtime then computes in advance where it can."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            to = node.attribute.add()
            to.name, to.type, to.i = "to", 2, types[node.input[1]]  # 2: a whole number
            node.op_type = "Cast"
            del node.input[1]


_TALKATIVE = (
    "torch.onnx._internal.exporter._registration",  # of torchvision, which is not needed
    "onnx_ir.passes.common.initializer_deduplication",
)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppresses messages of the exporter that concern nobody, and of its own deprecated code."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_cause(error: BaseException) -> str:
    """Returns the text of the error that caused the others, shortened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {short_repr(str(error), 300)}"
