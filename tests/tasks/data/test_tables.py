"""Tables of every kind: pandas, Arrow, mappings and files."""

import contextlib
from decimal import Decimal

import numpy as np
import pytest
import torch

from metarl.errors import DataError, MetarlError, SettingsError, ShapeError, TaskError
from metarl.tasks import Characters, FewShotData, Forecasting, GroupedExamples
from metarl.tasks.data import tables
from metarl.tasks.data.tables import numbers, read_column

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
ROWS = 60


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=ROWS),
        "b": rng.integers(0, 9, ROWS),
        "kind": np.array([f"k{i % 6}" for i in range(ROWS)]),
    }


@pytest.fixture
def frame(columns):
    return pd.DataFrame(columns)


def few_shot(table, labels="kind", **settings):
    return FewShotData(table, labels, **{"way": 3, "shots": 2, "queries": 3, **settings})


def inputs_of(tasks):
    return tasks.sample(5, torch.Generator().manual_seed(0)).query.inputs


def written(frame, folder, ending):
    path = folder / f"table{ending}"
    if ending in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    elif ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".feather":
        frame.to_feather(path, compression="uncompressed")
    else:
        table = pa.Table.from_pandas(frame)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 7)
    return path


def test_all_tables_give_the_same_tasks(columns, frame, tmp_path):
    expected = inputs_of(few_shot(columns))
    assert expected.shape == (5, 9, 2)
    table = pa.Table.from_pandas(frame)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 30), table.slice(37)])
    files = [
        written(frame, tmp_path, e) for e in (".csv", ".tsv", ".parquet", ".feather", ".arrow")
    ]
    others = [
        frame, frame.convert_dtypes(), frame.astype({"kind": "category"}), table, chunked,
        frame.set_index(np.arange(ROWS)[::-1]), *files, str(files[0]),
    ]  # fmt: skip
    for other in others:
        assert torch.equal(inputs_of(few_shot(other)), expected)
    for arrow in (table, chunked, files[3], files[4]):
        tasks = few_shot(arrow, in_memory=False)
        assert type(tasks.pool.source).__name__ == "RowReader"
        assert torch.equal(inputs_of(tasks), expected)


def test_columns_can_be_chosen(frame):
    assert inputs_of(few_shot(frame, inputs="a")).shape[2:] == (1,)
    assert torch.equal(
        inputs_of(few_shot(frame, inputs=["b", "a"])).flip(2), inputs_of(few_shot(frame))
    )


@pytest.mark.parametrize("equal", [True, False], ids=["equal lengths", "unequal lengths"])
@pytest.mark.parametrize("channels", [0, 2])
def test_columns_of_lists_are_sequences(frame, equal, channels, tmp_path):
    lengths = [4 if equal else 1 + i % 4 for i in range(ROWS)]
    shape = (channels,) if channels else ()
    lists = [np.arange(n * (channels or 1)).reshape(n, *shape) + i for i, n in enumerate(lengths)]
    expected = few_shot(lists, frame["kind"])
    mask = expected.sample(5, torch.Generator().manual_seed(0)).query.mask
    assert (mask is None) == equal
    frame["signal"] = [part.tolist() for part in lists]
    frame = frame.drop(columns=["a", "b"])
    table = pa.Table.from_pandas(frame)
    for data in (frame, table, written(frame, tmp_path, ".parquet")):
        tasks = few_shot(data, inputs="signal")
        assert torch.equal(inputs_of(tasks), inputs_of(expected))
        found = tasks.sample(5, torch.Generator().manual_seed(0)).query.mask
        assert (found is None) if equal else torch.equal(found, mask)
    on_disk = few_shot(table, inputs="signal", in_memory=False, length=None if equal else 4)
    assert torch.equal(inputs_of(on_disk), inputs_of(expected))


def test_text_columns(frame):
    frame["word"] = ["ab" * (1 + i % 3) for i in range(ROWS)]
    characters = Characters("ab")
    expected = inputs_of(few_shot(frame["word"].tolist(), frame["kind"], characters=characters))
    for data in (frame, pa.Table.from_pandas(frame)):
        tasks = few_shot(data, inputs="word", characters=characters)
        assert torch.equal(inputs_of(tasks), expected)
    with pytest.raises(SettingsError, match=r"Characters\.of"):
        few_shot(frame, inputs="word")
    with pytest.raises(ShapeError, match="'word', got strings; leave it out"):
        few_shot(frame, inputs=["word", "a"])


def test_columns_of_indices(frame):
    frame["c"] = frame["b"] + 1
    tasks = few_shot(frame, inputs=["b", "c"], tokens=True)
    drawn = inputs_of(tasks)
    assert drawn.dtype == torch.int64 and torch.equal(drawn[..., 0] + 1, drawn[..., 1])


def changed(column, row, value):
    def change(frame):
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        (lambda f: f, {"labels": "knd"}, SettingsError, "Did you mean 'kind'"),
        (lambda f: f, {"inputs": ["a", "d"]}, SettingsError, "Unknown column 'd'"),
        (lambda f: f, {"labels": None}, SettingsError, "Expected the column of the classes"),
        (lambda f: f, {"inputs": ["a", "kind"]}, SettingsError, "'kind' has labels or splits"),
        (lambda f: f, {"splits": "part"}, SettingsError, "Unknown column 'part'"),
        (lambda f: f[:0], {}, ShapeError, "no rows"),
        (lambda f: f[["kind"]], {}, SettingsError, "no columns of inputs"),
        (changed("a", 17, np.nan), {}, TaskError, "'a' has values that are missing .* row 17"),
        (changed("a", 3, np.inf), {}, TaskError, "'a' has values that are missing .* row 3"),
        (changed("a", 3, "x"), {}, ShapeError, "in the column 'a', got a mixture of float, str"),
        (changed("kind", 3, None), {}, TaskError, "'kind' has values that are missing .* row 3"),
        (changed("kind", 3, 7), {}, ShapeError, "'kind', got a mixture of int, str"),
        (lambda f: f.assign(t=pd.Timestamp("2020")), {}, ShapeError, "'t', got datetime64"),
        (lambda f: f.assign(**{"": range(60)}), {}, SettingsError, "'' seems to hold the numbers"),
        (lambda f: f.assign(l=[[]] * 60), {"inputs": "l"}, ShapeError, "row 0 .* 'l' is empty"),
        (lambda f: pd.concat([f, f["a"]], axis=1), {}, DataError, "several columns 'a'"),
    ],
)  # fmt: skip
def test_bad_tables(frame, change, settings, error, message):
    with pytest.raises(error, match=message):
        few_shot(change(frame), **settings)
    with contextlib.suppress(pa.ArrowException, ValueError):  # Arrow refuses a mixture itself
        table = pa.Table.from_pandas(change(frame))
        with pytest.raises(MetarlError):
            few_shot(table, **settings)


def test_columns_of_small_integers_are_no_pixels(frame):
    whole = frame.assign(a=np.arange(60) % 256)
    expected = inputs_of(few_shot(whole, inputs="a"))
    for table in (whole.astype({"a": np.uint8}), whole.astype({"a": np.uint16})):
        assert torch.equal(inputs_of(few_shot(table, inputs="a")), expected)
        arrow = pa.Table.from_pandas(table)
        assert torch.equal(inputs_of(few_shot(arrow, inputs="a", in_memory=False)), expected)


def test_columns_of_unequal_length(columns):
    with pytest.raises(ShapeError, match="columns of one length"):
        few_shot({**columns, "a": columns["a"][:9]})


def test_labels_in_another_order_warn(frame, recwarn):
    numbers_of, labels = frame[["a", "b"]], frame["kind"]
    few_shot(numbers_of, labels)
    few_shot(numbers_of, labels.set_axis(range(5, 5 + ROWS)))  # of no row of the data
    few_shot(numbers_of.sample(frac=1, random_state=0), labels.to_numpy())
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match=r"another order.* labels\.loc\[data\.index\]"):
        few_shot(numbers_of.sample(frac=1, random_state=0), labels)


def test_mappings_may_hold_other_things(columns, tmp_path):
    """As those of scikit-learn and the files of NumPy do."""
    expected = inputs_of(few_shot(columns, inputs=["a", "b"]))
    others = {"version": 1, "frame": None, "names": ["ant", "bee"], "DESCR": "a text"}
    assert torch.equal(inputs_of(few_shot(columns | others, inputs=["a", "b"])), expected)
    np.savez(tmp_path / "a.npz", **columns, names=np.array(["ant", "bee"]))
    with np.load(tmp_path / "a.npz") as file:
        assert torch.equal(inputs_of(few_shot(file, inputs=["a", "b"])), expected)
    groups = GroupedExamples(columns | others, "kind", "a", "b", shots=3, queries=3)
    series = Forecasting(columns | others, "kind", "a", 2, 1, 2, 2)
    assert len(groups.names) == len(series.names) == 6
    with pytest.raises(ShapeError, match=r"row in the column 'version', got 1; .*inputs=\["):
        few_shot(columns | others)
    with pytest.raises(ShapeError, match=r"one length, got .*'names': 2.*inputs=\["):
        few_shot(columns | {"names": [1, 2]})


def test_only_arrow_is_read_in_parts(frame):
    with pytest.raises(SettingsError, match="Only Arrow tables"):
        few_shot(frame, in_memory=False)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"table .*none\.csv is missing"):
        few_shot(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder; `ImageFolder`"):
        few_shot(tmp_path)
    with pytest.raises(DataError, match=r"type \.csv, .*\.xlsx"):
        few_shot(tmp_path / "a.xlsx")
    for ending in (".parquet", ".arrow", ".csv"):
        path = tmp_path / f"broken{ending}"
        path.write_bytes(b"\x00\xff\x01broken" * 3 if ending != ".csv" else b"")
        with pytest.raises(DataError, match=rf"Cannot read the table .*broken\{ending}"):
            few_shot(path)


def test_files_need_the_extra(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.csv").write_text("a,kind\n1,x\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'metarl\[data\]'"):
        few_shot(tmp_path / "a.csv")


def test_numbers_of_arrow_types():
    table = pa.table(
        {
            "d": pa.array([1, 2], pa.decimal128(5, 2)),
            "f": pa.array([1.5, 2.5], pa.float16()),
            "o": pa.array([True, False]),
            "u": pa.array([1, 2], pa.uint64()),
            "k": pa.array(["x", "y"]).dictionary_encode(),
            "n": pa.array([1, None], pa.int32()),
            "v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        }
    )
    assert numbers(table, ["d", "f", "o", "u"]).tolist() == [[1, 1.5, 1, 1], [2, 2.5, 0, 2]]
    assert read_column(table, "k").values.tolist() == ["x", "y"]
    assert read_column(table, "v").values.shape == (2, 2)
    with pytest.raises(TaskError, match=r"'n' has values that are missing .* row 1"):
        read_column(table, "n")


def test_an_empty_label_of_a_file_is_missing(frame, tmp_path):
    frame["kind"] = frame["kind"].where(frame["kind"] != "k2", None)
    for ending in (".csv", ".tsv"):
        with pytest.raises(TaskError, match=r"'kind'.*first in row 2"):
            few_shot(written(frame, tmp_path, ending))
    frame["kind"] = frame["kind"].fillna("NA")  # the code of Namibia
    assert "NA" in few_shot(written(frame, tmp_path, ".csv")).names


def test_columns_without_names_are_named_by_their_numbers(columns):
    expected = few_shot(columns)
    frame = pd.DataFrame(dict(enumerate(columns.values())))
    tasks = few_shot(frame, labels=2)
    assert tasks.names == expected.names
    assert torch.equal(inputs_of(tasks), inputs_of(expected))
    assert torch.equal(inputs_of(few_shot(frame, 2, inputs=1)), inputs_of(expected)[..., 1:])
    with pytest.raises(SettingsError, match=r"Unknown column '7'. Known: 0, 1, 2"):
        few_shot(frame, labels=7)
    groups = {"shots": 2, "queries": 2}
    expected = GroupedExamples(columns, "kind", ["a"], ["b"], **groups)
    levels = pd.DataFrame({("all", name): values for name, values in columns.items()})
    for table, names in (
        (frame, (2, [0], 1)),
        (levels, (("all", "kind"), [("all", "a")], ("all", "b"))),
    ):
        tasks = GroupedExamples(table, *names, **groups)
        assert torch.equal(inputs_of(tasks), inputs_of(expected))
    series = {"history": 2, "shots": 1, "queries": 1}
    assert torch.equal(
        inputs_of(Forecasting(frame, 2, 0, **series)),
        inputs_of(Forecasting(columns, "kind", "a", **series)),
    )
    with pytest.raises(SettingsError, match="the values 0, got"):
        Forecasting(frame, 2, 0, targets=[1], **series)


def test_columns_that_give_the_classes_away_warn(frame, tmp_path):
    number = frame["kind"].str[1:].astype(int)
    other = frame.assign(number=10.0 - number)
    with pytest.warns(RuntimeWarning, match="'number' has one value in each class"):
        few_shot(other)
    with pytest.warns(RuntimeWarning, match="'kind_number' has one value in each class"):
        few_shot(frame[["a", "b"]].assign(kind_number=number), number)
    assert inputs_of(few_shot(other, inputs=["a", "number"])).shape == (5, 9, 2)
    few_shot(frame.assign(half=number // 2))  # of two classes each
    frame.set_index(pd.Index(number * 100 + np.arange(ROWS), name="patient")).to_parquet(
        tmp_path / "table.parquet"
    )
    with pytest.raises(SettingsError, match="'patient' seems to hold the numbers of rows"):
        few_shot(tmp_path / "table.parquet")


def test_integers_and_decimals_among_objects(frame):
    expected = inputs_of(few_shot(frame))
    objects = frame.copy()
    for name in frame.columns.drop("kind"):
        objects[name] = [Decimal(repr(float(value))) for value in frame[name]]
    assert torch.equal(inputs_of(few_shot(objects)), expected)
    numbers_of = {kind: 2**60 + number for number, kind in enumerate(frame["kind"].unique())}
    wide = frame.assign(kind=frame["kind"].map(numbers_of).astype(object))
    assert few_shot(wide).pool.names == tuple(map(str, sorted(set(wide["kind"]))))
    flags = frame.assign(kind=np.array([bool(k % 2) for k in range(len(frame))], object))
    assert few_shot(flags, way=2).pool.names == ("False", "True")


def test_a_column_that_is_the_index_is_named(frame):
    with pytest.raises(SettingsError, match=r"'kind' is the index .* `table.reset_index\(\)`"):
        few_shot(frame.set_index("kind"))


def test_thousands_of_columns_are_searched_once(frame, monkeypatch):
    searches = []
    names = tables.column_names
    monkeypatch.setattr(tables, "column_names", lambda table: searches.append(1) or names(table))
    for columns in (4, 40):
        searches.clear()
        wide = pd.DataFrame(np.random.default_rng(0).normal(size=(len(frame), columns)))
        few_shot(wide.assign(kind=frame["kind"].to_numpy()))
        assert len(searches) < 4


def test_several_columns_of_lists_of_indices_are_refused(frame):
    lists = pd.DataFrame({"ids": [[1, 2]] * len(frame), "mask": [[1, 1]] * len(frame)})
    with pytest.raises(ShapeError, match=r"single indices.* got \['ids', 'mask'\]; name one"):
        few_shot(lists.assign(kind=frame["kind"].to_numpy()), tokens=True)


def test_files_of_spreadsheets_are_named(frame, tmp_path):
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    with pytest.raises(DataError, match=r"^Expected fields separated by commas.*has semicolons"):
        few_shot(path)
    for encoding, where in (("utf-16", "its beginning"), ("latin-1", "the column 'kind'")):
        frame.assign(kind="é" + frame["kind"]).to_csv(path, index=False, encoding=encoding)
        with pytest.raises(DataError, match=rf"^Expected the table .* as UTF-8, which {where} is"):
            few_shot(path)
    frame.rename(columns={"kind": "größe"}).to_csv(path, index=False, encoding="latin-1")
    with pytest.raises(DataError, match=r"which its first line is not.*encoding='latin-1'"):
        few_shot(path)


@pytest.mark.parametrize("columns", [{"a", "b"}, frozenset({"a"}), slice(0, 2), True, 2.0])
def test_columns_are_a_name_or_names_in_an_order(columns):
    groups = np.repeat(np.arange(6), 8)
    table = {"a": np.arange(48.0), "b": np.arange(48.0), "y": np.arange(48.0), "group": groups}
    builds = {
        "inputs": [
            lambda: GroupedExamples(table, "group", columns, "y", 2, 2),
            lambda: FewShotData(table, "group", inputs=columns),
        ],
        "targets": [
            lambda: GroupedExamples(table, "group", "y", columns, 2, 2),
            lambda: Forecasting(table, "group", ["a", "b"], 2, 1, 1, 1, targets=columns),
        ],
        "values": [lambda: Forecasting(table, "group", columns, 2, 1, 1, 1)],
    }
    for argument, calls in builds.items():
        for build in calls:
            with pytest.raises(SettingsError, match=f"`{argument}` as .* in their order, got"):
                build()


def test_the_characters_of_an_alphabet_have_an_order():
    for known in ({"a", "b"}, ["ab", "c"]):
        with pytest.raises(SettingsError, match="characters as a text, whose order"):
            Characters(known)
