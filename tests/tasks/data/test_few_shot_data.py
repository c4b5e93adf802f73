import re
import warnings
from enum import Enum

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from metarl.errors import DataError, MetarlError, SettingsError, ShapeError, TaskError
from metarl.tasks import Characters, FewShotData, check_task_distribution

SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25}
CLASSES, EACH = 20, 6


@pytest.fixture
def labels():
    """Every class six times, in a mixed order."""
    return torch.arange(CLASSES * EACH).roll(3).remainder(CLASSES)


@pytest.fixture
def features(labels):
    """Four features that tell the class and the row."""
    rows = torch.arange(len(labels))
    return torch.stack((labels, rows, -rows, 0 * rows + 7), dim=1).float()


def few_shot(data, labels=None, **settings):
    defaults = {"way": 3, "shots": 2, "queries": 3, "splits": SPLITS}
    return FewShotData(data, labels, **{**defaults, **settings})


def sample(tasks, seed=0, num_tasks=8):
    return tasks.sample(num_tasks, torch.Generator().manual_seed(seed))


def assert_same_tasks(first, second):
    a, b = sample(first), sample(second)
    for x, y in zip((*a.support[:2], *a.query[:2]), (*b.support[:2], *b.query[:2]), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(a.info["classes"], b.info["classes"])


class Pairs(Dataset):
    """A map-style data set of torch."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels_of_items = inputs, labels

    def __len__(self):  # noqa: D105
        return len(self.inputs)

    def __getitem__(self, row):  # noqa: D105
        return self.inputs[row], self.labels_of_items[row]


class Named(Pairs):
    """The same with items that are mappings."""

    def __getitem__(self, row):  # noqa: D105
        return {"signal": self.inputs[row], "kind": self.labels_of_items[row]}


def structured(features, labels):
    """An array of NumPy with named fields."""
    rows = [(*x, k) for x, k in zip(features.tolist(), labels.tolist(), strict=True)]
    return np.array(rows, dtype=[*((name, "f4") for name in "abcd"), ("k", "i8")])


def test_examples_belong_to_the_class_of_their_label(features, labels):
    tasks = few_shot(features, labels)
    check_task_distribution(tasks)
    batch = sample(tasks, num_tasks=50)
    for part, count in ((batch.support, 2), (batch.query, 3)):
        assert part.inputs.shape == (50, 3 * count, 4)
        assert part.weights is None and part.mask is None
        classes = batch.info["classes"].gather(1, part.targets)
        assert torch.equal(part.inputs[:, :, 0].long(), classes)
        assert torch.equal(labels[part.inputs[:, :, 1].long()], classes)
    rows = torch.cat((batch.support.inputs, batch.query.inputs), 1)[:, :, 1]
    assert all(len(row.unique()) == 15 for row in rows)


def test_all_containers_give_the_same_tasks(features, labels):
    expected = few_shot(features, labels)
    pairs = Pairs(features, labels)
    with_targets = Pairs(features, labels)
    with_targets.targets = labels.tolist()
    rows = [row.tolist() for row in features]
    columns = {name: features[:, i] for i, name in enumerate("abcd")}
    for tasks in (
        few_shot(features.numpy(), labels.numpy()),
        few_shot(features.double().numpy(), labels.to(torch.uint8)),
        few_shot(features.numpy().astype(">f4"), labels.tolist()),
        few_shot(rows, labels),
        few_shot(pairs),
        few_shot(TensorDataset(features, labels)),
        few_shot(Named(features, labels), "kind", inputs="signal"),
        few_shot(with_targets, in_memory=False),
        few_shot(pairs, labels, in_memory=False),
        few_shot(list(pairs)),
        few_shot(list(Named(features, labels)), "kind", inputs="signal"),
        few_shot(Subset(with_targets, range(len(labels))), in_memory=False),
        few_shot(structured(features, labels), "k", inputs=list("abcd")),
        few_shot({**columns, "k": labels}, "k", inputs=list("abcd")),
        few_shot({"k": labels, "x": features}, "k", inputs="x"),
        few_shot(columns, labels, inputs=["a", "b", "c", "d"]),
    ):
        assert_same_tasks(expected, tasks)


def test_a_memory_map_is_read_when_it_is_needed(features, labels, tmp_path):
    np.save(tmp_path / "x.npy", features.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tasks = few_shot(mapped, labels)
    assert_same_tasks(few_shot(features, labels), tasks)
    assert tasks.pool.source.example_shape == (4,)


def test_read_only_arrays_are_not_changed(features, labels):
    array = features.numpy().copy()
    array.flags.writeable = False
    assert_same_tasks(few_shot(features, labels), few_shot(array, labels))


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integer_images_are_scaled_and_get_a_channel(dtype, most, labels, tmp_path):
    images = np.zeros((len(labels), 5, 4), dtype)
    images[:, 1, 2] = most
    images[:, 0, 0] = np.arange(len(labels))
    np.save(tmp_path / "x.npy", images)
    for data in (images, np.load(tmp_path / "x.npy", mmap_mode="r"), Pairs(images, labels)):
        batch = sample(few_shot(data, labels if data is not None else None))
        if data is images:
            expected = batch
        assert batch.query.inputs.shape[2:] in ((1, 5, 4), (5, 4))
        assert batch.query.inputs.dtype == torch.float32
        assert (batch.query.inputs[..., 1, 2] == 1).all()
        assert torch.equal(batch.query.inputs[..., 0, 0], expected.query.inputs[..., 0, 0])


def test_signed_and_float_images_keep_their_values(labels):
    images = np.full((len(labels), 2, 5, 4), -300, np.int16)
    assert (sample(few_shot(images, labels)).support.inputs == -300).all()
    assert few_shot(images / 7, labels).pool.example_shape == (2, 5, 4)


def test_square_images_of_any_type_can_be_rotated(labels):
    images = torch.zeros(len(labels), 1, 3, 3)
    images[:, 0, 0, 0] = 9.5
    batch = sample(few_shot(images, labels, rotations="episode"), num_tasks=30)
    corners = batch.support.inputs[:, :, 0][:, ::2][:, :, [0, 2, 2, 0], [0, 0, 2, 2]].argmax(2)
    assert torch.equal(corners, batch.info["rotations"])
    with pytest.raises(SettingsError, match="square images"):
        few_shot(torch.zeros(len(labels), 9), labels, rotations="episode")


def test_string_labels_name_the_classes(features, labels):
    names = [f"class {k:02d}" for k in labels.tolist()]
    tasks = few_shot(features, names)
    assert_same_tasks(few_shot(features, labels), tasks)
    assert all(re.fullmatch(r"class \d\d", name) for name in tasks.names)
    objects = np.array(names, dtype=object)
    assert_same_tasks(tasks, few_shot(features, objects))


class Kind(str, Enum):  # noqa: UP042
    """Members whose values share their length with the beginning of their names."""

    CAT, CAR, DOG = "feline", "engine", "canine"


@pytest.mark.parametrize("of", [list, lambda values: np.array(values, dtype=object), pd.Series])
def test_members_of_an_enumeration_of_strings_are_their_values(of, features, labels):
    kinds = [list(Kind)[k % 3] for k in labels.tolist()]
    tasks = few_shot(
        features, of(kinds), splits={"train": ["engine", Kind.CAT], "test": [Kind.DOG]}, way=1
    )
    assert tasks.split("train").names == ("engine", "feline")
    assert_same_tasks(
        tasks,
        few_shot(
            features,
            [k.value for k in kinds],
            splits={"train": ["engine", "feline"], "test": ["canine"]},
            way=1,
        ),
    )


def test_splits_by_fraction_cover_all_classes_once_and_depend_on_the_labels_alone(features, labels):
    tasks = few_shot(features, labels)
    parts = [tasks.split(part).names for part in SPLITS]
    assert [len(part) for part in parts] == [10, 5, 5]
    assert set().union(*parts) == {str(k) for k in range(CLASSES)}
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    again = few_shot(features[order], labels[order])
    assert [again.split(part).names for part in SPLITS] == parts
    assert few_shot(features, labels, seed=1).names != tasks.names


def test_splits_by_class_and_by_example(features, labels):
    chosen = {"train": range(8), "validation": [8, 9, 10], "test": np.array([17, 15, 19])}
    tasks = few_shot(features, labels, splits=chosen)
    assert tasks.split("test").names == ("17", "15", "19")
    column = np.array(["train", "val", "test"])[np.minimum(labels.numpy() // 8, 2)]
    table = {"x": features, "k": labels, "part": column}
    for tasks in (
        few_shot(features, labels, splits=column),
        few_shot(table, "k", splits="part"),
    ):
        assert tasks.split("validation").names == tuple(map(str, range(8, 16)))
        assert tasks.split("test").names == tuple(map(str, range(16, 20)))
    assert few_shot(features, labels, splits=None).num_classes == CLASSES
    only_test = few_shot(features, labels, splits={"test": range(5)})
    assert only_test.part == "test" and only_test.num_classes == 5


@pytest.mark.parametrize(
    ("splits", "error", "message"),
    [
        ({"train": 0.9, "test": 0.2}, SettingsError, "add up to at most 1"),
        ({"train": 0.98, "test": 0.02}, SettingsError, "0.02 of 20 classes leaves the test split"),
        ({"train": 0.5, "test": [1, 2]}, SettingsError, "fractions for all splits"),
        ({"train": [1, 2, 3], "test": [3, 4]}, TaskError, "'3' is in two splits, train and test"),
        ({"train": [1, 2, 2]}, TaskError, "twice in one"),
        ({"train": [1, 2, 99]}, TaskError, "99 of the splits is not in the data"),
        ({"train": ["1", "2"]}, TaskError, r"Write it as it is in the data, 1 \(int\)"),
        ({"trian": [1, 2, 3]}, SettingsError, "Did you mean 'train'"),
        ({"train": "123"}, SettingsError, "as a list, got '123'"),
        (["train"] * 60 + ["test"] * 60, TaskError, "has examples in two splits"),
        (["train"] * 3, ShapeError, "for each of the 120 examples"),
        ("part", SettingsError, "only tables have a column of splits"),
    ],
)
def test_bad_splits(features, labels, splits, error, message):
    with pytest.raises(error, match=message):
        few_shot(features, labels, splits=splits)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y[:5], ShapeError, r"each of the 120 examples, \[120\], got \(5,\)"),
        (lambda y: y[:, None], ShapeError, "remove the last dimension"),
        (lambda y: y.float() + 0.5, ShapeError, r"got float32; .*GroupedExamples"),
        (lambda y: y.float().masked_fill(y == 3, torch.nan), TaskError, r"of row \d+ is missing"),
        (lambda y: [None, *y.tolist()[1:]], TaskError, "of row 0 is missing"),
        (lambda y: ["a", *y.tolist()[1:]], ShapeError, "a mixture of int, str"),
        (lambda y: [float("nan"), *map(str, y.tolist()[1:])], TaskError, "of row 0 is missing"),
        (lambda y: None, SettingsError, "Expected `labels`"),
        (lambda y: "kind", SettingsError, "no named columns"),
        (lambda y: ["1", *y.tolist()[1:]], ShapeError, "a mixture of int, str"),
        (lambda y: [2**70, *y.tolist()[1:]], ShapeError, "at most 64 bits"),
    ],
    ids=["few", "two dimensions", "floats", "nan", "none", "mixed", "nan in text", "no", "name",
         "list", "large"],
)  # fmt: skip
def test_bad_labels(features, labels, change, error, message):
    changed = change(labels)
    if isinstance(changed, list) and changed[0] == "a":
        changed = np.array(changed, dtype=object)
    if isinstance(changed, list) and changed[0] != changed[0]:
        changed = np.array(changed, dtype=object)
    with pytest.raises(error, match=message):
        few_shot(features, changed)


def mixed(features):
    array = np.empty(2, dtype=object)
    array[:] = [{"a": 1}, 3]
    return array


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:, 0], ShapeError, r"x\[:, None\]"),
        (lambda x: x[:0], ShapeError, "got none"),
        (lambda x: x.masked_fill(x == 5, torch.nan), DataError, "missing, infinite.*in row"),
        (lambda x: x.numpy().astype(np.float64) * 1e40, DataError, "too large for float32"),
        (lambda x: x.to(torch.complex64), ShapeError, "real numbers"),
        (lambda x: x.requires_grad_(), ShapeError, r"tensor.detach\(\)"),
        (lambda x: x.to_sparse(), ShapeError, "dense tensor"),
        (lambda x: scipy.sparse.csr_array(x.numpy()), ShapeError, r"data\.toarray\(\)"),
        (lambda x: x.double() + 1.7e9, DataError, "float32 hardly tells apart; subtract a con"),
        (lambda x: x.long() + 2**50, DataError, "float32 hardly tells apart"),
        (lambda x: np.ma.masked_equal(x.numpy(), 5), DataError, "are masked"),
        (lambda x: np.full((120, 2), "a"), ShapeError, "Expected numbers"),
        (lambda x: np.full((120, 2), np.datetime64("2020")), ShapeError, "dates to seconds"),
        (lambda x: np.zeros((120, 8, 8, 3), np.uint8), ShapeError, r"x.transpose\(0, 3, 1, 2\)"),
        (lambda x: iter(x), ShapeError, "iterated over"),
        (lambda x: [], ShapeError, "empty"),
        (lambda x: ["a", 3.0], ShapeError, "all examples of the list to be strings"),
        (lambda x: ["ab", "c"], SettingsError, "Characters.of"),
        (lambda x: [[1.0, 2.0], []], ShapeError, "sequence 1 of the data is empty"),
        (lambda x: [[[1.0]], [[1.0, 2.0]] * 2], ShapeError, "elements of one shape"),
        (lambda x: [[1.0], [[1.0, 2.0], [3.0]]], ShapeError, "data, example 1"),
        (mixed, ShapeError, "Expected numbers in the data, example 0"),
    ],
)
def test_bad_inputs(features, labels, change, error, message):
    with pytest.raises(error, match=message):
        few_shot(change(features), labels)


def test_numbers_that_float32_tells_apart_are_taken(features, labels):
    pressures = features.double() * 5 + 101325
    pressures[:, 3] = 0.3 + 1e-17 * torch.arange(len(labels))  # equal but for rounding
    inputs = sample(few_shot(pressures, labels), num_tasks=50).support.inputs
    assert inputs[..., 1].unique().numel() > 50


def test_columns_of_pandas_are_read_by_position(labels):
    pd = pytest.importorskip("pandas")
    index = np.random.default_rng(0).permutation(len(labels))
    sequences = pd.Series([np.full((2, 1), float(k)) for k in labels], index=index)
    tasks = few_shot(sequences, pd.Series(labels.numpy(), index=index[::-1]))
    batch = sample(tasks)
    classes = batch.info["classes"].gather(1, batch.support.targets)
    assert torch.equal(batch.support.inputs[:, :, 1, 0].long(), classes)
    texts = pd.Series(["ab"[k % 2] * 3 for k in labels.tolist()], index=index)
    inputs = sample(few_shot(texts, labels, characters=Characters("ab"))).support
    assert torch.equal(inputs.inputs[:, :, 0].gt(2).long(), classes.remainder(2))


def test_sequences_are_padded_and_masked(labels):
    lengths = labels % 4 + 1
    sequences = [
        torch.full((int(n), 2), float(k)) for n, k in zip(lengths, labels + 1, strict=True)
    ]
    tasks = few_shot(sequences, labels)
    batch = sample(tasks)
    for part in (batch.support, batch.query):
        classes = batch.info["classes"].gather(1, part.targets)
        assert torch.equal(part.mask.sum(2), classes % 4 + 1)
        assert part.inputs.shape == (*part.targets.shape, 4, 2)
        expected = part.mask * (classes + 1)[..., None]
        assert torch.equal(part.inputs, expected[..., None].expand_as(part.inputs).float())
    cut = sample(few_shot(sequences, labels, length=3))
    assert cut.support.inputs.shape[2:] == (3, 2)
    assert torch.equal(cut.support.mask, batch.support.mask[..., :3])
    wide = sample(few_shot(sequences, labels, length=9)).support
    assert wide.inputs.shape[2] == 9 and not wide.mask[..., 4:].any()


def test_sequences_of_a_data_set_and_of_lists(labels):
    sequences = [list(range(1, 2 + k % 3)) for k in labels.tolist()]
    expected = sample(few_shot(sequences, labels))
    for data in (Pairs(sequences, labels.tolist()), Named(sequences, labels.tolist())):
        names = ("kind", "signal") if isinstance(data, Named) else (None, None)
        batch = sample(few_shot(data, names[0], inputs=names[1]))
        assert torch.equal(batch.query.inputs, expected.query.inputs)
        assert torch.equal(batch.query.mask, expected.query.mask)
        on_disk = few_shot(data, labels, inputs=names[1], in_memory=False, length=3)
        assert torch.equal(sample(on_disk).query.mask, expected.query.mask)
    with pytest.raises(DataError, match=r"of one shape in the data set.*`length`"):
        sample(few_shot(Pairs(sequences, labels), labels, in_memory=False))


def test_length_pads_and_cuts_arrays_as_it_does_lists(labels, tmp_path):
    series = np.random.default_rng(0).normal(size=(len(labels), 4, 2)).astype(np.float32)
    np.save(tmp_path / "series.npy", series)
    mapped = np.load(tmp_path / "series.npy", mmap_mode="r")
    data_set = TensorDataset(torch.from_numpy(series), labels)
    expected = sample(few_shot(list(series), labels, length=6)).support
    assert expected.mask is not None and expected.inputs.shape[2:] == (6, 2)
    for data, given in ((series, labels), (mapped, labels), (data_set, None)):
        found = sample(few_shot(data, given, length=6)).support
        assert torch.equal(found.inputs, expected.inputs)
        assert found.mask is not None and torch.equal(found.mask, expected.mask)
        cut = sample(few_shot(data, given, length=3)).support
        assert torch.equal(cut.inputs, expected.inputs[:, :, :3])


def test_sequences_of_bytes_have_no_channel(labels, tmp_path):
    series = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 2), np.uint8)
    np.save(tmp_path / "series.npy", series)
    mapped = np.load(tmp_path / "series.npy", mmap_mode="r")
    for data in (series, mapped):
        expected = sample(few_shot(list(series), labels, length=6)).support.inputs
        assert expected.shape[2:] == (6, 2)
        for length in (3, 4, 6):
            found = sample(few_shot(data, labels, length=length)).support.inputs
            assert torch.equal(found, expected[:, :, :length])


def test_texts_are_indices_of_their_characters(labels):
    words = ["abc"[k % 3] * (1 + k % 4) for k in labels.tolist()]
    characters = Characters.of(words)
    assert characters == Characters("abc") and characters.size == 5
    tasks = few_shot(words, labels, characters=characters)
    batch = sample(tasks)
    assert batch.support.inputs.dtype == torch.int64
    for task in range(8):
        for n in range(6):
            k = int(batch.info["classes"][task, batch.support.targets[task, n]])
            assert characters.decode(batch.support.inputs[task, n]) == "abc"[k % 3] * (1 + k % 4)
    assert Characters("ab").encode("bca").tolist() == [3, 1, 2]
    table = {"word": words, "k": labels}
    assert_same_tasks(tasks, few_shot(table, "k", characters=characters))
    with pytest.raises(SettingsError, match="given twice"):
        Characters("aba")
    with pytest.raises(ShapeError, match="row 1 is empty"):
        few_shot(["a", ""], [0, 1], characters=characters)


def test_tokens_stay_integers(labels):
    tokens = labels[:, None].expand(-1, 5) * 3
    batch = sample(few_shot(tokens, labels, tokens=True))
    classes = batch.info["classes"].gather(1, batch.query.targets)
    assert torch.equal(batch.query.inputs, 3 * classes[..., None].expand(-1, -1, 5))
    with pytest.raises(ShapeError, match="Expected indices"):
        few_shot(tokens.float(), labels, tokens=True)
    with pytest.raises(ShapeError, match="indices of at least 0 in the data, got -1"):
        few_shot(tokens - 1, labels, tokens=True)
    for items, message in ((tokens.float(), "Expected indices"), (tokens - 99, "at least 0")):
        with pytest.raises(ShapeError, match=message):
            sample(few_shot(Pairs(items, labels), labels, tokens=True, in_memory=False))


class Broken(Pairs):
    """A data set with an item that cannot be read."""

    def __getitem__(self, row):  # noqa: D105
        if row == 7:
            raise RuntimeError("the file is damaged")
        return super().__getitem__(row)


def test_items_that_cannot_be_read(features, labels):
    with pytest.raises(DataError, match=r"item 7 .*RuntimeError: the file is damaged"):
        few_shot(Broken(features, labels))
    tasks = few_shot(Broken(features, labels), labels, in_memory=False)
    with pytest.raises(DataError, match=r"item 7 of the data set: RuntimeError: the file is dam"):
        for seed in range(20):
            sample(tasks, seed)
            sample(tasks.split("test"), seed)
            sample(tasks.split("validation"), seed)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (lambda x, y: Pairs(x[:0], y[:0]), {}, "no items"),
        (lambda x, y: Pairs(x, y), {"in_memory": False}, "known at the start"),
        (lambda x, y: Pairs(y, x), {}, r"one label for item 0 .* of shape \(4,\)"),
        (lambda x, y: Named(x, y), {}, "Expected pairs .*names"),
        (lambda x, y: Pairs(x, y), {"inputs": "signal"}, "Expected mappings"),
        (lambda x, y: Named(x, y), {"inputs": "signl", "labels": "kind"}, "Did you mean 'signal'"),
        (lambda x, y: Pairs(x, y), {"inputs": ["a", "b"]}, "Expected one name"),
        (lambda x, y: x, {"in_memory": False, "labels": 0}, "in memory"),
    ],
)
def test_data_sets_of_another_form(features, labels, data, settings, message):
    chosen = labels if settings.get("labels") == 0 else settings.get("labels")
    with pytest.raises(MetarlError, match=message):
        few_shot(data(features, labels), **{**settings, "labels": chosen})


def test_a_wrong_attribute_of_labels_is_noticed(features, labels):
    data = Pairs(features, labels)
    data.targets = (labels + 1).tolist()
    with pytest.raises(DataError, match="pass `labels`"):
        few_shot(data, in_memory=False)


def test_a_large_data_set_is_not_read_unasked(labels):
    class Large(Pairs):
        def __len__(self):
            return 1 << 33

    with pytest.raises(SettingsError, match="in_memory=False"):
        few_shot(Large(torch.zeros(1, 100), labels))


class Flips(Pairs):
    """A random transform, with torch's global generator as torchvision's transforms have."""

    def __getitem__(self, row):  # noqa: D105
        features, label = super().__getitem__(row)
        return features if torch.rand(()) < 0.5 else -features, label


@pytest.mark.parametrize("in_memory", [True, False])
def test_random_transforms_of_a_data_set_warn(in_memory, features, labels):
    settings = {"queries": 2, "in_memory": in_memory, "labels": labels}
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="other values when it is read again.*augment_support"):
        FewShotData(Flips(features, labels), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FewShotData(Pairs(features, labels), **settings)
