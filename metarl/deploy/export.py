"""Frozen policies as files: each is read again and held against the original."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.plain_policy import FrozenPolicy
from metarl.errors import ExportError
from metarl.extras import import_extra
from metarl.registry import check_choice
from metarl.sb3.policies import load_outputs, save_ppo

Format = Literal["sb3", "onnx", "torch"]
Outputs = dict[str, np.ndarray]
Note = Mapping[str, str]

TOLERANCE = 1e-5
NOTE_FILE = "metarl.json"
_INPUT = "observations"


def export_policy(
    frozen: FrozenPolicy, path: Path, to: str, observations: Tensor, note: Note
) -> float:
    """Writes a policy, reads the file again and compares what it does.

    Args:
        frozen: The policy.
        path: The file: policy.zip for Stable-Baselines3, policy.onnx, policy.pt2 for torch.
        to: The format.
        observations: What to compare on, [B, O] float32.
        note: What the file says of itself.

    Returns:
        The greatest difference of any output from the original's.

    Raises:
        SettingsError: The format is unknown, or an extra that it needs is not installed.
        ExportError: An output differs by more than 1e-5 of the greatest one; the file is deleted.
    """
    check_choice("format", to, FORMATS)
    write, read = FORMATS[to]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(frozen, path, note)
    with torch.no_grad():
        values = frozen(observations)
    original = {n: v.numpy() for n, v in zip(frozen.outputs, values, strict=True)}
    try:
        return _difference(original, read(path, observations.numpy()), path)
    except ExportError:
        path.unlink()
        raise


def write_torch(frozen: FrozenPolicy, path: Path, note: Note) -> None:
    """Writes a `torch.export` program; `torch.export.load(path).module()` runs it.

    The note is its extra file "metarl.json".
    """
    files = {NOTE_FILE: json.dumps({**note, "outputs": ", ".join(frozen.outputs)}, indent=2)}
    program = torch.export.export(frozen, (_example(frozen),), dynamic_shapes=_dynamic())
    torch.export.save(program, path, extra_files=files)


def read_torch(path: Path, observations: np.ndarray) -> Outputs:
    """Returns the outputs of a program of `write_torch`."""
    files = {NOTE_FILE: ""}
    program = torch.export.load(path, extra_files=files).module()
    values = program(torch.from_numpy(observations))
    names = json.loads(files[NOTE_FILE])["outputs"].split(", ")
    return {n: v.numpy() for n, v in zip(names, values, strict=True)}


def write_onnx(frozen: FrozenPolicy, path: Path, note: Note) -> None:
    """Writes an ONNX model, weights inside; the note is its metadata.

    Raises:
        SettingsError: The extra is not installed.
    """
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    with _quiet():
        program = torch.onnx.export(
            frozen, (_example(frozen),), dynamo=True, verbose=False,
            input_names=[_INPUT], output_names=list(frozen.outputs),
            dynamic_shapes=_dynamic(),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(note))
    onnx.save(model, str(path))


def read_onnx(path: Path, observations: np.ndarray) -> Outputs:
    """Returns the outputs of a model of `write_onnx`, by ONNX Runtime on the CPU.

    Raises:
        SettingsError: The extra is not installed.
    """
    runtime = import_extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {_INPUT: observations}), strict=True))


FORMATS: dict[
    str, tuple[Callable[[FrozenPolicy, Path, Note], None], Callable[[Path, np.ndarray], Outputs]]
] = {
    "sb3": (save_ppo, load_outputs),
    "onnx": (write_onnx, read_onnx),
    "torch": (write_torch, read_torch),
}
"""Name -> what writes a file, and what reads it and acts."""


def _example(frozen: FrozenPolicy) -> Tensor:
    return torch.zeros(2, frozen.observation_size)


def _dynamic() -> dict[str, Any]:
    return {_INPUT: {0: torch.export.Dim("batch")}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's exporter from telling of torchvision, and of deprecated parts of its own."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _difference(original: Outputs, found: Outputs, path: Path) -> float:
    """Returns the greatest difference of the outputs.

    Of numbered actions it is how much less likely one is than the likeliest, in nats: rounding may
    choose among equals.
    """
    worst = 0.0
    for name, expected in original.items():
        got = found[name]
        if expected.shape != got.shape:
            raise ExportError(
                f"Expected {name} of shape {expected.shape} from {path}, got {got.shape}."
            )
        if got.dtype == np.int64:
            likely = original["log_probs"]
            expected = likely.max(-1, keepdims=True)
            got = np.take_along_axis(likely, got[:, None], -1)
        difference = float(np.abs(got.astype(np.float64) - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(
                f"The policy in {path} does not act as the original: its {name} differs by up to "
                f"{difference:.2g}. The file was deleted; please report this."
            )
        worst = max(worst, difference)
    return worst
