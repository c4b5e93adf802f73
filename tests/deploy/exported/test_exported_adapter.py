"""`metarl.load` of exported adaptations: what the learners themselves do."""

import numpy as np
import pytest
import torch

import metarl
from metarl.adaptation import GradientLearner, Pretrained
from metarl.deploy.export.adaptation import export_adaptation
from metarl.errors import CheckpointError, DataError, NonFiniteError, SettingsError, ShapeError
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.tasks.base import Examples
from tests.deploy.export.test_adaptation import (
    assert_same,
    needs_onnx,
    sine_learner,
)


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    needs_onnx()
    generator = torch.Generator().manual_seed(0)
    learner, tasks = sine_learner(generator), Sine(5, 7).sample(2, generator)
    folder = tmp_path_factory.mktemp("sine") / "out"
    record = {"count": [9.0], "low": [-5.0], "high": [5.0], "mean": [0.0], "deviation": [3.0]}
    export_adaptation(learner, folder, tasks=tasks, ranges={"inputs": record})
    return folder, learner, tasks


def test_examples_give_the_predictions_of_the_learner(sine):
    folder, learner, tasks = sine
    adapter = metarl.load(folder)
    for task in range(2):
        support = [t[task] for t in tasks.support[:2]]
        report = adapter.adapt(*support, steps=3)
        assert (report.steps, report.examples) == (3, 5)
        one = Examples(*(t.unsqueeze(0) for t in support))
        *_, adapted = learner.adapt(one, 3, torch.Generator())
        expected = learner.predict(adapted, tasks.query.inputs[task].unsqueeze(0))[0]
        np.testing.assert_allclose(
            adapter.predict(tasks.query.inputs[task]), expected, rtol=1e-5, atol=1e-5
        )
    state = adapter.state()
    assert_same({f"theta.{n}": t.numpy() for n, t in state.items()}, adapted.params)
    adapter.reset()
    assert not np.allclose(adapter.predict(tasks.query.inputs[1]), expected)
    adapter.load_state(state)
    np.testing.assert_allclose(adapter.predict(tasks.query.inputs[1]), expected, atol=1e-5)


def test_a_refused_task_leaves_the_one_before(sine):
    adapter, inputs = metarl.load(sine[0]), np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    adapter.adapt(inputs, inputs, steps=2)
    expected = adapter.predict(inputs)
    with pytest.raises(ShapeError):
        adapter.adapt(inputs[:, 0], inputs)
    np.testing.assert_array_equal(adapter.predict(inputs), expected)
    with pytest.raises(NonFiniteError):  # not at the first step
        adapter.adapt(inputs, 1e15 * inputs, steps=9)
    np.testing.assert_array_equal(adapter.predict(inputs), expected)


def test_restored_weights_are_as_many_steps_from_the_start(sine, tmp_path):
    adapter, inputs = metarl.load(sine[0]), np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    adapter.adapt(inputs, inputs, steps=3)
    adapter.save(tmp_path / "adapted.safetensors")
    other = metarl.load(sine[0])
    other.restore(tmp_path / "adapted.safetensors")
    assert other.program.steps == 3


def test_other_units_warn_with_numbers(sine):
    adapter, degrees = metarl.load(sine[0]), np.linspace(-300, 300, 5, dtype=np.float32)[:, None]
    with pytest.warns(RuntimeWarning, match="-300 to 300, in training -5 to 5"):
        adapter.adapt(degrees, degrees, steps=1)
    with pytest.warns(RuntimeWarning, match="The inputs do not fit"):
        adapter.predict(degrees)


def test_columns_of_a_data_frame_are_found_by_name(sine, tmp_path):
    pandas = pytest.importorskip("pandas")
    _, learner, tasks = sine
    export_adaptation(learner, tmp_path / "out", tasks=tasks, ranges={"columns": ["x"]})
    adapter = metarl.load(tmp_path / "out")
    inputs, targets = (t[0].numpy() for t in tasks.support[:2])
    adapter.adapt(inputs, targets)
    expected = adapter.predict(inputs)
    frame = pandas.DataFrame({"time": np.arange(5.0), "x": inputs[:, 0]}).astype(np.float32)
    adapter.adapt(frame, targets)
    np.testing.assert_array_equal(adapter.predict(frame), expected)
    with pytest.raises(ShapeError, match="columns of training, 'x'; 'x' missing, got 'time'"):
        adapter.predict(frame[["time"]])
    export_adaptation(learner, tmp_path / "y", tasks=tasks, ranges={"target_columns": ["y"]})
    adapter, frame = metarl.load(tmp_path / "y"), frame.assign(y=targets[:, 0])
    adapter.adapt(inputs, frame[["time", "y"]])
    np.testing.assert_array_equal(adapter.predict(inputs), expected)
    with pytest.raises(ShapeError, match="targets with the columns of training, 'y'; 'y' missing"):
        adapter.adapt(inputs, frame[["time"]])


def test_what_an_export_does_not_take_is_refused(sine, robot, tmp_path):
    with pytest.raises(SettingsError, match="seed` and `explore"):
        metarl.load(sine[0], safety=None)
    with pytest.raises(SettingsError, match="call `act`"):
        metarl.load(robot.folder).predict(np.zeros((1, 2)))
    adapter = metarl.load(robot.folder)
    adapter.act(np.zeros(2))
    with pytest.raises(SettingsError, match="that `act` returned"):
        adapter.observe(np.zeros(2), np.ones(2), 0.0, False, False)
    with pytest.raises(DataError, match="Expected actions, rewards"):
        adapter.adapt({"observations": []})
    with pytest.raises(SettingsError, match="Expected trajectories for"):
        adapter.adapt(behaviour="start")
    for file in sine[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "step.onnx").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        metarl.load(tmp_path)


def test_a_pretrained_start_takes_one_step_by_default(generator, tmp_path):
    needs_onnx()
    net, tasks = MLP((1, 4, 1), generator), Sine(5, 7).sample(1, generator)
    learner = GradientLearner(Pretrained(net, inner_lr=0.01))  # no steps in training
    export_adaptation(learner, tmp_path / "out", tasks=tasks)
    assert metarl.load(tmp_path / "out").adapt(*(t[0] for t in tasks.support[:2])).steps == 1
