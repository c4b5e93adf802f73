"""Hugging Face's `Dataset`, by a stand-in for the part of its interface that is used."""

import numpy as np
import pytest
import torch
from PIL import Image

from metarl.errors import SettingsError, TaskError
from metarl.tasks import Characters, FewShotData, Forecasting, GroupedExamples

pa = pytest.importorskip("pyarrow")
ROWS, NAMES = 60, ["ant", "bee", "cat", "dog", "eel", "fox"]


class ClassNames:
    """Stands in for the feature `ClassLabel`."""

    names = NAMES


class Pictures:
    """Stands in for the feature `Image`."""

    def decode_example(self, value):
        """Says that items are decoded."""


class StandIn:
    """The part of the interface of `datasets.Dataset` that is used."""

    def __init__(self, table, features, decoded, form=None, transform=None):
        self.table, self.features, self.decoded, self.form = table, features, decoded, form
        self.transform = transform
        self.format = {"type": form}

    def with_transform(self, transform):
        """Returns the same rows, which a function of a batch of them changes."""
        return StandIn(self.table, self.features, self.decoded, "custom", transform)

    @property
    def column_names(self):
        """The names of the columns."""
        return self.table.column_names

    @property
    def num_rows(self):
        """The number of rows."""
        return self.table.num_rows

    def with_format(self, form):
        """Returns the same rows in another format."""
        return StandIn(self.table, self.features, self.decoded, form)

    def select_columns(self, names):
        """Returns some columns."""
        return StandIn(self.table.select(names), self.features, self.decoded, self.form)

    def __len__(self):  # noqa: D105
        return self.num_rows

    def __getitem__(self, rows):  # noqa: D105
        if self.form == "arrow":
            return self.table[rows] if isinstance(rows, slice) else self.table.take(rows)
        row = {name: self.table[name][rows].as_py() for name in self.column_names}
        row = {**row, **{n: values[rows] for n, values in self.decoded.items()}}
        if self.transform is None:
            return row
        changed = self.transform({name: [value] for name, value in row.items()})
        return {name: values[0] for name, values in changed.items()}


def pictures():
    return [Image.fromarray(np.full((5, 4), i, np.uint8)) for i in range(ROWS)]


def stand_in(columns, images=False):
    decoded = {"image": pictures()} if images else {}
    stored = {**columns, **({"image": [b""] * ROWS} if images else {})}
    features = {name: object() for name in stored} | {"label": ClassNames()}
    return StandIn(pa.table(stored), features | ({"image": Pictures()} if images else {}), decoded)


@pytest.fixture
def make():
    return stand_in


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=ROWS).tolist(),
        "signal": [list(range(i, i + 3)) for i in range(ROWS)],
        "word": ["ab"[i % 2] * (1 + i % 3) for i in range(ROWS)],
        "label": [i % 6 for i in range(ROWS)],
    }


def few_shot(data, labels="label", **settings):
    return FewShotData(data, labels, **{"way": 3, "shots": 2, "queries": 3, **settings})


def same(first, second):
    a, b = (t.sample(5, torch.Generator().manual_seed(0)) for t in (first, second))
    return torch.equal(a.query.inputs, b.query.inputs) and torch.equal(
        a.support.targets, b.support.targets
    )


def test_columns_of_numbers_lists_and_texts(make, columns):
    data = make(columns)
    x, labels = np.array(columns["x"])[:, None], np.array(columns["label"])
    for in_memory in (True, False):
        tasks = few_shot(data, inputs="x", in_memory=in_memory)
        assert tasks.names == tuple(NAMES)
        assert same(tasks, few_shot(x, labels))
        tasks = few_shot(data, inputs="signal", in_memory=in_memory)
        assert same(tasks, few_shot(np.array(columns["signal"]), labels))
    characters = Characters("ab")
    tasks = few_shot(data, inputs="word", characters=characters)
    assert same(tasks, few_shot(columns["word"], labels, characters=characters))


def test_images_are_decoded_item_by_item(make, columns):
    data = make(columns, images=True)
    for in_memory in (True, False):
        tasks = few_shot(data, inputs="image", in_memory=in_memory)
        assert tasks.pool.example_shape == (1, 5, 4)
        batch = tasks.sample(20, torch.Generator().manual_seed(0))
        numbers = (batch.query.inputs[..., 0, 0, 0] * 255).round().long()
        classes = batch.info["classes"].gather(1, batch.query.targets)
        assert torch.equal(numbers % 6, classes)


def test_settings_that_do_not_fit(make, columns):
    data = make(columns, images=True)
    with pytest.raises(SettingsError, match="Did you mean 'label'"):
        few_shot(data, "labl", inputs="x")
    with pytest.raises(SettingsError, match="one column of inputs, because 'image' holds images"):
        few_shot(data, inputs=["x", "image"])
    with pytest.raises(SettingsError, match="Expected the column of the classes as `labels`"):
        few_shot(data, None, inputs="x")


def test_a_dictionary_of_data_sets(columns):
    class Parts(dict):
        column_names = {"train": ["x", "label"]}  # noqa: RUF012

        def with_format(self, form):
            return self

    with pytest.raises(SettingsError, match="a dictionary of them"):
        few_shot(Parts(train=stand_in(columns)), inputs="x")


@pytest.mark.parametrize("label", [-1, len(NAMES)])
def test_labels_without_a_name_are_refused(make, columns, label):
    columns["label"][7] = label
    with pytest.raises(TaskError, match=f"row 7 in the column 'label' is {label}.*filter"):
        few_shot(make(columns), inputs="x")


@pytest.mark.parametrize("in_memory", [True, False])
def test_functions_that_change_the_rows_are_applied(make, columns, in_memory):
    def doubled(rows):
        return {"twice": [[2 * v for v in values] for values in rows["signal"]]} | rows

    data = make(columns).with_transform(doubled)
    expected = few_shot(2 * np.array(columns["signal"]), np.array(columns["label"]))
    tasks = few_shot(data, inputs="twice", in_memory=in_memory)
    assert tasks.names == tuple(NAMES) and same(tasks, expected)
    with pytest.raises(SettingsError, match=r"one of \['twice', 'x', 'signal', 'word'\]"):
        few_shot(data)
    with pytest.raises(SettingsError, match="Unknown column 'twce'"):
        few_shot(data, inputs="twce")
    with pytest.raises(SettingsError, match=r"apply the function by `dataset.map`"):
        GroupedExamples(data, "label", "x", "x2")


def test_groups_and_series_of_data_sets(make, columns):
    columns["y"] = [2 * value for value in columns["x"]]
    columns["hour"] = [-i for i in range(ROWS)]
    data, table = make(columns), {name: list(values) for name, values in columns.items()}
    groups = [GroupedExamples(t, "label", "x", "y", 3, 3) for t in (data, table)]
    assert same_queries(*groups)
    series = [Forecasting(t, "label", "x", 1, 1, 2, 2, time="hour") for t in (data, table)]
    assert same_queries(*series)


def same_queries(first, second):
    a, b = (t.sample(5, torch.Generator().manual_seed(0)).query for t in (first, second))
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)


def test_data_sets_that_are_only_iterated_over(columns):
    class Stream:
        column_names = ("x", "label")

        def with_format(self, form):
            return self

    with pytest.raises(SettingsError, match=r"got Stream, whose rows can only be iterated over"):
        few_shot(Stream(), inputs="x")
