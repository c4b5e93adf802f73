"""Tensors of any kind, masked arrays and images of Pillow as data, labels and columns."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from metarl.errors import DataError, MetarlError, SettingsError, ShapeError
from metarl.tasks import FewShotData, Forecasting
from metarl.tasks.images import decode

ROWS = 12
LABELS = [0, 1] * 6


class Items(Dataset):
    """Pairs of what a function returns for a row, and a label."""

    def __init__(self, read):
        self.read = read

    def __len__(self):  # noqa: D105
        return ROWS

    def __getitem__(self, row):  # noqa: D105
        return self.read(row), LABELS[row]


def inputs_of(data, labels=LABELS, **settings):
    """The inputs of all examples in their order."""
    tasks = FewShotData(data, labels, 2, 1, 1, **settings)
    return tasks.pool.source.read(torch.arange(ROWS)).values


def palette_image(grey):
    """An image of the mode P whose indices are the reverse of its grey values."""
    image = Image.fromarray((255 - grey).astype(np.uint8), "L").convert("L")
    coloured = Image.new("P", image.size)
    coloured.putdata(list(image.tobytes()))
    coloured.putpalette([255 - i // 3 for i in range(768)])
    return coloured


def test_tensors_of_every_floating_point_type_are_read():
    values = torch.arange(2.0 * ROWS).view(ROWS, 2)
    for dtype in (torch.bfloat16, torch.float8_e5m2, torch.float16):
        rounded = values.to(dtype)
        for data in (rounded, Items(lambda row, rounded=rounded: rounded[row])):
            labels = LABELS if data is rounded else None
            assert torch.equal(inputs_of(data, labels), rounded.float())
        table = {"a": rounded[:, 0], "label": LABELS}
        assert torch.equal(inputs_of(table, "label"), rounded[:, :1].float())
    series = Forecasting(torch.arange(40.0).view(2, 20).bfloat16(), history=2, shots=1, queries=1)
    assert torch.equal(series.values.flatten(), torch.arange(40.0))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (torch.Tensor.to_sparse, "to_dense"),
        (lambda t: t.to("meta"), "stores values"),
        (lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged), "unbind"),
    ],
)
def test_tensors_without_plain_values_are_refused(change, remedy):
    tensor = change(torch.ones(ROWS, 2))
    with pytest.raises(ShapeError, match=remedy):
        inputs_of(tensor)
    if not tensor.is_nested:
        with pytest.raises(ShapeError, match=remedy):
            inputs_of(torch.ones(ROWS, 2), change(torch.ones(ROWS).long()))


def test_masked_labels_and_columns_are_missing():
    labels = np.ma.masked_equal([0, 1, 9] * 4, 9)
    column = np.ma.masked_equal(np.arange(float(ROWS)), 3.0)
    with pytest.raises(MetarlError, match="row 2 is missing"):
        inputs_of(np.ones((ROWS, 2)), labels)
    with pytest.raises(MetarlError, match="first in row 2"):
        inputs_of({"a": np.ones(ROWS), "label": labels}, "label")
    with pytest.raises(MetarlError, match="first in row 3"):
        inputs_of({"a": column, "label": LABELS}, "label")
    nothing = np.ma.array(np.arange(float(ROWS)))  # no value is masked
    assert inputs_of({"a": nothing, "label": LABELS}, "label").shape == (ROWS, 1)


def test_items_that_share_a_buffer_are_copied():
    buffer, tensor = np.zeros(2, np.float32), torch.zeros(2)

    def of_numpy(row):
        buffer[:] = row
        return buffer

    for read in (of_numpy, tensor.fill_):
        for in_memory in (True, False):
            labels = None if in_memory else LABELS
            found = inputs_of(Items(read), labels, in_memory=in_memory)
            assert torch.equal(found[:, 0], torch.arange(float(ROWS)))


def test_images_of_pillow_are_read_alike_from_lists_columns_and_data_sets():
    pixels = np.random.default_rng(0).integers(0, 255, (ROWS, 5, 4, 3), dtype=np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2)) / 255
    objects = np.empty(ROWS, dtype=object)
    objects[:] = images
    for data in (images, objects, Items(images.__getitem__)):
        assert torch.equal(inputs_of(data, None if isinstance(data, Items) else LABELS), expected)
    assert torch.equal(inputs_of({"a": images, "label": LABELS}, "label"), expected)
    with pytest.raises(ShapeError, match="one size and mode"):
        inputs_of([images[0].convert("L"), *images[1:]])


@pytest.mark.parametrize("mode", ["list", "column", "items"])
def test_palettes_are_colours_and_what_is_transparent_is_white(mode):
    grey = np.arange(20).reshape(5, 4)
    clear = np.zeros((5, 4, 4), np.uint8)  # black, and transparent
    for image, expected in (
        (palette_image(grey), np.tile(grey / 255, (3, 1, 1))),
        (Image.fromarray(clear, "RGBA"), np.ones((3, 5, 4))),
        (Image.fromarray(clear[..., :2], "LA"), np.ones((1, 5, 4))),
        (Image.new("1", (4, 5), 1), np.ones((1, 5, 4))),
    ):
        images = [image] * ROWS
        data, labels = {
            "list": (images, LABELS),
            "column": ({"a": images, "label": LABELS}, "label"),
            "items": (Items(images.__getitem__), None),
        }[mode]
        found = inputs_of(data, labels)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_targets_of_a_data_set_may_be_a_column_with_another_index():
    pd = pytest.importorskip("pandas")
    items = Items(lambda row: np.full(2, row))
    items.targets = pd.Series(LABELS, index=range(100, 100 + ROWS))
    tasks = FewShotData(items, way=2, shots=1, queries=1, in_memory=False)
    assert tasks.pool.counts.tolist() == [6, 6]


def test_labels_of_bytes_and_of_strings_that_lack_some():
    tasks = FewShotData(np.ones((4, 2)), np.array([b"a", b"b"] * 2), 2, 1, 1)
    assert tasks.pool.names == ("a", "b")
    with pytest.raises(ShapeError, match="UTF-8"):
        inputs_of(np.ones((ROWS, 2)), np.array([b"a", b"\xff"] * 6))
    strings = np.array(["a", None] * 6, dtype=np.dtypes.StringDType(na_object=None))
    with pytest.raises(MetarlError, match="row 1 is missing"):
        inputs_of(np.ones((ROWS, 2)), strings)


def test_sequences_of_several_types_of_which_some_are_scaled_are_refused():
    for other in (np.uint16, np.int64, np.float32):
        sequences = [np.full(2, 200, np.uint8), np.full(3, 200, other)] * 6
        with pytest.raises(ShapeError, match="of one type"):
            inputs_of(sequences)
    assert inputs_of([[1, 2], [0.5]] * 6).max() == 2


@pytest.mark.parametrize("mode", ["list", "column", "items", "items on disk"])
def test_images_of_8_bits_among_those_of_16_bits_are_refused(mode):
    images = [Image.fromarray(np.full((5, 4), 200, dtype)) for dtype in (np.uint8, np.uint16)] * 6
    data: Any = images if mode == "list" else Items(images.__getitem__)
    labels: Any = LABELS if mode != "items" else None
    if mode == "column":
        data, labels = {"a": images, "label": LABELS}, "label"
    with pytest.raises(MetarlError, match=r"of one type in the .*, got uint16, uint8"):
        inputs_of(data, labels, in_memory=mode != "items on disk")


def test_scaled_numbers_among_others_are_refused():
    arrays = [np.full(3, 200, np.uint8), np.full(3, 0.5, np.float32)] * 6
    for data, labels in ((arrays, LABELS), ({"a": arrays, "label": LABELS}, "label")):
        with pytest.raises(ShapeError, match=r"of one type in the .*, got float32, uint8"):
            inputs_of(data, labels)
    assert inputs_of([np.full(3, 200), np.full(3, 0.5)] * 6).max() == 200


def test_an_array_on_disk_that_returns_other_rows_is_refused():
    class Short:
        shape, dtype = (ROWS, 2), np.dtype(np.float32)

        def __len__(self):
            return ROWS

        def __getitem__(self, rows):
            return np.zeros((1, 2), np.float32)

    tasks = FewShotData(Short(), LABELS, 2, 1, 1)
    with pytest.raises(DataError, match="Expected 4 rows of the Short"):
        tasks.sample(1, torch.Generator().manual_seed(0))


def test_characters_of_another_type_are_refused():
    with pytest.raises(SettingsError, match="got 'abc'"):
        FewShotData(["ab"] * ROWS, LABELS, 2, 1, 1, characters="abc")  # pyright: ignore


def test_images_of_pillow_are_upright(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turned clockwise by a quarter to be upright
    image.save(tmp_path / "a.png", exif=exif)
    upright = torch.from_numpy(np.rot90(pixels, -1).copy()).float() / 255
    with Image.open(tmp_path / "a.png") as opened:
        for data in ([opened] * ROWS, Items(lambda row: opened)):
            labels = None if isinstance(data, Items) else LABELS
            assert torch.equal(inputs_of(data, labels)[0, 0], upright)
    read = decode((tmp_path / "a.png").read_bytes(), "a.png", None)
    assert np.array_equal(read, np.rot90(pixels, -1))


@pytest.mark.parametrize("bad", [0, 7])
@pytest.mark.parametrize("error", [OSError("no disk"), AssertionError("no disk")])
def test_an_item_that_cannot_be_read_is_named(bad, error):
    def read(row):
        if row == bad:
            raise error
        return np.zeros(3)

    message = rf"Cannot read item {bad} of the data set: {type(error).__name__}: no disk"
    for settings in ({}, {"in_memory": False, "labels": LABELS}):
        with pytest.raises(DataError, match=message):
            inputs_of(Items(read), **{"labels": None, **settings})
