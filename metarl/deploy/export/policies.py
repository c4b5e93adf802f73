"""Export of policies to files of other libraries; each file is verified after writing."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.export.capture import quiet_exporter, save_program
from metarl.errors import CheckpointError, ExportError, MetarlError
from metarl.extras import import_extra
from metarl.registry import check_choice
from metarl.rl.plain_policy import PlainPolicy
from metarl.sb3.policies import load_outputs, save_ppo
from metarl.tasks.files import atomic_path

Format = Literal["sb3", "onnx", "torch"]
Outputs = dict[str, np.ndarray]
Note = Mapping[str, str]

TOLERANCE = 1e-5
NOTE_FILE = "metarl.json"
_INPUT = "observations"


def export_policy(
    policy: PlainPolicy, path: Path, to: str, observations: Tensor, note: Note
) -> float:
    """Writes a policy to a file, reads the file and compares its outputs with the policy's.

    Args:
        policy: The policy.
        path: The file, such as policy.zip for "sb3", policy.onnx, or policy.pt2 for "torch".
        to: The format: "sb3", "onnx" or "torch".
        observations: Observations for the comparison, [B, O] float32.
        note: Metadata, stored in the file.

    Returns:
        The maximum absolute difference of the outputs.

    Raises:
        SettingsError: The format is unknown, or a package that it needs is not installed.
        ExportError: An output differs by more than 1e-5 max(1, max |output|); no file is written,
            and an earlier file of that name remains.
        CheckpointError: The file cannot be written.
    """
    check_choice("format", to, FORMATS)
    write, read = FORMATS[to]
    with torch.no_grad():
        values = policy(observations)
    original = {n: v.numpy() for n, v in zip(policy.outputs, values, strict=True)}
    with trial_folder(path) as folder:
        trial = folder / path.name
        write(policy, trial, note)
        difference = _max_difference(original, read(trial, observations.numpy()), path)
        (written,) = folder.iterdir()  # Stable-Baselines3 appends .zip to a name without a dot
        with atomic_path(path.with_name(written.name)) as temporary:
            os.replace(written, temporary)
    return difference


def write_torch(policy: PlainPolicy, path: Path, note: Note) -> None:
    """Writes a `torch.export` program; `torch.export.load(path).module()` loads it.

    The note is in its extra file "metarl.json".
    """
    files = {NOTE_FILE: json.dumps({**note, "outputs": ", ".join(policy.outputs)}, indent=2)}
    program = torch.export.export(
        policy, (_example_input(policy),), dynamic_shapes=_dynamic_shapes()
    )
    save_program(program, path, files)


def read_torch(path: Path, observations: np.ndarray) -> Outputs:
    """Returns the outputs of a program that `write_torch` wrote, by name."""
    files = {NOTE_FILE: ""}
    program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=files).module()
    values = program(torch.from_numpy(observations))
    names = json.loads(files[NOTE_FILE])["outputs"].split(", ")
    return {n: v.numpy() for n, v in zip(names, values, strict=True)}


def write_onnx(policy: PlainPolicy, path: Path, note: Note) -> None:
    """Writes an ONNX model that includes the weights; the note is in its metadata.

    Raises:
        SettingsError: The extra "onnx" is not installed.
    """
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    with quiet_exporter():
        program = torch.onnx.export(
            policy, (_example_input(policy),), dynamo=True, verbose=False,
            input_names=[_INPUT], output_names=list(policy.outputs),
            dynamic_shapes=_dynamic_shapes(),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(note))
    onnx.save(model, str(path))


def read_onnx(path: Path, observations: np.ndarray) -> Outputs:
    """Returns the outputs of a model that `write_onnx` wrote; uses ONNX Runtime on the CPU.

    Raises:
        SettingsError: The extra "onnx" is not installed.
    """
    runtime = import_extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {_INPUT: observations}), strict=True))


FORMATS: dict[
    str, tuple[Callable[[PlainPolicy, Path, Note], None], Callable[[Path, np.ndarray], Outputs]]
] = {
    "sb3": (save_ppo, load_outputs),
    "onnx": (write_onnx, read_onnx),
    "torch": (write_torch, read_torch),
}
"""Format -> the function that writes a file, and the one that returns the outputs of a file."""


@contextmanager
def trial_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `path`.

    Raises:
        CheckpointError: Something cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export_", dir=path.parent) as folder:
            yield Path(folder)
    except MetarlError:
        raise
    except OSError as error:
        raise CheckpointError(f"Cannot write the policy {path}: {error}.") from error


def _example_input(policy: PlainPolicy) -> Tensor:
    return torch.zeros(2, policy.observation_size)


def _dynamic_shapes() -> dict[str, Any]:
    return {_INPUT: {0: torch.export.Dim("batch")}}


def _max_difference(original: Outputs, exported: Outputs, path: Path) -> float:
    """Returns the maximum absolute difference of the outputs.

    Discrete actions are compared by their log-probabilities under the original policy, because
    rounding may change the argmax between equally probable actions.

    Raises:
        ExportError: A shape is wrong, or a difference exceeds the tolerance.
    """
    largest = 0.0
    for name, expected in original.items():
        actual = exported[name]
        if expected.shape != actual.shape:
            raise ExportError(
                f"Expected {name} of shape {expected.shape} from {path}, got {actual.shape}."
            )
        if actual.dtype == np.int64:
            # max_a log pi(a | s) - log pi(a' | s), in nats, with a' the exported action
            log_probs = original["log_probs"]
            expected = log_probs.max(-1, keepdims=True)
            actual = np.take_along_axis(log_probs, actual[:, None], -1)
        difference = float(np.abs(actual.astype(np.float64) - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(
                f"The policy for {path} does not act as the original: its {name} differs by up to "
                f"{difference:.2g}. The file was not written; please report this."
            )
        largest = max(largest, difference)
    return largest
