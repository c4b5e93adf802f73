"""Gymnasium's spaces as plain data, for the descriptions of learners."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.models.described import CODECS, Codec, UndescribedError
from metarl.sim.spaces import FlatBox, FlatDiscrete


def encode_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns a space as JSON data.

    Raises:
        UndescribedError: It is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple.
    """
    flat = isinstance(space, FlatBox | FlatDiscrete)
    source = {"source": encode_space(space.source)} if flat else {}
    if isinstance(space, spaces.Box):
        sides = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"box": list(space.shape), "dtype": str(space.dtype), **sides, **source}
    if isinstance(space, spaces.Discrete):
        return {"discrete": int(space.n), "start": int(space.start), **source}
    if isinstance(space, spaces.MultiDiscrete):
        return {"multi_discrete": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"multi_binary": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"dict": [[name, encode_space(part)] for name, part in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"tuple": [encode_space(part) for part in space.spaces]}
    raise UndescribedError(f"Expected a space of numbers or discrete values, got {space}.")


def decode_space(data: Any) -> spaces.Space[Any]:
    """Returns the space of JSON data that `encode_space` returned.

    Raises:
        ValueError: The data are of no such space; also KeyError and TypeError.
    """
    if "box" in data:
        shape, dtype = tuple(data["box"]), np.dtype(data["dtype"])
        low, high = (_array(data[side], shape, dtype) for side in ("low", "high"))
        if "source" in data:
            return FlatBox(low, high, decode_space(data["source"]))
        return spaces.Box(low, high, dtype=dtype.type)
    if "discrete" in data and "source" in data:
        source = decode_space(data["source"])
        if not isinstance(source, spaces.Discrete) or source.n != data["discrete"]:
            raise ValueError(f"{data['discrete']} choices stand for {source}")
        return FlatDiscrete(source)
    if "discrete" in data:
        return spaces.Discrete(data["discrete"], start=data.get("start", 0))
    if "multi_discrete" in data:
        return spaces.MultiDiscrete(data["multi_discrete"], start=data.get("start"))
    if "multi_binary" in data:
        shape = data["multi_binary"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if "dict" in data:
        return spaces.Dict([(name, decode_space(part)) for name, part in data["dict"]])
    if "tuple" in data:
        return spaces.Tuple([decode_space(part) for part in data["tuple"]])
    raise ValueError(f"no space of this version: {', '.join(map(str, data))[:80]}")


def _numbers(bounds: np.ndarray) -> Any:
    """Returns bounds as nested lists of numbers and "inf"; one number if all are equal."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _number(bounds.flat[0])
    return [_number(value) for value in bounds.ravel()]


def _number(value: Any) -> float | int | str:
    if np.issubdtype(type(value), np.integer):
        return int(value)
    return float(value) if np.isfinite(value) else str(float(value))


def _array(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if not isinstance(data, list):
        return np.full(shape, float(data) if isinstance(data, str) else data, dtype)
    return np.array([float(v) if isinstance(v, str) else v for v in data], dtype).reshape(shape)


CODECS.register("space", Codec(spaces.Space, encode_space, decode_space))
