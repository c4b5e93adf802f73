"""Columns of Arrow tables of every kind."""

import numpy as np
import pytest
import torch

from metarl.tasks import FewShotData, GroupedExamples

pa = pytest.importorskip("pyarrow")
KINDS = np.arange(40) % 4


def few_shot(values, **settings):
    table = pa.table({"x": values, "kind": KINDS})
    return FewShotData(table, "kind", way=4, shots=2, queries=3, **settings)


def inputs_of(tasks):
    """Returns the inputs in the order of the rows."""
    return tasks.pool.source.read(torch.arange(len(KINDS))).values


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("size", [-1, 5])  # lists of any size, lists of one size
def test_pictures_of_bytes_in_lists_are_divided_by_255(size, in_memory):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 5), np.uint8)
    column = pa.array(pixels.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8(), size), size)))
    found = inputs_of(few_shot(column, in_memory=in_memory))
    assert torch.equal(found, torch.from_numpy(pixels).float().div_(255))


def test_tensors_of_one_shape_and_other_extensions():
    values = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    assert torch.equal(inputs_of(few_shot(tensors)), torch.from_numpy(values))

    class Pairs(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.list_(pa.float32()), "metarl.test_pairs")

        def __arrow_ext_serialize__(self):
            return b""

    stored = pa.array(values[:, 0, :2].tolist(), pa.list_(pa.float32()))
    column = pa.ExtensionArray.from_storage(Pairs(), stored)
    assert torch.equal(inputs_of(few_shot(column)), torch.from_numpy(values[:, 0, :2]))


def test_views_of_strings_are_labels():
    names = pa.array([f"kind {k}" for k in KINDS]).cast(pa.string_view())
    table = pa.table({"x": np.arange(40.0), "kind": names})
    tasks = FewShotData(table, "kind", way=4, shots=2, queries=3)
    assert tasks.pool.names == ("kind 0", "kind 1", "kind 2", "kind 3")


class Frame:
    """Stands in for a data frame of another library, such as polars."""

    columns = ("x", "y", "kind")

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):  # noqa: D105
        return self.table.__arrow_c_stream__(requested_schema)


def test_tables_of_other_libraries():
    table = pa.table({"x": np.arange(40.0), "y": np.arange(40.0) ** 2, "kind": KINDS})
    tasks = FewShotData(Frame(table), "kind", way=4, shots=2, queries=3)
    assert tasks.columns == ("x", "y")
    assert torch.equal(inputs_of(tasks)[:, 1], torch.arange(40.0) ** 2)
    groups = GroupedExamples(Frame(table), "kind", "x", "y", shots=3, queries=3)
    query = groups.sample(5, torch.Generator().manual_seed(0)).query
    assert torch.equal(query.targets, query.inputs**2)
