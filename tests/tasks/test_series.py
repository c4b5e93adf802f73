import warnings
from datetime import UTC, timedelta

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks import Forecasting, check_task_distribution

SIZES = [60, 45, 80, 38, 50, 33, 70, 64]
SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def series():
    """The value at time t of series k is 1000 k + t."""
    return [1000.0 * k + np.arange(size) for k, size in enumerate(SIZES)]


def forecasting(data, *names, **settings):
    defaults = {"history": 5, "horizon": 3, "shots": 4, "queries": 6}
    return Forecasting(data, *names, **{**defaults, **settings})


def sample(tasks, count=300, seed=0):
    return tasks.sample(count, torch.Generator().manual_seed(seed))


def test_windows_are_consecutive_and_the_query_is_later(series):
    tasks = forecasting(series, splits=SPLITS)
    check_task_distribution(tasks)
    batch = sample(tasks)
    number, cut = batch.info["series"], batch.info["cuts"]
    for part, count in ((batch.support, 4), (batch.query, 6)):
        assert part.inputs.shape == (300, count, 5, 1) and part.targets.shape == (300, count, 3)
        windows = torch.cat((part.inputs[..., 0], part.targets), 2)
        assert (windows.diff(dim=2) == 1).all()
        assert torch.equal(windows[:, 0, 0].long() // 1000, number)
        assert all(len(row.unique()) == count for row in windows[:, :, 0])
    times = [part % 1000 for part in (batch.support.targets, batch.query.inputs)]
    assert (times[0].amax((1, 2)) < cut).all() and (times[1].amin((1, 2, 3)) >= cut).all()
    assert (batch.query.targets % 1000).amax((1, 2)).le(torch.tensor(SIZES)[number] - 1).all()


def test_every_cut_and_window_is_reached(series):
    batch = sample(forecasting([series[3] - 3000]), 4000)
    assert set(batch.info["cuts"].tolist()) == set(range(8 + 3, 38 - 8 - 5 + 1))
    assert batch.support.inputs.min() == 0 and batch.query.targets.max() == 37


@pytest.mark.parametrize("kind", [
    "datetime64[s]", "datetime64[ns]", "timedelta64[ns]", "period[h]", "zone", "objects",
    "category",
])  # fmt: skip
def test_times_of_any_kind_order_the_rows(series, kind, recwarn):
    pd = pytest.importorskip("pandas")
    hours = np.concatenate([np.arange(size) for size in SIZES])
    names = np.repeat([f"s{k}" for k in range(len(SIZES))], SIZES)
    frame = pd.DataFrame({"sensor": names, "v": np.concatenate(series)})
    if kind == "datetime64[s]":  # from 1650 to 2300: more than nanoseconds can count
        frame["t"] = np.datetime64("1650-01-01", "s") + hours * np.timedelta64(10 * 365, "D")
    else:
        dates = pd.Series(pd.Timestamp("2020-03-29") + pd.to_timedelta(hours, unit="h"))
        frame["t"] = {
            "datetime64[ns]": lambda: dates.astype("datetime64[ns]"),
            "timedelta64[ns]": lambda: dates - dates[0],
            "period[h]": lambda: dates.dt.to_period("h"),
            "zone": lambda: dates.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
            "objects": lambda: pd.Series(
                [d.replace(tzinfo=UTC) + timedelta(0) for d in dates.dt.to_pydatetime()],
                dtype=object,
            ),
            "category": lambda: dates.astype("category"),
        }[kind]()
    shuffled = frame.sample(frac=1, random_state=0)
    found = sample(forecasting(shuffled, "sensor", "v", time="t"))
    assert torch.equal(found.query.inputs, sample(forecasting(series)).query.inputs)
    assert not [w for w in recwarn if "timezone" in str(w.message)]
    frame.loc[7, "t"] = None
    with pytest.raises(TaskError, match=r"'t' has values that are missing .* row 7"):
        forecasting(frame, "sensor", "v", time="t")


def test_a_table_with_a_column_for_each_series_is_refused():
    pd = pytest.importorskip("pandas")
    wide = pd.DataFrame(np.arange(320.0).reshape(40, 8))
    with pytest.raises(SettingsError, match=r"`table.to_numpy\(\).T`"):
        forecasting(wide)
    assert len(forecasting(wide.to_numpy().T).names) == 8


def test_steps_that_are_longer_than_others_warn(series):
    rows = [(k, t * (k + 1), v) for k, s in enumerate(series) for t, v in enumerate(s)]
    columns = dict(zip(("sensor", "t", "v"), map(np.array, zip(*rows, strict=True)), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each series has another rate
        forecasting(columns, "sensor", "v", time="t")
        days = np.arange("2023-01", "2028-01", dtype="datetime64[M]").astype("datetime64[D]")
        months = {"sensor": np.zeros(60, int), "t": days, "v": np.arange(60.0)}
        forecasting(months, "sensor", "v", time="t")
    keep = ~np.isin(columns["v"], [1010, 1011, 1020, 3005])
    gaps = {name: column[keep] for name, column in columns.items()}
    match = "2 of 8 series have steps of the column 't' .* such as 2 of '1': windows take all steps"
    with pytest.warns(RuntimeWarning, match=match):
        forecasting(gaps, "sensor", "v", time="t")


def test_tables_give_the_same_tasks_in_any_order(series):
    pd = pytest.importorskip("pandas")
    rows = [(f"s{k}", t, v, -v) for k, s in enumerate(series) for t, v in enumerate(s)]
    frame = pd.DataFrame(rows, columns=["sensor", "t", "v", "w"]).sample(frac=1, random_state=0)
    expected, found = (
        sample(forecasting(series)),
        sample(forecasting(frame, "sensor", "v", time="t")),
    )
    assert torch.equal(expected.query.inputs, found.query.inputs)
    both = sample(forecasting(frame, "sensor", ["w", "v"], time="t"))
    assert both.query.targets.shape == (300, 6, 3, 2)
    assert torch.equal(both.query.inputs[..., 1:], expected.query.inputs)
    one = sample(forecasting(frame, "sensor", ["w", "v"], time="t", targets="v"))
    assert torch.equal(one.query.targets, expected.query.targets)
    frame["part"] = np.where(frame["sensor"] == "s2", "test", "train")
    tasks = forecasting(frame, "sensor", "v", time="t", splits="part")
    assert tasks.split("test").names == ("s2",) and len(tasks.names) == 7
    frame.iloc[0, frame.columns.get_loc("part")] = "validation"
    with pytest.raises(TaskError, match="has rows in two splits"):
        forecasting(frame, "sensor", "v", time="t", splits="part")
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(frame["t"], unit="D")
    arrow = pytest.importorskip("pyarrow").Table
    for dates in (days, days.dt.tz_localize("Europe/Vienna"), days.dt.date, days.to_numpy()):
        dated = frame.assign(t=dates)
        for table in (dated, arrow.from_pandas(dated)):
            found = sample(forecasting(table, "sensor", "v", time="t"))
            assert torch.equal(found.query.inputs, expected.query.inputs)
    with pytest.raises(TaskError, match=r"'t' has values that are missing .* row 0"):
        dated = frame.assign(t=days.where(frame.index != frame.index[0]))
        forecasting(dated, "sensor", "v", time="t")
    texts = days.dt.strftime("%Y-%m-%d").where(frame["t"] % 2 == 0, days.astype(str) + "T00:00:00Z")
    found = sample(forecasting(frame.assign(t=texts), "sensor", "v", time="t"))
    assert torch.equal(found.query.inputs, expected.query.inputs)
    with pytest.raises(ShapeError, match=r"got the string '\d+' in row 0: strings would be sorted"):
        forecasting(frame.assign(t=frame["t"].astype(str)), "sensor", "v", time="t")
    twice = pd.concat((frame, frame[5:6]))
    with pytest.raises(TaskError, match=r"has the t \d+ that another row of the series 's\d'"):
        forecasting(twice, "sensor", "v", time="t")


def test_standardisation_and_back(series):
    splits = {"train": [0, 1], "test": [2, 3]}
    tasks = forecasting(series, splits=splits, standardise=True)
    values = np.concatenate(series[:2])
    assert tasks.mean.item() == pytest.approx(values.mean())
    assert tasks.std.item() == pytest.approx(values.std())
    plain = sample(forecasting(series, splits=splits).split("test")).query.targets
    restored = tasks.restore(sample(tasks.split("test")).query.targets)
    torch.testing.assert_close(restored, plain, rtol=1e-5, atol=1e-2)


def test_short_series_are_refused_or_dropped(series):
    with pytest.raises(SettingsError, match=r"windows of 8 values need a series of 35; '5' .* 33"):
        forecasting(series, shots=15)
    tasks = forecasting(series, shots=15, short_series="drop")
    assert tasks.names == ("0", "1", "2", "3", "4", "6", "7")
    with pytest.raises(TaskError, match="no series of at least 120 values"):
        forecasting(series, shots=100, short_series="drop")


def test_arrays_of_equal_length_and_channels():
    values = np.random.default_rng(0).normal(size=(6, 40, 2))
    batch = sample(forecasting(values))
    assert batch.support.inputs.shape == (300, 4, 5, 2)
    assert sample(forecasting(values[..., 0])).support.inputs.shape == (300, 4, 5, 1)


@pytest.mark.parametrize(
    ("data", "settings", "error", "message"),
    [
        (np.zeros(9), {}, ShapeError, r"series \[K, L\]"),
        (np.zeros((3, 40)), {"group": "a"}, SettingsError, "no named columns"),
        ({"a": [1], "b": [2]}, {}, SettingsError, "Expected `group`"),
        ({"a": [1], "b": [2]}, {"group": "a", "values": "c"}, SettingsError, "Unknown column"),
        ({"a": [1], "b": ["x"]}, {"group": "a", "values": "b"}, ShapeError, "got strings"),
        (np.zeros((3, 40)), {"history": 0}, SettingsError, "`history` of at least 1"),
        (np.zeros((3, 40)), {"short_series": "x"}, SettingsError, "Unknown short_series"),
        ([[], [1.0]], {}, ShapeError, "sequence 0 of the series is empty"),
        (
            {"a": [1] * 40, "b": [2.0] * 40},
            {"group": "a", "values": "b", "targets": "c"}, SettingsError, "`targets` among",
        ),
    ],
)  # fmt: skip
def test_bad_data(data, settings, error, message):
    with pytest.raises(error, match=message):
        forecasting(data, **settings)
