"""`metarl runs`: states, the best metric, and the health check."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from metarl.commands.runs import is_alive
from metarl.evaluation.curves import AdaptationCurve
from metarl.runs.best import (
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    Best,
    best_value,
)
from metarl.runs.checkpoints import Checkpoints
from metarl.runs.lock import RunLock
from metarl.runs.logger import RunLogger
from metarl.runs.run_folder import EVAL_FILE
from metarl.runs.run_search import newest_run
from metarl.runs.run_state import run_state, run_states
from metarl.tasks.metrics import METRICS


def make_run(root, name, *, iterations=10, done=None, values=(), metric="mse", reported=False):
    """A run folder with validation curves that end in `values`."""
    folder = root / "sine" / "maml" / name
    with RunLogger(folder) as logger:
        for iteration, value in enumerate(values, 1):
            curve = AdaptationCurve(metric, torch.tensor([[9.0], [value]]), False)
            logger.curve(curve, iteration, "eval_validation")
        if reported:
            logger.curve(AdaptationCurve(metric, torch.tensor([[1.0]]), False), iterations)
    (folder / "config.json").write_text(json.dumps({"training": {"iterations": iterations}}))
    if done is not None:
        Checkpoints(folder / "checkpoints").save(done, {}, {})
    return folder


def test_the_states_of_runs(tmp_path):
    finished = make_run(tmp_path, "finished", done=10, reported=True)
    stopped = make_run(tmp_path, "stopped", done=4)
    unreported = make_run(tmp_path, "unreported", done=10)
    empty = make_run(tmp_path, "empty")
    damaged = make_run(tmp_path, "damaged", done=4)
    (damaged / EVAL_FILE).write_text("{\n{}\n")
    states = {s.folder: (s.state, s.iteration, s.iterations) for s in run_states(tmp_path)}
    assert states == {
        finished: ("finished", 10, 10),
        stopped: ("stopped", 4, 10),
        unreported: ("stopped", 10, 10),
        empty: ("empty", 0, 10),
        damaged: ("damaged", 4, 10),
    }
    with RunLock(stopped):
        assert run_state(stopped).state == "training"
    assert "is not JSON" in run_state(damaged).problem


def test_runs_are_found_above_and_below_their_experiment(tmp_path, metarl):
    run = make_run(tmp_path, "run", done=4)
    mine = tmp_path / "mine" / "1"  # as OuterLoop makes it, without settings
    Checkpoints(mine / "checkpoints").save(3, {}, {})
    states = {s.folder: (s.state, s.iteration, s.problem) for s in run_states(tmp_path)}
    assert states == {mine: ("stopped", 3, ""), run: ("stopped", 4, "")}
    for root in (tmp_path / "sine", tmp_path / "sine" / "maml", run):
        assert [s.folder for s in run_states(root)] == [run]
        assert newest_run(root) == run
    assert newest_run(tmp_path / "mine") == newest_run(mine) == mine
    status, printed = metarl("runs", "--runs", tmp_path / "sine")
    assert status == 0 and "maml/run " in printed.out and "checkpoints" not in printed.out


def test_an_experiment_without_its_settings_is_damaged(tmp_path):
    folder = make_run(tmp_path, "run", done=4)
    (folder / "experiment.json").write_text('{"experiment": "sine"}')
    (folder / "config.json").unlink()
    assert "config.json" in run_state(folder).problem


@pytest.mark.parametrize(("metric", "best", "at"), [("mse", 0.5, 2), ("return", 2.0, 3)])
def test_the_best_value_is_the_lowest_error_or_the_highest_return(tmp_path, metric, best, at):
    folder = make_run(tmp_path, "run", values=(1.0, 0.5, 2.0, float("nan")), metric=metric)
    found = run_state(folder).best
    assert (found.metric, found.split, found.value, found.iteration) == (
        metric, "validation", best, at,
    )  # fmt: skip


def test_without_validation_the_report_counts():
    lines = [
        {"iteration": 7, "split": "test_5_shot", "metric": "mse", "mean": [3.0, 1.0]},
        {"iteration": 7, "split": "test_10_shot", "metric": "mse", "mean": [3.0, 0.5]},
    ]
    assert (best_value(lines).split, best_value(lines).value) == ("test_5_shot", 1.0)
    longer = {"iteration": 9, "split": "test_5_shot", "metric": "mse", "mean": [3.0, 0.75]}
    assert best_value([*lines, longer]) == Best("mse", "test_5_shot", 0.75, 9)
    assert best_value([]) is None
    assert (
        best_value([{"iteration": 1, "split": "validation", "metric": "mse", "mean": []}]) is None
    )


def test_the_command_lists_runs_and_leaves_them_as_they_are(metarl, tmp_path):
    make_run(tmp_path, "20260712_103000_s0", done=10, values=(1.0, 0.25), reported=True)
    damaged = make_run(tmp_path, "broken", done=4)
    (damaged / EVAL_FILE).write_text("{\n{}\n")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    status, printed = metarl("runs", "--runs", tmp_path)
    assert status == 0
    (row,) = (line for line in printed.out.splitlines() if "20260712_103000_s0" in line)
    path = tmp_path / "sine" / "maml" / "20260712_103000_s0"  # other commands take it
    assert str(path) in row and "finished" in row and "10/10" in row and "mse 0.25" in row
    assert "is not JSON" in printed.out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_narrow_terminal_keeps_paths_states_and_values_whole(metarl, tmp_path, columns):
    name = "sine mit Ümlaut/learned-optimizer/20260712_103000_s0 [bold]"
    folder = make_run(tmp_path, tmp_path / name, done=10, values=(1.0, 0.25), reported=True)
    (make_run(tmp_path, "broken") / EVAL_FILE).write_text("{\n{}\n")
    printed = metarl("runs", "--runs", tmp_path, columns=columns)[1].out
    (row,) = (line for line in printed.splitlines() if name in line)
    assert folder == tmp_path / name and "finished" in row and "10/10" in row
    assert "0.25" in printed and "…" not in printed


def test_folders_that_hold_nothing_are_empty(tmp_path):
    folder = tmp_path / "sine" / "maml" / "run"
    folder.mkdir(parents=True)
    assert (run_state(folder).state, run_state(folder).problem) == ("empty", "")
    (folder / "notes.txt").touch()
    assert run_state(folder).state == "damaged"


def test_a_damaged_config_is_named(tmp_path):
    folder = make_run(tmp_path, "run")
    (folder / "config.json").write_text("{")
    assert run_state(folder).problem.startswith(f"Cannot read {folder / 'config.json'}: ")


def test_a_folder_that_cannot_be_read_leaves_the_others(tmp_path, monkeypatch):
    secret, gone = make_run(tmp_path, "secret"), make_run(tmp_path, "gone")
    whole = make_run(tmp_path, "whole")
    listed, stat = Path.iterdir, Path.stat

    def iterdir(path):
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    def stated(path, **options):
        if path == gone:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        if path.parent == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "stat", stated)
    states = {s.folder: s for s in run_states(tmp_path)}
    assert {f: s.state for f, s in states.items()} == {secret: "damaged", whole: "empty"}
    assert "Permission denied" in states[secret].problem
    assert states[secret].written <= datetime.now(UTC)


def test_no_runs_are_an_error_that_says_what_to_do(metarl, tmp_path):
    status, printed = metarl("runs", "--runs", tmp_path)
    assert status == 1 and "metarl train sine" in printed.err


def test_a_run_that_hangs_is_not_alive(tmp_path):
    folder = make_run(tmp_path, "run", done=4)
    with RunLock(folder):
        assert is_alive(run_state(folder), 5.0)
        assert not is_alive(run_state(folder), 0.0)
    assert not is_alive(run_state(folder), 5.0)


def test_of_a_metric_of_ones_own_the_newest_value_is_shown(metarl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would leave the value too few columns
    folder = make_run(tmp_path, "run", done=4, values=(0.5, 2.0, 1.0), metric="error_of_the_mean")
    assert run_state(folder).best == Best("error_of_the_mean", "validation", 1.0, 3, True)
    printed = metarl("runs", "--runs", ".")[1].out
    assert "error_of_the_mean 1 (newest)" in printed


def test_the_direction_of_every_metric_with_a_name_is_known():
    known = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
    assert sorted(known) == sorted((*METRICS.names(), "loss", "return"))


def test_the_best_value_is_of_the_first_metric_only():
    lines = [
        {"split": "validation", "iteration": i, "metric": metric, "mean": [9.0, value]}
        for i, loss in ((1, 2.0), (2, 1.0))
        for metric, value in (("rmse", loss), ("mae", loss / 9))
    ]
    assert best_value(lines) == Best("rmse", "validation", 1.0, 2)
