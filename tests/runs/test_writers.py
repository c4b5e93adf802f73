"""Loggers besides TensorBoard: CSV, trackers, and those of users."""

import csv
import importlib
import json
import math
import os
import sys

import numpy as np
import pytest
import torch

from metarl.errors import CheckpointError, SettingsError, UnknownNameError
from metarl.evaluation.curves import AdaptationCurve
from metarl.runs.csv_writer import CSV_FILE
from metarl.runs.logger import RunLogger
from metarl.runs.writer import Writer
from metarl.training import TrainingSettings

CURVE = AdaptationCurve("mse", torch.tensor([[4.0, 2.0], [1.0, 1.0]]), transductive=False)


def rows(folder):
    with (folder / CSV_FILE).open(encoding="utf-8", newline="") as file:
        return [(int(r["step"]), r["tag"], float(r["value"])) for r in csv.DictReader(file)]


def test_csv_has_a_row_per_number(tmp_path):
    with RunLogger(tmp_path, loggers=["csv", "csv"]) as logger:
        logger.scalars({"meta/loss": 0.5, 'a,"b"': torch.tensor(2.0)}, 10)
        logger.curve(CURVE, 20)
    tag = "by_adaptation_steps/eval_test/mse"
    assert rows(tmp_path) == [
        (10, "meta/loss", 0.5),
        (10, 'a,"b"', 2.0),
        (0, tag, 3.0),
        (1, tag, 1),
    ]


def test_csv_drops_what_came_after_the_checkpoint(tmp_path):
    with RunLogger(tmp_path, loggers=["csv"]) as logger:
        for iteration in (1, 2, 3):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
    with (tmp_path / CSV_FILE).open("a", encoding="utf-8") as file:
        file.write("1,meta/lo")  # cut by a crash
    with RunLogger(tmp_path, resume_from=2, loggers=["csv"]) as logger:
        logger.scalars({"meta/loss": math.nan}, 3)
    *kept, last = rows(tmp_path)
    assert kept == [(1, "meta/loss", 1.0), (2, "meta/loss", 2.0)]
    assert last[:2] == (3, "meta/loss") and math.isnan(last[2])


def test_a_report_that_is_written_again_replaces_its_rows(tmp_path):
    def report(logger):
        logger.curve(CURVE, 3)
        logger.scalars({"eval_test/return/trial": 1.0}, 3)

    with RunLogger(tmp_path, loggers=["csv"]) as logger:
        for iteration in (1, 2, 3):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
        report(logger)
    before = rows(tmp_path)
    assert len(before) == 3 + 2 + 1
    with RunLogger(tmp_path, resume_from=3, loggers=["csv"]) as logger:
        assert rows(tmp_path) == before
        report(logger)
    assert sorted(rows(tmp_path)) == sorted(before)
    with RunLogger(tmp_path, resume_from=1, loggers=["csv"]) as logger:
        pass
    assert rows(tmp_path) == [(1, "meta/loss", 1.0)]  # the report was one of iteration 3


def test_a_csv_file_that_cannot_be_written_is_reported_once(tmp_path):
    with RunLogger(tmp_path, loggers=["csv"]) as logger:
        (tmp_path / CSV_FILE).unlink()
        (tmp_path / CSV_FILE).mkdir()
        with pytest.raises(CheckpointError, match=r"Cannot write .*metrics\.csv"):
            logger.scalars({"x": 1.0}, 1)


class Broken(Writer):
    """Stands for a tracker that is out of reach."""

    def __init__(self, run):
        if run.name.endswith("locked"):
            raise PermissionError("no such key")

    def scalars(self, values, step):
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_is_left_out_with_a_warning(tmp_path):
    loggers = [f"{__name__}:Broken", "csv"]
    with RunLogger(tmp_path, loggers=loggers) as logger:
        with pytest.warns(RuntimeWarning, match=r"Broken failed, .* no route to host"):
            logger.scalars({"x": 1.0}, 1)
        logger.scalars({"x": 2.0}, 2)
    assert rows(tmp_path) == [(1, "x", 1.0), (2, "x", 2.0)]


class NoWriter:
    """Has not the methods of a writer."""

    def __init__(self, run):
        self.scalars = lambda values, step: None


def test_a_class_that_is_no_writer_stops_the_run_before_it_trains(tmp_path):
    with pytest.raises(SettingsError, match=r"NoWriter without settings, image, film, flush"):
        RunLogger(tmp_path, loggers=[f"{__name__}:NoWriter"])


def test_a_tracker_that_cannot_start_stops_the_run_before_it_trains(tmp_path):
    with pytest.raises(SettingsError, match=r"Broken' cannot start: PermissionError: no such key"):
        RunLogger(tmp_path / "locked", loggers=[f"{__name__}:Broken"])


def test_a_tracker_that_cannot_start_leaves_the_curves_of_the_run(tmp_path):
    folder = tmp_path / "locked"
    with RunLogger(folder) as logger:
        for iteration in range(1, 4):
            logger.curve(CURVE, iteration, "eval_validation")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SettingsError, match="cannot start"):
        RunLogger(folder, resume_from=1, loggers=[f"{__name__}:Broken"])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unknown_logger_is_refused_with_the_settings(tmp_path):
    with pytest.raises(SettingsError, match=r"Did you mean 'wandb'\? Known: csv, wandb, mlflow"):
        TrainingSettings(loggers=("wandbb",))
    with pytest.raises(UnknownNameError, match="Unknown logger"):
        RunLogger(tmp_path, loggers=["tensorbord"])
    assert TrainingSettings(loggers=("csv", "mine:Writer")).loggers == ("csv", "mine:Writer")


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SettingsError, match=rf"pip install 'metarl\[{name}\]'"):
            RunLogger(tmp_path, loggers=[name])


def write_everything(folder, logger, resume_from=None):
    """Writes one of each kind, as a training and its report do."""
    with RunLogger(folder, resume_from=resume_from, loggers=[logger]) as run:
        run.settings({"training": {"seed": 3, "loggers": (logger,)}}, ["eval_validation/mse/mean"])
        for iteration in range(1, 4):
            run.scalars({"meta/loss": 1.0 / iteration}, (resume_from or 0) + iteration)
        run.curve(CURVE, (resume_from or 0) + 3, "eval_validation")
        run.curve(CURVE, (resume_from or 0) + 3)
        frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
        run.frames("adaptation", frames, 2.0, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "sine" / "maml" / "run"
    write_everything(folder, "wandb")
    write_everything(folder, "wandb", resume_from=3)
    identity = (folder / "wandb_id.txt").read_text().strip()
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{identity}"] * len(files) and files
    found = {}
    for record in records(files[0]):
        if record.WhichOneof("record_type") == "history":
            values = {
                item.key or "/".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "meta/loss" in values:
                found[int(values["step"])] = json.loads(values["meta/loss"])
    assert found == {k: pytest.approx(1 / k) for k in (1, 2, 3)}


def records(path):
    """Yields the records of a file that `wandb sync` uploads: LevelDB's log format."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, parts = path.read_bytes(), 7, b""  # a header of 7 bytes
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the rest of a block is padding
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = messages.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "sine" / "maml" / "run"
    write_everything(folder, "mlflow")
    write_everything(folder, "mlflow", resume_from=3)
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (folder / "mlflow_run.txt").read_text().strip()
    assert run.info.status == "FINISHED" and run.info.run_name == "sine/maml/run"
    assert run.data.params["training.seed"] == "3"
    losses = client.get_metric_history(run.info.run_id, "meta/loss")
    assert [(m.step, m.value) for m in losses] == [
        (start + k, pytest.approx(1 / k)) for start in (0, 3) for k in (1, 2, 3)
    ]
    curve = client.get_metric_history(run.info.run_id, "by_adaptation_steps/eval_test/mse")
    assert [(m.step, m.value) for m in curve][:2] == [(0, 3.0), (1, 1.0)]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "adaptation")}
    assert "adaptation/adaptation.gif" in names


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_csv_file_that_never_ends_is_refused_at_once(tmp_path, kind):
    if kind == "fifo":
        os.mkfifo(tmp_path / CSV_FILE)
    else:
        (tmp_path / CSV_FILE).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="expected a regular file"):
        RunLogger(tmp_path, resume_from=2, loggers=["csv"])


def test_rows_of_other_contents_are_left_out(tmp_path):
    odd = ["\u00b2,a,1", f"{'9' * 5000},a,1", f"1,{'x' * 200_000},1", "-1,a,1", "1,a", '"', "\0"]
    (tmp_path / CSV_FILE).write_text("\n".join(["step,tag,value", *odd, "1,a,2.5", "2,a"]))
    with RunLogger(tmp_path, resume_from=2, loggers=["csv"]):
        pass
    assert (tmp_path / CSV_FILE).read_text().splitlines() == ["step,tag,value", "1,a,2.5"]
