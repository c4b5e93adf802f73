import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metarl.errors import CheckpointError, SettingsError
from metarl.runs.checkpoints import Checkpoints
from metarl.runs.run_search import find_run, named_run, newest_run, run_path


def test_latest_is_the_newest_run_with_a_checkpoint(make):
    make(1, iterations=[9])
    second = make(2, iterations=[3, 4])
    third = make(2, iterations=[1])  # the same second
    make(4)  # died before its first checkpoint
    assert find_run("runs", "sine", "maml").folder == third
    assert third.name == f"{second.name}_2"
    assert find_run("runs", "sine", "maml").checkpoint.name == "step_000001"


def test_a_path_may_be_a_run_or_a_checkpoint(make):
    folder = make(1, iterations=[3, 4])
    old = folder / "checkpoints" / "step_000003"
    paths = [old, old / "meta.json", folder, folder / "checkpoints", folder / "config.json"]
    points = [find_run("runs", "sine", "maml", path) for path in paths]
    assert {p.folder for p in points} == {folder}
    assert [p.checkpoint.name[-1] for p in points] == ["3", "3", "4", "4", "4"]
    assert find_run("runs", "other", "reptile", str(old)).folder == folder


def test_a_missing_run_is_reported_with_those_there_are(make):
    with pytest.raises(CheckpointError, match=r"There are no runs in runs/sine/maml\."):
        find_run("runs", "sine", "maml")
    empty = make(1)
    with pytest.raises(CheckpointError, match=rf"{empty} \(no checkpoint\)"):
        find_run("runs", "sine", "maml")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        find_run("runs", "sine", "maml", empty)
    good = make(2, iterations=[5])
    with pytest.raises(CheckpointError, match=rf"no run folder nowhere.*{good} \(step_000005\)"):
        find_run("runs", "sine", "maml", "nowhere")


def written_at(folder, time):
    """Changes when a run's only checkpoint says that it was written."""
    (meta,) = folder.glob("checkpoints/*/meta.json")
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "time": time}))


def test_latest_is_the_run_that_wrote_last_whatever_its_name(make):
    """Clocks are set back in autumn, and an old run may have been resumed."""
    older, newer = make(50, iterations=[3]), make(1, iterations=[2])
    assert find_run("runs", "sine", "maml").folder == newest_run("runs") == newer
    written_at(older, (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds"))
    assert find_run("runs", "sine", "maml").folder == newest_run("runs") == older
    Checkpoints(newer / "checkpoints").save(9, {}, {})  # resumed, on a machine whose clock is late
    assert find_run("runs", "sine", "maml").folder == older


def test_times_are_compared_in_one_zone(make):
    first, second = make(1, iterations=[1]), make(2, iterations=[1])
    written_at(first, "2026-03-01T12:00:00+00:00")
    written_at(second, "2026-03-01T12:30:00+01:00")
    assert find_run("runs", "sine", "maml").folder == first


@pytest.mark.parametrize("meta", ["", "[]", '{"time": 7}', '{"time": "zzz"}'])
def test_a_run_whose_newest_checkpoint_is_damaged_still_counts(make, meta):
    make(1, iterations=[1])
    damaged = make(2, iterations=[1])
    (damaged / "checkpoints" / "step_000001" / "meta.json").write_text(meta)
    os.utime(damaged / "checkpoints" / "step_000001")
    assert find_run("runs", "sine", "maml").folder == newest_run("runs") == damaged


def test_latest_may_be_the_start_of_a_path(make):
    folder = make(1, iterations=[3, 4])
    assert run_path("latest", "runs") == folder
    old = folder / "checkpoints" / "step_000003"
    assert run_path("latest/checkpoints/step_000003", "runs") == old
    assert find_run("runs", "sine", "maml", "latest/checkpoints/step_000003").checkpoint == old
    assert run_path("elsewhere", "runs") == Path("elsewhere")
    Path("latest/mine").mkdir(parents=True)
    assert run_path("latest/mine", "runs") == Path("latest/mine")
    with pytest.raises(SettingsError, match="Expected `run` to be a path, got 3"):
        run_path(3, "runs")


def validated(folder, values, metric="mse", split="validation"):
    """Writes the curve of a run: the metric after the last step, by iteration."""
    lines = [
        {"iteration": k, "split": split, "metric": metric, "mean": [9.0, value]}
        for k, value in values.items()
    ]
    (folder / "eval.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_best_is_the_checkpoint_of_the_best_validation_value(make):
    folder = make(1, iterations=[3, 4, 5])
    best = folder / "checkpoints" / "step_000004"
    validated(folder, {3: 2.0, 4: 1.0, 5: 1.5})
    assert named_run(folder / "best") == best == named_run(run_path("latest/best", "runs"))
    assert find_run("runs", "sine", "maml", folder / "best") == (folder, best)
    assert find_run("runs", "sine", "maml", "latest/best") == (folder, best)
    validated(folder, {3: 2.0, 4: 1.0, 5: 3.0}, "return")
    assert named_run(folder / "best").name == "step_000005"
    (folder / "best").mkdir()  # a folder of this name is itself
    assert named_run(folder / "best") == folder / "best"


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (({}, "mse"), "Expected curves on validation tasks"),
        (({4: 1.0}, "mine"), "does not say which values are better"),
        (({4: 1.0}, "mse", "test"), "there are none"),
        (({2: 1.0, 4: 2.0}, "mse"), r"meta-iteration 2 \(mse 1\), whose checkpoint was not kept"),
    ],
)
def test_a_run_without_a_best_checkpoint_says_why(make, curve, message):
    folder = make(1, iterations=[3, 4])
    validated(folder, *curve)
    with pytest.raises(CheckpointError, match=message):
        find_run("runs", "sine", "maml", folder / "best")
