import numpy as np
import pytest
import torch

from metarl.errors import DataError, SettingsError, ShapeError, TaskError
from metarl.tasks import GroupedExamples, check_task_distribution

SIZES = [30, 25, 40, 22, 21, 3, 9, 28]
SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def table():
    """Rows of robots in a mixed order; the target encodes the robot and the row."""
    rng = np.random.default_rng(0)
    robots = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    rows = np.arange(len(robots))
    return {
        "robot": np.array([f"r{k}" for k in robots]),
        "a": rng.normal(3.0, 2.0, len(rows)),
        "b": rows.astype(np.int32),
        "y": 1000.0 * robots + rows,
        "z": np.full(len(rows), 5.0),
        "image": rng.integers(0, 255, (len(rows), 1, 4, 4)).astype(np.uint8),
    }


def grouped(table, inputs=("a", "b"), targets=("y",), **settings):
    defaults = {"shots": 6, "queries": 7, "small_groups": "drop"}
    return GroupedExamples(table, "robot", inputs, targets, **{**defaults, **settings})


def sample(tasks, count=100, seed=0):
    return tasks.sample(count, torch.Generator().manual_seed(seed))


def test_the_rows_of_a_task_are_those_of_its_group(table):
    tasks = grouped(table)
    check_task_distribution(tasks, require_splits=False)
    assert tasks.names == ("r0", "r1", "r2", "r3", "r4", "r7") and tasks.left_out == ("r5", "r6")
    batch = sample(tasks)
    assert batch.support.inputs.shape == (100, 6, 2) and batch.query.targets.shape == (100, 7, 1)
    assert batch.support.weights is None
    rows = torch.cat((batch.support.inputs, batch.query.inputs), 1)[..., 1]
    targets = torch.cat((batch.support.targets, batch.query.targets), 1)[..., 0]
    assert torch.equal(targets, 1000.0 * batch.info["groups"].unsqueeze(1) + rows)
    assert all(len(row.unique()) == 13 for row in rows)
    drawn = batch.info["groups"].bincount(minlength=8)
    assert (drawn[[5, 6]] == 0).all() and (drawn[[0, 1, 2, 3, 4, 7]] > 5).all()


def test_splits_are_of_groups(table):
    tasks = grouped(table, small_groups="take", splits=SPLITS)
    check_task_distribution(tasks)
    parts = [set(tasks.split(part).names) for part in SPLITS]
    assert [len(part) for part in parts] == [4, 2, 2] and len(set().union(*parts)) == 8
    part = np.where(table["robot"] == "r3", "test", "train")
    assert grouped({**table, "part": part}, splits="part").split("test").names == ("r3",)
    with pytest.raises(TaskError, match="group 'r1' is in two splits"):
        grouped(table, splits={"train": ["r1", "r2"], "test": ["r1"]})
    with pytest.raises(TaskError, match="validation split has no groups"):
        grouped(table, splits={"train": ["r1"]}).split("validation")


def test_small_groups_are_refused_or_taken(table):
    with pytest.raises(SettingsError, match=r"'r5' of the train split has 3\. .*'drop'.*'take'"):
        grouped(table, small_groups="refuse")
    tasks = grouped(table, small_groups="take")
    batch = sample(tasks, 300)
    size = torch.tensor(SIZES)[batch.info["groups"]]
    known = (size - 1).clamp(max=6)
    assert torch.equal(batch.support.weights.sum(1).long(), known)
    assert torch.equal(batch.query.weights.sum(1).long(), (size - known).clamp(max=7))
    for part in (batch.support, batch.query):
        padding = part.weights == 0
        assert padding.any() and not part.inputs[padding].any() and not part.targets[padding].any()
    shots = sample(grouped(table, fewest_shots=2), 300).support.weights.sum(1)
    assert set(shots.tolist()) == {2, 3, 4, 5, 6}


def test_standardisation_uses_the_training_groups_alone(table):
    splits = {"train": ["r0", "r2", "r3"], "test": ["r1"]}
    tasks = grouped(table, inputs=["a", "b", "z"], splits=splits, standardise=True)
    is_training = np.isin(table["robot"], splits["train"])
    values = np.stack([table[n][is_training] for n in "abz"], 1).astype(np.float64)
    scaling = tasks.scaling
    torch.testing.assert_close(scaling.input_mean, torch.tensor(values.mean(0)).float())
    expected_std = torch.tensor([*values.std(0)[:2], 1.0]).float()
    torch.testing.assert_close(scaling.input_std, expected_std)
    targets = table["y"][is_training]
    torch.testing.assert_close(scaling.target_std, torch.tensor([targets.std()]).float())
    for part in ("train", "test"):
        batch = sample(tasks.split(part))
        plain = sample(grouped(table, inputs=["a", "b", "z"], splits=splits).split(part))
        torch.testing.assert_close(batch.query.inputs, scaling.inputs(plain.query.inputs))
        restored = scaling.restore(batch.query.targets)
        torch.testing.assert_close(restored, plain.query.targets, rtol=1e-5, atol=1e-2)
    many = GroupedExamples(
        {"robot": np.arange(40_000) % 4, "x": np.arange(40_000.0), "y": np.arange(40_000.0)},
        "robot", "x", "y", standardise=True,
    )  # fmt: skip
    assert many.scaling.input_mean.item() == pytest.approx(19_999.5)
    assert many.scaling.input_std.item() == pytest.approx(np.arange(40_000).std(), rel=1e-6)
    with pytest.raises(SettingsError, match="needs training groups"):
        grouped(table, splits={"test": ["r1"]}, standardise=True)


def test_inputs_may_be_arrays_and_sequences(table):
    batch = sample(grouped(table, inputs="image"))
    assert batch.support.inputs.shape == (100, 6, 1, 4, 4) and batch.support.inputs.max() <= 1
    lists = [list(range(1, 2 + i % 4)) for i in range(len(table["a"]))]
    batch = sample(grouped({**table, "list": lists}, inputs="list"))
    assert torch.equal(batch.query.mask, batch.query.inputs > 0)
    with pytest.raises(SettingsError, match="standardise=False"):
        grouped({**table, "list": lists}, inputs="list", standardise=True)


def test_data_frames_and_arrow_tables(table):
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame({name: table[name] for name in ("robot", "a", "b", "y")})
    expected = sample(grouped(table, standardise=True)).query
    for data, in_memory in ((frame, True), (pa.Table.from_pandas(frame), False)):
        found = sample(grouped(data, standardise=True, in_memory=in_memory)).query
        torch.testing.assert_close(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)


def test_inputs_are_augmented_in_training(table):
    tasks = grouped(table, splits={"train": ["r0", "r1"], "test": ["r2", "r3"]},
                    augment_query=lambda x, g: x + 1)  # fmt: skip
    plain = grouped(table, splits={"train": ["r0", "r1"], "test": ["r2", "r3"]})
    assert torch.equal(sample(tasks).query.inputs, sample(plain).query.inputs + 1)
    assert torch.equal(sample(tasks).support.inputs, sample(plain).support.inputs)
    a, b = (sample(t.split("test")).query.inputs for t in (tasks, plain))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        ({}, {"inputs": ["a", "c"]}, SettingsError, "Unknown column 'c'"),
        ({}, {"inputs": []}, SettingsError, "`inputs` as different columns"),
        ({}, {"targets": ["y", "y"]}, SettingsError, "`targets` as different columns"),
        ({}, {"targets": ["a"]}, SettingsError, "'a' twice"),
        ({}, {"inputs": ["robot"]}, SettingsError, "'robot' twice"),
        ({"a": ["x"] * 178}, {}, ShapeError, "'a', got strings"),
        ({"a": ["x"] * 178}, {"inputs": ["a"]}, ShapeError, "'a', got strings; .*categories"),
        ({"y": ["x"] * 178}, {}, ShapeError, "'y', got strings"),
        ({"y": [np.nan] * 178}, {}, TaskError, "'y' has values that are missing .* row 0"),
        ({"b": [1e300] * 178}, {}, DataError, "'b' has values .* too large for float32"),
        ({"robot": [0.5] * 178}, {}, ShapeError, "labels of the group, got float64"),
        ({"robot": [None] * 178}, {}, TaskError, "'robot' has values that are missing"),
        ({}, {"shots": 0}, SettingsError, "`shots` of at least 1"),
        ({}, {"fewest_shots": 9}, SettingsError, "from 1 to the 6 shots"),
        ({}, {"min_examples": 1, "small_groups": "take"}, SettingsError, "`min_examples` of at"),
        ({}, {"min_examples": 99, "small_groups": "take"}, TaskError, "all with too few"),
        ({}, {"small_groups": "dropp"}, SettingsError, "Did you mean 'drop'"),
    ],
)
def test_bad_tables_and_settings(table, change, settings, error, message):
    with pytest.raises(error, match=message):
        grouped({**table, **change}, **settings)


def test_what_is_no_table():
    with pytest.raises(ShapeError, match="Expected a table"):
        grouped(np.zeros((3, 3)))


def test_masked_inputs_as_long_as_there_are_targets_are_refused(table):
    table["steps"] = [[1.0] * (1 + row % 2) for row in range(len(table["y"]))]
    with pytest.raises(SettingsError, match=r"than the 2 targets of an example.* length=3"):
        grouped(table, "steps", ("y", "z"))
    batch = sample(grouped(table, "steps", ("y", "z"), length=3))
    assert batch.support.mask is not None and batch.support.mask.shape[2] == 3
    grouped(table, "steps", "y")
    grouped(table, ("a", "b"), ("y", "z"))
