from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch

from metarl.tasks.base import Examples, TaskBatch
from metarl.trees import (
    close,
    concatenate_tasks,
    filled,
    map_tensors,
    take_tasks,
    tensors_of,
    to_device,
)


class Pair(NamedTuple):
    """Anything next to anything."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Derived:
    """A dataclass that computes one of its fields."""

    values: torch.Tensor
    total: torch.Tensor = field(init=False)

    def __post_init__(self):
        """Computes what the constructor does not take."""
        object.__setattr__(self, "total", self.values.sum())


@pytest.fixture
def nested():
    """Tensors [3, ...] in every kind of nest, among values that are none."""
    x = torch.arange(6.0).view(3, 2)
    return {
        "dict": OrderedDict(b=x, a=None),
        "list": [x + 1, "text", 7],
        "tuple": (x + 2, (x + 3,)),
        "named": Pair(x + 4, 0.5),
        "data": TaskBatch(Examples(x, x), Examples(x + 5, x), {"slope": x[:, 0]}),
    }


def test_every_tensor_is_mapped_and_the_rest_stays(nested):
    mapped = map_tensors(lambda t: -t, nested)
    assert len(tensors_of(nested)) == 10
    for before, after in zip(tensors_of(nested), tensors_of(mapped), strict=True):
        assert torch.equal(after, -before)
    assert mapped["list"][1:] == ["text", 7]
    assert mapped["dict"]["a"] is None
    assert mapped["named"].right == 0.5


def test_a_template_is_filled_with_tensors_in_their_order(nested):
    new = [-tensor for tensor in tensors_of(nested)]
    value = filled(map_tensors(torch.empty_like, nested), new)
    assert all(a is b for a, b in zip(tensors_of(value), new, strict=True))
    assert value["list"][1:] == ["text", 7]


def test_types_and_the_order_of_keys_stay(nested):
    mapped = map_tensors(lambda t: t, nested)
    assert [type(v) for v in mapped.values()] == [OrderedDict, list, tuple, Pair, TaskBatch]
    assert list(mapped["dict"]) == ["b", "a"]
    assert isinstance(mapped["data"].support, Examples)


def test_the_value_itself_is_not_changed(nested):
    before = [t.clone() for t in tensors_of(nested)]
    map_tensors(lambda t: t * 0, nested)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(nested), before, strict=True))


def test_derived_fields_of_dataclasses_are_computed_again():
    mapped = map_tensors(lambda t: 2 * t, Derived(torch.ones(3)))
    assert mapped.total == 6


def test_a_function_of_several_values_meets_them_place_by_place():
    first, second = {"a": torch.ones(2), "b": (torch.ones(1),)}, {"b": (torch.zeros(1),), "a": 3}
    mapped = map_tensors(lambda x, y: x + y, first, second)
    assert mapped["a"].tolist() == [4, 4]
    assert mapped["b"][0].tolist() == [1]


def test_taking_and_concatenating_tasks_are_inverse(nested):
    parts = [take_tasks(nested, i, i + 1) for i in range(3)]
    assert all(len(t) == 1 for t in tensors_of(parts))
    joined = concatenate_tasks(parts)
    for before, after in zip(tensors_of(nested), tensors_of(joined), strict=True):
        assert torch.equal(before, after)


def test_concatenation_goes_by_key_and_not_by_order():
    joined = concatenate_tasks(
        [{"a": torch.zeros(1), "b": torch.ones(1)}, {"b": torch.ones(1), "a": torch.zeros(1)}]
    )
    assert joined["a"].tolist() == [0, 0]
    assert joined["b"].tolist() == [1, 1]


@pytest.mark.parametrize("other", [{"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_other_keys_are_refused(other):
    with pytest.raises(ValueError, match=r"Expected the keys \['a', 'b'\]"):
        map_tensors(torch.add, {"a": torch.ones(1), "b": torch.ones(1)}, other)


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        concatenate_tasks([[torch.ones(1)], [torch.ones(1), torch.ones(1)]])


def test_to_device(nested):
    moved = to_device(nested, torch.device("meta"))
    assert {t.device.type for t in tensors_of(moved)} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_close_allows_for_the_rounding_of_the_type(dtype):
    one = {"a": torch.full((3,), 100, dtype=dtype)}
    step = 1 if dtype == torch.int64 else 100 * torch.finfo(dtype).eps
    assert close(one, {"a": one["a"].clone()})
    assert close(one, {"a": one["a"] + step}) == (dtype != torch.int64)
    assert not close(one, {"a": one["a"] * 2})
