"""What users have instead of arrays: images of Pillow, frames, masked arrays, names as objects."""

import datetime
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.adapter import Origin
from metarl.deploy.adapting.supervised import adapt_on_table
from metarl.deploy.loading import adapter_of, load
from metarl.errors import DataError, ShapeError, TaskError
from metarl.tasks import Characters, FewShotData, GroupedExamples
from metarl.training import OuterLoop, TrainingSettings
from tests.deploy.conftest import train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4))
NAMES = list("aabbcc")
PIXELS = RNG.integers(0, 255, (6, 8, 8), dtype=np.uint8)


def classifier(shape=(4,)):
    """An adapter of a network with three outputs, for inputs of 0 to 1 if they are images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    record = {"count": [9.0], "low": [0.0], "high": [1.0], "mean": [0.5], "deviation": [0.3]}
    ranges = {"input_shape": list(shape), "labels": True, "classes": 3}
    ranges |= {"inputs": record} if len(shape) == 3 else {}
    return adapter_of(GradientLearner(MAML(net, inner_lr=0.5)), Origin("", 0, ranges))


def outputs(inputs, targets=NAMES, shape=(4,)):
    adapter = classifier(shape)
    adapter.adapt(inputs, targets)
    return adapter.outputs(inputs)


def palette_image(pixels):
    image = Image.new("P", pixels.shape)
    image.putdata([int(255 - v) for v in pixels.flatten()])
    image.putpalette([255 - i // 3 for i in range(768)])
    return image


def test_images_have_the_channels_of_training():
    shape = (1, 8, 8)
    expected = outputs(PIXELS[:, None] / 255, shape=shape)
    grey = [Image.fromarray(p) for p in PIXELS]
    objects = np.empty(6, dtype=object)
    objects[:] = grey
    deep = [Image.fromarray(p.astype(np.uint16) * 257) for p in PIXELS]
    for images in (
        grey, objects, deep, [i.convert("RGB") for i in grey], [i.convert("LA") for i in grey],
        [palette_image(p) for p in PIXELS], PIXELS.astype(np.uint16) * 257,
    ):  # fmt: skip
        np.testing.assert_allclose(outputs(images, shape=shape), expected, atol=1e-5)
    rgb = np.repeat(PIXELS[:, None], 3, 1) / 255
    expected = outputs(rgb, shape=(3, 8, 8))
    with pytest.raises(ShapeError, match=r"8 x 8 pixels.*resize them: image.resize\(\(8, 8\)\)"):
        outputs([*grey[:2], grey[2].resize((9, 8))], shape=(1, 8, 8))
    for images in (grey, [palette_image(p) for p in PIXELS], [i.convert("RGBA") for i in grey]):
        np.testing.assert_allclose(outputs(images, shape=(3, 8, 8)), expected, atol=1e-5)


def test_frames_of_several_types_are_numbers():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X).round()
    expected = outputs(frame.to_numpy())
    mixed = frame.astype({0: "Float64", 1: "Int64", 2: "float32"})
    np.testing.assert_allclose(outputs(mixed), expected, rtol=1e-5)
    flags = pd.DataFrame({"flag": X[:, 0] > 0, "b": X[:, 1], "c": X[:, 2], "d": X[:, 3]})
    np.testing.assert_allclose(outputs(flags), outputs(flags.astype(float)), rtol=1e-5)


def test_masked_and_sparse_data_are_refused():
    with pytest.raises(ShapeError, match=r"label of every example.* masked"):
        outputs(X, np.ma.masked_equal([0, 0, 1, 1, 2, 2], 2))
    with pytest.raises(ShapeError, match=r"support inputs.*(NaN|finite)"):
        outputs(np.ma.masked_less(X, 0))
    with pytest.raises(ShapeError, match="to_dense"):
        outputs(torch.from_numpy(X).to_sparse())


def test_labels_keep_their_kind():
    days = [datetime.date(2020, 1, 1 + i // 2) for i in range(6)]
    adapter = classifier()
    adapter.adapt(X, days)
    assert set(adapter.predict(X)) <= set(days)
    with pytest.raises(TaskError, match="got int, str"):  # 1 and "1" had been one class
        adapter.adapt(X, [1, 1, "1", "1", "c", "c"])


@pytest.mark.parametrize("kind", ["object", "str", "category", "Int64", "StringDType"])
def test_labels_of_tables_are_saved_with_the_weights(kind, tmp_path):
    pd = pytest.importorskip("pandas")
    labels = {
        "Int64": lambda: pd.array([7, 7, 8, 8, 9, 9], dtype="Int64"),
        "StringDType": lambda: np.array(NAMES, dtype=np.dtypes.StringDType()),
    }.get(kind, lambda: pd.Series(NAMES, dtype=kind))()
    adapter = classifier()
    adapter.adapt(X, labels)
    adapter.save(tmp_path / "adapted.safetensors")
    other = classifier()
    other.restore(tmp_path / "adapted.safetensors")
    np.testing.assert_array_equal(other.predict(X), adapter.predict(X))
    assert other.predict(X).shape == (6,)


def test_labels_that_are_not_saved_warn(tmp_path):
    adapter = classifier()
    adapter.adapt(X, np.array(["2020", "2020", "2021", "2021", "2022", "2022"], "datetime64[Y]"))
    with pytest.warns(UserWarning, match="are not stored"):
        adapter.save(tmp_path / "adapted.safetensors")


def test_sequences_that_end_with_zeros_without_a_mask_warn(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc"), 1 + n % 4)) for n in range(24)]
    tasks = FewShotData(
        texts, np.arange(24) // 4, way=2, shots=2, queries=2, characters=Characters("abc")
    )
    train(GradientLearner(MAML(Reader(), inner_lr=0.1)), tasks, tmp_path / "run")
    adapter = load(tmp_path / "run", network=Reader())
    indices, labels = np.array([[2, 3, 4, 2], [3, 2, 0, 0]]), ["long", "short"]
    with pytest.warns(RuntimeWarning, match=r"1 of 2 sequences end with zeros.*give mask="):
        adapter.adapt(indices, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.adapt(indices, labels, mask=indices > 0)
        adapter.predict(indices[:1])


class Reader(nn.Module):
    """Means of embedded characters."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, inputs, mask=None):
        real = torch.ones_like(inputs) if mask is None else mask
        hidden = self.table(inputs) * real.unsqueeze(2)
        return self.head(hidden.sum(1) / real.sum(1, keepdim=True))


def test_saved_weights_know_the_columns_of_their_support_set(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :2], columns=["angle", "load"])
    adapter = classifier((2,))
    adapter.adapt(frame, NAMES)
    expected = adapter.predict(frame)
    adapter.save(tmp_path / "adapted.safetensors")
    other = classifier((2,))
    other.restore(tmp_path / "adapted.safetensors")
    np.testing.assert_array_equal(other.predict(frame), expected)
    with pytest.raises(ShapeError, match=r"columns angle, load in this order.*got load, angle"):
        other.predict(frame[["load", "angle"]])


def test_a_run_finds_the_columns_of_its_targets_by_name(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(RNG.random((40, 4)), columns=["angle", "load", "y", "z"])
    table["robot"] = [f"r{k % 4}" for k in range(40)]
    tasks = GroupedExamples(table, "robot", ["angle", "load"], ["y", "z"], shots=3, queries=3)
    settings = TrainingSettings(iterations=2, meta_batch_size=2, eval_every=0)
    OuterLoop(MAML(nn.Linear(2, 2), 0.5), tasks, settings, tmp_path / "run").run()
    adapter = load(tmp_path / "run")
    support = table[:6]
    adapter.adapt(support, support[["y", "z"]].to_numpy())
    expected = adapter.predict(table)
    columns = {name: support[name].to_numpy() for name in ("z", "y")}
    nameless = pandas.DataFrame(support[["y", "z"]].to_numpy())
    for targets in (support[["z", "y"]], support, columns, nameless):
        adapter.adapt(support, targets)
        np.testing.assert_array_equal(adapter.predict(table), expected)
    for wrong in (support[["y", "load"]], support[["y"]], {"y": columns["y"]}):
        with pytest.raises(ShapeError, match="targets with the columns of training, 'y, z'; 'z' m"):
            adapter.adapt(support, wrong)
    tables = [support[["load", "angle"]], support]  # of two tasks
    adapter.adapt(tables, [support[["z", "y"]], support[["y", "z"]]])
    for found in adapter.predict([table, table[["load", "angle"]]]):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    table.to_csv(tmp_path / "whole.csv", index=False)
    table.drop(columns="z").to_csv(tmp_path / "part.csv", index=False)
    one, other = (adapt_on_table(adapter, tmp_path / "whole.csv", n, 6, 1, 0) for n in "yz")
    np.testing.assert_array_equal(one.before, other.before)
    with pytest.raises(DataError, match=r"columns of training, 'y, z', in .*'z' missing"):
        adapt_on_table(adapter, tmp_path / "part.csv", "y", 6, 1, 0)


def values(inputs, targets):
    """Predictions after adaptation to targets that are numbers."""
    torch.manual_seed(0)
    ranges = {"labels": False, "input_shape": [4], "target_shape": [1]}
    learner = GradientLearner(MAML(nn.Linear(4, 1), inner_lr=0.5))
    adapter = adapter_of(learner, Origin("", 0, ranges))
    adapter.adapt(inputs, targets)
    return adapter.predict(X)


def test_numbers_of_several_types_are_targets_and_missing_ones_are_named():
    pandas = pytest.importorskip("pandas")
    expected = values(X, X[:, 0])
    for column in (pandas.Series(X[:, 0], dtype="Float64"), pandas.Series(X[:, 0], dtype=object)):
        np.testing.assert_array_equal(values(X, column), expected)
        np.testing.assert_array_equal(values(X, column.to_frame()), expected)
        column[0] = None
        with pytest.raises(ShapeError, match=r"finite targets .* 1 of them NaN"):
            values(X, column)
    inputs = pandas.DataFrame(X).astype("Float64")
    inputs.loc[0, 0] = pandas.NA
    with pytest.raises(ShapeError, match="finite support inputs, got NaN"):
        values(inputs, X[:, 0])


def test_targets_with_rows_in_another_order_warn():
    pandas = pytest.importorskip("pandas")
    inputs, targets = pandas.DataFrame(X), pandas.Series(X[:, 0])
    with pytest.warns(RuntimeWarning, match="rows of the targets have another order"):
        values(inputs, targets[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = values(inputs, targets)
        for same in (targets.set_axis(range(1, 7)), targets[::-1].loc[inputs.index]):
            np.testing.assert_array_equal(values(inputs, same), expected)
        values(inputs, targets[::-1].to_numpy())


def test_labels_may_be_a_column_and_dates_without_a_value_are_none():
    pandas = pytest.importorskip("pandas")
    expected = outputs(X)
    for column in (pandas.DataFrame({"kind": NAMES}), np.array(NAMES)[:, None]):
        np.testing.assert_array_equal(outputs(X, column), expected)
    with pytest.raises(ShapeError, match="of one-hot rows take the argmax"):
        outputs(X, pandas.get_dummies(pandas.Series(NAMES)))
    days = pandas.Series(pandas.to_datetime(["2020-01-01", "2020-01-02", None] * 2))
    with pytest.raises(ShapeError, match="a label of every example, got NaN"):
        outputs(X, days)
