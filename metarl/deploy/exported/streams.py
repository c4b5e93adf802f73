"""Examples of a stream for the exported graph that reads them, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import NonFiniteError, SettingsError, ShapeError


def stream_inputs(
    inputs: Any, label: int | None, notes: dict[str, Any], steps: int
) -> dict[str, Any]:
    """Returns the inputs of the graph "read" for an example.

    Args:
        inputs: The example, [*input].
        label: The label of the example before; None for the first one of a stream.
        notes: What the metadata says of the stream.
        steps: Examples that were read before.

    Raises:
        SettingsError: There is a label where there should be none, or the reverse; or the stream
            is longer than the memory.
        ShapeError: The label is none of the code.
        NonFiniteError: The example is infinite or NaN.
    """
    if (label is None) != (steps == 0):
        raise SettingsError(
            "Expected the label of the example before, for all examples but the first one of a "
            f"stream, got {label!r} after {steps} examples. `reset` begins another stream."
        )
    if notes["longest"] is not None and steps >= notes["longest"]:
        raise SettingsError(
            f"Expected a stream of at most {notes['longest']} examples, a row of the memory for "
            "each: call `reset`."
        )
    size, given = notes["letters"] ** notes["characters"], 0 if label is None else label
    whole = np.asarray(given)
    if whole.ndim or whole.dtype.kind not in "iu" or not 0 <= whole < size:
        raise ShapeError(f"Expected a label from 0 to {size - 1}, got {label!r}.")
    if not np.isfinite(inputs).all():
        raise NonFiniteError("Expected a finite example, got NaN or infinity.")
    begun = np.float32(steps > 0)
    return {"inputs": inputs, "previous": np.int64(given), "begun": begun}
