"""Strategies of odd values: of settings, in JSON, and as texts of a command line."""

from __future__ import annotations

import copy
import datetime
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

INTS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**64), 10**12, 10**30, 10**400]),
    st.integers(),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 1e-30]),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "1e3", "nan", "None", "True", "os:system", "adam", "cuda:0", "meta", "a,b"]
    ),
    st.text(max_size=8),
)
SCALARS = st.one_of(
    INTS,
    INTS.filter(lambda n: abs(n) < 2**63).map(np.int64),
    FLOATS,
    FLOATS.map(np.float64),
    st.floats(width=32).map(np.float32),
    st.integers(0, 255).map(np.uint8),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.none(),
    TEXTS,
    st.binary(max_size=4),
    st.fractions(max_denominator=9),
    st.sampled_from(
        [
            Decimal("0.5"),
            Decimal("NaN"),
            Fraction(7, 1),
            1j,
            Path("folder"),
            object(),
            int,
            len,
            ...,
        ]
    ),
    st.sampled_from([torch.tensor(2), torch.tensor(0.5), torch.zeros(2), torch.float32]),
    st.just(datetime.date(2026, 1, 1)),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(st.integers(-1, 8), max_size=3).map(tuple),
    st.lists(SCALARS, max_size=3).map(tuple),
    st.dictionaries(TEXTS, SCALARS, max_size=2),
    st.sets(st.integers(0, 3), max_size=2),
    st.lists(st.integers(0, 3), max_size=3).map(np.array),
)

JSON_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INTS.filter(lambda n: abs(n) < 10**300),
    FLOATS,
    TEXTS,
    st.sampled_from(["x" * 5000, "\ud800", "\x00", "../../etc", "/dev/zero"]),
)
JSON = st.recursive(
    JSON_SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NESTED = st.sampled_from([10, 500, 100_000]).map(lambda n: f"{'[' * n}{']' * n}")


@st.composite
def edited(draw: st.DrawFn, content: Any) -> Any:
    """Returns a copy of JSON-like content with an entry changed, removed, added or renamed."""
    whole = {"": copy.deepcopy(content)}
    holder, key = draw(st.sampled_from(list(_places(whole))))
    edit = draw(st.sampled_from(["change", "change", "scale", "remove", "add", "rename", "wrap"]))
    value = holder[key]
    if edit == "scale" and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = value * draw(st.sampled_from([-1, 0, 0.5, 2, 10**6, 10**20]))
    elif edit == "remove" and holder is not whole:
        del holder[key]
    elif edit == "add" and isinstance(value, dict):
        value[draw(TEXTS)] = draw(JSON)
    elif edit == "rename" and isinstance(holder, dict) and holder is not whole:
        holder[draw(TEXTS)] = holder.pop(key)
    elif edit == "wrap":
        holder[key] = draw(st.sampled_from([[value], {"a": value}, str(value)]))
    else:
        holder[key] = draw(JSON)
    return whole[""]


def _places(value: Any) -> Any:
    """Yields every container in nested lists and dicts with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from _places(value[key])


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Returns bytes that are cut, altered, repeated or replaced."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "insert", "repeat", "replace"]))
    place = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(max_size=9)) + data[place:]
    if kind == "repeat":
        return data + data[place:]
    if kind == "replace":
        return draw(st.one_of(st.binary(max_size=60), NESTED.map(str.encode)))
    altered = bytearray(data)
    for _ in range(draw(st.integers(1, 4)) if data else 0):
        altered[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(altered)


def dumped(value: Any) -> bytes:
    """Returns JSON-like content as JSON, with NaN and lone surrogates as Python writes them."""
    return json.dumps(value).encode()
