"""Runs of the library alone are exported by what their learner.json says."""

import numpy as np
import pytest
import torch
from torch import nn

from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.described import describes_itself, example_task
from metarl.deploy.export.files import METADATA, read_metadata
from metarl.deploy.export.policy_run import export_run
from metarl.errors import CheckpointError, SettingsError
from metarl.learners import ZeroShotPrototypes
from metarl.learners.metric.of_modules import embedding_of

SHAPES = {"input_shape": [2, 3], "input_type": "float32", "target_shape": [], "support_examples": 6}
RECORD = {"count": [1.0], "low": [0.0], "high": [1.0], "mean": [0.5], "deviation": [0.3]}


def test_a_supervised_run_is_exported_without_an_experiment(sine_run, tmp_path):
    assert describes_itself(sine_run[1])
    out = tmp_path / "out"
    export_run(sine_run[1], out, "torch", with_adaptation=True)
    metadata = read_metadata(out)
    assert metadata["kind"] == "supervised" and metadata["data"]["input_shape"] == [1]
    assert str(tmp_path) not in (out / METADATA).read_text()
    learner = sine_run[0]
    with pytest.raises(SettingsError, match="`--with adaptation`"):
        export_run(sine_run[1], tmp_path / "net.pt2", "torch")
    step = torch.export.load(out / "step.pt2").module()
    inputs = torch.randn(3, 1)
    *theta, loss = step(*(p.detach() for p in learner.model.parameters()), inputs, inputs.sin())
    assert len(theta) == 4 and np.isfinite(float(loss))


def test_a_memory_is_exported_without_an_experiment(memory_run, tmp_path):
    out = tmp_path / "out"
    export_run(memory_run[1], out, "torch", with_adaptation=True)
    assert read_metadata(out)["kind"] == "recurrent"


def test_examples_have_the_shapes_of_training():
    task = example_task({**SHAPES, "labels": True, "classes": 3, "inputs": RECORD}, 0)
    assert task.support.inputs.shape == (1, 6, 2, 3)
    assert task.support.targets.tolist() == [[0, 1, 2, 0, 1, 2]]
    floats = {**SHAPES, "labels": False, "target_shape": [4], "inputs": RECORD}
    assert example_task(floats, 0).support.targets.shape == (1, 6, 4)
    for ranges in ({}, {**SHAPES, "labels": True}):  # no shapes; padded sequences have no ranges
        with pytest.raises(SettingsError, match="in Python"):
            example_task(ranges, 0)


def test_descriptions_must_be_handed_in(tmp_path):
    learner = ZeroShotPrototypes(embedding_of(nn.Linear(3, 3)), nn.Linear(4, 3))
    tasks = example_task({**SHAPES, "labels": True, "classes": 3, "inputs": RECORD}, 0)
    with pytest.raises(SettingsError, match="descriptions"):
        export_adaptation(learner, tmp_path / "out", "torch", tasks=tasks)


def test_ranges_that_are_none_are_refused(tmp_path, monkeypatch):
    from metarl.deploy.exported import exported_adapter

    class Program:
        kind, metadata = "supervised", {"data": {"inputs": {"low": ["x"]}}}

    monkeypatch.setattr(exported_adapter, "OnnxAdaptation", lambda folder: Program())
    with pytest.raises(CheckpointError, match="ranges of training"):
        exported_adapter.ExportedAdapter(tmp_path)
