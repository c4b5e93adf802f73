import json
import math
import os
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from metarl.errors import CheckpointError
from metarl.evaluation.curves import AdaptationCurve
from metarl.runs.eval_file import read_curves
from metarl.runs.event_files import event_files
from metarl.runs.logger import RunLogger, flatten
from metarl.runs.run_curves import compare_runs
from metarl.runs.run_folder import EVAL_FILE
from tests.runs.test_lock import other_process


def events(folder):
    accumulator = EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}
    )
    return accumulator.Reload()


def points(folder, tag):
    return [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events(folder).Scalars(tag)]


@pytest.fixture
def curve():
    values = torch.tensor([[4.0, 2.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.125, 0.25, 0.125]])
    return AdaptationCurve("mse", values, transductive=False)


def test_scalars_are_written(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.scalars({"meta/loss": 0.5, "train/mse/step_0": torch.tensor(2.0)}, 10)
        logger.scalars({"meta/loss": 0.25}, 20)
    assert points(tmp_path, "meta/loss") == [(10, 0.5), (20, 0.25)]
    assert points(tmp_path, "train/mse/step_0") == [(10, 2.0)]


def test_a_curve_becomes_scalars(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        summaries = logger.curve(curve, 100, "eval_validation")
    tag = "eval_validation/mse"
    assert points(tmp_path, f"{tag}/step_0") == [(100, 3.0)]
    assert points(tmp_path, f"{tag}/step_2") == [(100, 0.25)]
    assert points(tmp_path, f"{tag}/iqm") == [(100, 0.1875)]
    for name in ("mean_low", "mean_high", "median", "iqm_low", "iqm_high"):
        assert points(tmp_path, f"{tag}/{name}") == [(100, getattr(summaries[-1], name))]


def test_the_curve_of_a_report_is_one_chart_over_adaptation_steps(tmp_path):
    values = torch.linspace(5, 0, 51).unsqueeze(1).repeat(1, 4)
    with RunLogger(tmp_path) as logger:
        logger.curve(AdaptationCurve("mse", values, False), 100)
        logger.curve(AdaptationCurve("mse", values, False), 100, "eval_icml2017", None, 5000)
    tags = events(tmp_path).Tags()["scalars"]
    assert tags == ["by_adaptation_steps/eval_test/mse", "by_adaptation_steps/eval_icml2017/mse"]
    for tag in tags:
        assert points(tmp_path, tag) == [(k, values[k, 0].item()) for k in range(51)]


def test_a_curve_of_the_last_step_alone_stands_at_that_step(tmp_path):
    curve = AdaptationCurve("accuracy", torch.full((1, 4), 0.5), False, first_step=5)
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 100)
        logger.curve(curve, 100, "eval_validation")
    assert points(tmp_path, "by_adaptation_steps/eval_test/accuracy") == [(5, 0.5)]
    assert points(tmp_path, "eval_validation/accuracy/step_5") == [(100, 0.5)]
    with RunLogger(tmp_path, resume_from=100):
        pass
    assert points(tmp_path, "by_adaptation_steps/eval_test/accuracy") == [(5, 0.5)]
    (run,) = compare_runs([tmp_path], "test").runs
    assert {step: s.mean for step, s in run.adaptation.items()} == {5: 0.5}


def test_a_curve_becomes_a_figure(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 100)
    (image,) = events(tmp_path).Images("adaptation/curve/eval_test")
    assert image.step == 100
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.width > 300


def test_a_curve_becomes_a_line_of_json(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 100, "eval_validation", {"shots": 5})
        logger.curve(curve, 200)
    first, second = read_curves(tmp_path)
    assert (first["iteration"], first["split"], first["shots"]) == (100, "validation", 5)
    assert (first["metric"], first["tasks"], first["transductive"]) == ("mse", 4, False)
    assert first["mean"] == [3.0, 1.0, 0.25]
    assert len(first["iqm_high"]) == 3
    assert second["split"] == "test"
    assert second["mean_low"] == first["mean_low"]  # the same resamples


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    values = torch.tensor([[1.0, 2.0], [1.0, math.nan]])
    with RunLogger(tmp_path) as logger:
        logger.curve(AdaptationCurve("mse", values, True), 1)
    text = (tmp_path / EVAL_FILE).read_text()
    assert "NaN" not in text
    assert json.loads(text)["mean"] == [1.5, None]


def charts(folder):
    """The charts of the layout that TensorBoard shows: the last one written."""
    *_, event = events(folder).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(  # pyright: ignore[reportAttributeAccessIssue]
        event.tensor_proto.string_val[0]
    )
    return [chart for category in layout.category for chart in category.chart]


def found_tags(chart, tags):
    """The tags whose values a chart shows; all that it names must exist."""
    for series in chart.margin.series:
        assert {series.value, series.lower, series.upper} <= set(tags), chart.title
    matches = [[t for t in tags if re.match(p, t)] for p in chart.multiline.tag]
    assert all(matches), chart.title
    return [tag for match in matches for tag in match]


def test_no_chart_of_the_layout_is_empty(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 1, "eval_validation")
        assert len(charts(tmp_path)) == 3
        for shots in (5, 10):
            logger.curve(curve, 2, f"eval_test_{shots}_shot")
    with RunLogger(tmp_path, resume_from=2) as logger:
        logger.curve(curve, 3, "eval_test_20_shot")
    tags = events(tmp_path).Tags()["scalars"]
    steps, mean, iqm, test = charts(tmp_path)
    assert found_tags(steps, tags) == [f"eval_validation/mse/step_{k}" for k in range(3)]
    assert len(mean.margin.series) == len(iqm.margin.series) == 1
    assert found_tags(mean, tags) == found_tags(iqm, tags) == []
    assert found_tags(test, tags) == [
        f"by_adaptation_steps/eval_test_{shots}_shot/mse" for shots in (5, 10, 20)
    ]


@dataclass(frozen=True)
class Settings:
    """Settings."""

    outer_lr: float = 0.1
    clip: float | None = None
    note: str = "a|b"


def test_settings_become_a_table_and_hyper_parameters_in_the_same_folder(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.settings({"training": Settings(), "seed": 3}, metrics=["eval_test/mse/iqm"])
    assert len(list(tmp_path.iterdir())) == 1  # one file of events, no second run folder
    found = events(tmp_path)
    (table,) = found.Tensors("config/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert "|training.outer_lr|0.1|" in text
    assert "|training.note|a\\|b|" in text
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    read = plugin_data_pb2.HParamsPluginData.FromString  # pyright: ignore[reportAttributeAccessIssue]
    start = read(content).session_start_info
    assert start.hparams["training.outer_lr"].number_value == 0.1
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["training.clip"].string_value == "None"


def test_flatten_joins_names():
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_what_came_after_the_checkpoint_does_not_appear_twice(tmp_path, curve):
    """A run to iteration 5, resumed from a checkpoint at 3."""
    with RunLogger(tmp_path) as logger:
        logger.settings(Settings())
        for iteration in range(1, 6):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
            logger.curve(curve, iteration)
    with RunLogger(tmp_path, resume_from=3) as logger:
        for iteration in (4, 5, 6):
            logger.scalars({"meta/loss": 10.0 * iteration}, iteration)
            logger.curve(curve, iteration)
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert points(tmp_path, "meta/loss") == expected
    assert [e.step for e in events(tmp_path).Images("adaptation/curve/eval_test")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert [line["iteration"] for line in read_curves(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len(events(tmp_path).Tensors("config/text_summary")) == 1


def test_the_report_of_a_finished_run_is_not_written_twice(tmp_path, curve):
    for resume_from in (None, 4, 4):
        with RunLogger(tmp_path, resume_from=resume_from) as logger:
            if resume_from is None:
                logger.curve(curve, 4, "eval_validation")
                logger.curve(curve, 2, "eval_test_5_shot", {"shots": 5})
            for shots in (5, 10):
                logger.curve(curve, 4, f"eval_test_{shots}_shot", {"shots": shots})
    lines = [(line["split"], line["iteration"]) for line in read_curves(tmp_path)]
    reported = [("test_5_shot", 4), ("test_10_shot", 4)]
    assert lines == [("validation", 4), ("test_5_shot", 2), *reported]


def written(folder, tag):
    """What all event files hold of a tag, hidden or not."""
    found = []
    for path in event_files(folder):
        accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        if tag in accumulator.Tags()["scalars"]:
            found += [(e.step, pytest.approx(e.value, rel=1e-6)) for e in accumulator.Scalars(tag)]
    return found


def test_no_step_is_written_twice_by_a_resumed_run(tmp_path, curve):
    """Readers that know nothing of TensorBoard's hidden events find each step once, too."""
    with RunLogger(tmp_path) as logger:
        for iteration in range(1, 6):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
    (file,) = event_files(tmp_path)
    before = file.read_bytes()
    with RunLogger(tmp_path, resume_from=5):
        assert file.read_bytes() == before  # unchanged files are not written
    with RunLogger(tmp_path, resume_from=3) as logger:
        logger.scalars({"meta/loss": 40.0}, 4)
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert written(tmp_path, "meta/loss") == points(tmp_path, "meta/loss") == expected
    assert file.read_bytes() == before[: len(file.read_bytes())]


def test_a_report_made_again_replaces_its_events(tmp_path, curve):
    half = AdaptationCurve("mse", curve.values / 2, transductive=False)
    for resume_from, values in ((None, curve), (4, half), (4, half)):
        with RunLogger(tmp_path, resume_from=resume_from) as logger:
            if resume_from is None:
                logger.curve(curve, 4, "eval_validation", environment_steps=100)
            for shots in (5, 10):
                prefix = f"eval_test_{shots}_shot"
                logger.curve(values, 4, prefix, {"shots": shots}, environment_steps=100)
                logger.scalars({f"{prefix}/mse/trial": shots * values.values[0, 0].item()}, 4)
    tag = "eval_validation/mse/step_2"
    assert written(tmp_path, tag) == points(tmp_path, tag) == [(4, 0.25)]
    tag = f"by_environment_steps/{tag}"
    assert written(tmp_path, tag) == points(tmp_path, tag) == [(100, 0.25)]
    for shots in (5, 10):
        tag = f"eval_test_{shots}_shot/mse"
        trial = written(tmp_path, f"{tag}/trial")
        assert trial == points(tmp_path, f"{tag}/trial") == [(4, 2.0 * shots)]
        tag = f"by_adaptation_steps/{tag}"
        assert written(tmp_path, tag) == points(tmp_path, tag) == [(0, 1.5), (1, 0.5), (2, 0.125)]
    assert len(events(tmp_path).Images("adaptation/curve/eval_test_5_shot")) == 1


def test_the_report_before_a_checkpoint_stays_until_the_next_one(tmp_path, curve):
    """A run of 2 iterations, made longer; then resumed again before its report."""
    tag = "by_adaptation_steps/eval_test/mse"
    first, second = [(0, 3.0), (1, 1.0), (2, 0.25)], [(0, 6.0), (1, 2.0), (2, 0.5)]
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 2)
    with RunLogger(tmp_path, resume_from=2) as logger:
        for iteration in (3, 4):
            logger.scalars({"meta/loss": 1.0}, iteration)
    assert written(tmp_path, tag) == points(tmp_path, tag) == first
    with RunLogger(tmp_path, resume_from=3) as logger:
        logger.scalars({"meta/loss": 1.0}, 4)
        logger.curve(AdaptationCurve("mse", curve.values * 2, transductive=False), 4)
    assert written(tmp_path, tag) == points(tmp_path, tag) == second
    with RunLogger(tmp_path, resume_from=3):
        pass  # the report of iteration 4 is of a left future
    assert written(tmp_path, tag) == points(tmp_path, tag) == first


def test_each_metric_of_a_curve_has_its_charts_and_its_line(tmp_path, curve):
    both = AdaptationCurve("mse", curve.values, False, others={"mae": curve.values / 2})
    with RunLogger(tmp_path) as logger:
        logger.curve(both, 4, "eval_validation", environment_steps=100)
        logger.curve(both, 4)
    assert points(tmp_path, "eval_validation/mae/step_2") == [(4, 0.125)]
    assert points(tmp_path, "by_environment_steps/eval_validation/mae/step_2") == [(100, 0.125)]
    assert points(tmp_path, "by_adaptation_steps/eval_test/mae") == [(0, 1.5), (1, 0.5), (2, 0.125)]
    lines = [(line["split"], line["metric"]) for line in read_curves(tmp_path)]
    assert lines == [(s, m) for s in ("validation", "test") for m in ("mse", "mae")]
    tags = events(tmp_path).Tags()["scalars"]
    found = [found_tags(chart, tags) for chart in charts(tmp_path)]
    assert found[-2:] == [[f"by_adaptation_steps/eval_test/{m}"] for m in ("mse", "mae")]
    assert [f"eval_validation/mae/step_{k}" for k in range(3)] in found
    assert len(events(tmp_path).Images("adaptation/curve/eval_test_mae")) == 1


@pytest.mark.parametrize("lost", [1, 4, 20, 43])
def test_a_log_cut_within_an_event_is_readable_and_resumes(tmp_path, lost):
    with RunLogger(tmp_path) as logger:
        for iteration in (1, 2):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
    (file,) = event_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-lost])
    assert points(tmp_path, "meta/loss") == [(1, 1.0)]
    with RunLogger(tmp_path, resume_from=2) as logger:
        logger.scalars({"meta/loss": 3.0}, 3)
    assert points(tmp_path, "meta/loss") == [(1, 1.0), (3, 3.0)]


def test_a_damaged_event_ends_its_file(tmp_path):
    with RunLogger(tmp_path) as logger:
        for iteration in (1, 2, 3):
            logger.scalars({"meta/loss": float(iteration)}, iteration)
    (file,) = event_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[data.rindex(b"meta/loss") - 20] ^= 255  # in the last event, or the head before it
    file.write_bytes(data)
    with RunLogger(tmp_path, resume_from=3) as logger:
        logger.scalars({"meta/loss": 4.0}, 4)
    assert points(tmp_path, "meta/loss")[:2] == [(1, 1.0), (2, 2.0)]


def test_events_and_a_line_cut_by_a_crash_are_dropped(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        logger.scalars({"meta/loss": 1.0}, 1)
        logger.curve(curve, 1)
        logger.scalars({"meta/loss": 2.0}, 2)
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-5])
    with (tmp_path / EVAL_FILE).open("a") as lines:
        lines.write('{"iteration": 1, "spl')
    with RunLogger(tmp_path, resume_from=1) as logger:
        logger.scalars({"meta/loss": 3.0}, 2)
        logger.curve(curve, 2)
    assert points(tmp_path, "meta/loss") == [(1, 1.0), (2, 3.0)]
    assert [line["iteration"] for line in read_curves(tmp_path)] == [1, 2]


def test_a_damaged_line_before_the_last_is_reported(tmp_path):
    (tmp_path / EVAL_FILE).write_text('{"iteration": 1\n{"iteration": 2}\n')
    with pytest.raises(CheckpointError, match=r"Line 1 of .*eval\.jsonl is not JSON"):
        RunLogger(tmp_path, resume_from=2)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot write to the run folder"):
        RunLogger(tmp_path / "file" / "run")


def test_equal_curves_have_equal_intervals(tmp_path):
    values = torch.from_numpy(np.random.default_rng(0).random((2, 50)))
    curve = AdaptationCurve("accuracy", values, True)
    with RunLogger(tmp_path) as logger:
        assert logger.curve(curve, 1) == logger.curve(curve, 2)


def test_curves_that_are_repeated_are_over_iterations(tmp_path, curve):
    with RunLogger(tmp_path, repeated=["eval_mine"]) as logger:
        logger.curve(curve, 1, "eval_mine")
        logger.curve(curve, 2, "eval_mine")
    assert points(tmp_path, "eval_mine/mse/step_2") == [(1, 0.25), (2, 0.25)]
    assert len(charts(tmp_path)) == 3


def test_curves_by_environment_steps_outlive_resuming(tmp_path, curve):
    tag = "by_environment_steps/eval_validation/mse/step_2"
    with RunLogger(tmp_path) as logger:
        for iteration, steps in ((10, 5), (20, 4000), (30, 6000)):
            logger.curve(curve, iteration, "eval_validation", environment_steps=steps)
    assert points(tmp_path, tag) == [(5, 0.25), (4000, 0.25), (6000, 0.25)]
    with RunLogger(tmp_path, resume_from=20) as logger:  # iteration 30 is of a left future
        logger.curve(curve, 40, "eval_validation", environment_steps=7000)
    assert points(tmp_path, tag) == [(5, 0.25), (4000, 0.25), (7000, 0.25)]
    assert [line["environment_steps"] for line in read_curves(tmp_path)] == [5, 4000, 7000]


def test_supervised_curves_count_no_environment_steps(tmp_path, curve):
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 10)
    assert not [tag for tag in events(tmp_path).Tags()["scalars"] if "environment" in tag]
    assert "environment_steps" not in read_curves(tmp_path)[0]


def test_an_image_is_written(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.image("paths", np.zeros((100, 200, 3), np.uint8), 7)
    (image,) = events(tmp_path).Images("adaptation/paths")
    assert (image.step, image.width, image.height) == (7, 200, 100)


def test_a_full_disk_is_reported_once_and_cuts_no_line(tmp_path, curve, monkeypatch):
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 1)
        before = (tmp_path / EVAL_FILE).read_text()

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"Cannot write to the run .*No space left"):
            logger.curve(curve, 2)
    assert (tmp_path / EVAL_FILE).read_text() == before
    assert not list(tmp_path.glob(".*"))


def test_a_line_after_one_that_was_cut_is_whole(tmp_path, curve):
    (tmp_path / EVAL_FILE).write_text('{"iteration": 1}\n{"iter')
    with RunLogger(tmp_path) as logger:
        logger.curve(curve, 2)
    assert [line["iteration"] for line in read_curves(tmp_path)] == [1, 2]


def test_writing_after_closing_locks_the_folder_again(tmp_path):
    logger = RunLogger(tmp_path)
    logger.close()
    with other_process(tmp_path):
        logger.close()
        with pytest.raises(CheckpointError, match="Another process"):
            logger.scalars({"x": 1.0}, 1)
    logger.scalars({"x": 2.0}, 1)
    logger.close()
    assert points(tmp_path, "x") == [(1, 2.0)]
