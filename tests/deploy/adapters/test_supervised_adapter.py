"""Few examples in, predictions out: the same as the learner gives for the same tensors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metarl
from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.adapter import Origin
from metarl.deploy.adapting.supervised import adapt_on_table
from metarl.deploy.loading import adapter_of, load
from metarl.errors import DataError, NonFiniteError, SettingsError, ShapeError, TaskError
from metarl.learners.images.embeddings import ConvEmbedding, ImageShape
from metarl.learners.metric.comparisons import Prototypes
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.models import MLP, Conv4
from metarl.tasks import GroupedExamples
from metarl.tasks.base import Examples, TaskBatch
from metarl.training import OuterLoop, TrainingSettings
from tests.deploy.conftest import train

RNG = np.random.default_rng(0)
X = RNG.uniform(-5, 5, (10, 1)).astype(np.float32)
Y = np.sin(X)


class Shapes:
    """Few-shot images of two kinds of bars, in 0..1."""

    def sample(self, num_tasks, generator):
        images = torch.rand(num_tasks, 6, 1, 16, 16, generator=generator) * 0.2
        labels = torch.arange(6) % 3
        for n, label in enumerate(labels.tolist()):
            images[:, n, 0, 4 * label : 4 * label + 4] += 0.8
        examples = Examples(images, labels.expand(num_tasks, -1))
        return TaskBatch(examples, examples)


def image_learners():
    generator = torch.Generator().manual_seed(0)
    return {
        "gradient": GradientLearner(MAML(Conv4(3, generator, image_size=16, filters=4), 0.1)),
        "metric": MetricLearner(ConvEmbedding(ImageShape(1, 16), generator, 4), Prototypes()),
    }


@pytest.fixture(scope="module")
def image_runs(tmp_path_factory):
    learners = image_learners().items()
    return {n: train(v, Shapes(), tmp_path_factory.mktemp(n))[1] for n, v in learners}


def test_it_gives_what_the_learner_gives(sine_run):
    learner, folder = sine_run
    adapter = metarl.load(folder)
    report = adapter.adapt(X, Y, steps=3)
    support = Examples(torch.from_numpy(X)[None], torch.from_numpy(Y)[None])
    *_, expected = learner.adapt(support, 3, torch.Generator())
    outputs = learner.predict(expected, torch.from_numpy(X)[None])[0]
    np.testing.assert_allclose(adapter.predict(X), outputs, rtol=1e-6)
    assert report.loss_after < report.loss_before and report.steps == 3
    assert np.isclose(report.loss_after, float((outputs - torch.from_numpy(Y)).square().mean()))


def test_networks_with_a_parameter_of_one_number_adapt():
    net = Scaled()
    adapter = adapter_of(GradientLearner(MAML(net, inner_lr=0.1)), Origin("", 0, {}))
    adapter.adapt(X, Y, steps=1)
    loss = (net(torch.from_numpy(X)) - torch.from_numpy(Y)).square().mean()
    (slope,) = torch.autograd.grad(loss, [net.scale])
    assert adapter.state()["scale"].item() == pytest.approx((net.scale - 0.1 * slope).item())


class Scaled(nn.Module):
    """A linear map times a learned number."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(1, 1), nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs):
        return self.scale * self.layer(inputs)


def test_data_come_as_the_user_has_them(sine_run):
    pandas = pytest.importorskip("pandas")
    adapter = metarl.load(sine_run[1])
    frame = pandas.DataFrame({"x": X[:, 0], "y": Y[:, 0]})
    kinds = [
        ((X, Y), {}), ((X[:, 0], Y[:, 0]), {}), ((X.astype(float).tolist(), Y.tolist()), {}),
        ((torch.from_numpy(X), torch.from_numpy(Y)), {}), ((frame[["x"]], frame["y"]), {}),
        ((X.astype(np.longdouble), Y.astype(">f8")), {}), ((X.astype(">f4"), Y), {}),
        (((X, Y),), {}), ((Examples(torch.from_numpy(X), torch.from_numpy(Y)),), {}),
    ]  # fmt: skip
    adapter.adapt(X, Y)
    expected = adapter.predict(X)
    for arguments, options in kinds:
        adapter.reset()
        adapter.adapt(*arguments, **options)
        np.testing.assert_allclose(adapter.predict(X), expected, rtol=1e-6)
    adapter.adapt(X.astype(np.float16), Y)
    np.testing.assert_allclose(adapter.predict(X), expected, rtol=0.01, atol=0.01)


def test_an_adaptation_that_diverges_is_no_prediction(sine_run, image_runs, monkeypatch):
    adapter = metarl.load(sine_run[1])
    adapter.adapt(X, Y)
    with (
        pytest.warns(RuntimeWarning, match="targets do not fit"),
        pytest.raises(NonFiniteError, match="diverged: parameters are not finite"),
    ):
        adapter.adapt(X, 1e6 * Y, steps=300)
    with pytest.raises(SettingsError, match="call `adapt"):
        adapter.predict(X)
    both = np.stack((Y, 1e6 * Y))
    with (
        pytest.warns(RuntimeWarning, match="targets do not fit"),
        pytest.raises(NonFiniteError, match="parameters of task 1 are"),
    ):
        adapter.adapt(np.stack((X, X)), both, steps=300)
    adapter = metarl.load(image_runs["gradient"])
    images = np.random.default_rng(0).random((6, 1, 16, 16))
    adapter.adapt(images, list("abcabc"))
    monkeypatch.setattr(adapter, "outputs", lambda *_, mask: np.full((6, 3), np.nan))
    with pytest.raises(NonFiniteError, match="scores of the classes, some are NaN"):
        adapter.predict(images)


def test_many_tasks_adapt_at_once(sine_run):
    adapter = metarl.load(sine_run[1])
    adapter.adapt(np.stack([X, X]), np.stack([Y, -Y]), steps=5)
    both = adapter.predict(np.stack([X, X]))
    for task, targets in enumerate((Y, -Y)):
        adapter.adapt(X, targets, steps=5)
        np.testing.assert_allclose(adapter.predict(X), both[task], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["gradient", "metric"])
def test_images_and_names_of_classes(kind, image_runs):
    adapter = metarl.load(image_runs[kind])
    tasks = Shapes().sample(1, torch.Generator().manual_seed(3))
    images = tasks.support.inputs[0].clamp(0, 1)
    names = np.array(["low", "middle", "top"])[tasks.support.targets[0]]
    adapter.adapt(images, names, steps=20)
    found = adapter.predict(images)
    assert set(found) <= set(names) and (found == names).mean() > 0.8
    scores = adapter.outputs(images)
    assert scores.shape == (6, 3)
    levels = (images[:, 0].numpy() * 255).round().astype(np.uint8)
    for same in (levels, levels[..., None], list(levels)):  # [N, H, W], [N, H, W, C]
        np.testing.assert_allclose(adapter.outputs(same), scores, atol=0.05 * np.abs(scores).max())


def test_metric_learners_take_any_labels_and_their_number(image_runs):
    adapter = metarl.load(image_runs["metric"])
    images = RNG.random((5, 16, 16)).astype(np.float32)
    adapter.adapt(images, [10, 20, 30, 40, 50])
    assert set(adapter.predict(images)) <= {10, 20, 30, 40, 50}
    with pytest.raises(TaskError, match="at most 3 classes"):
        metarl.load(image_runs["gradient"]).adapt(images, [10, 20, 30, 40, 50])


def test_a_class_without_examples_keeps_its_number(image_runs):
    adapter = metarl.load(image_runs["gradient"])
    images = RNG.random((4, 16, 16)).astype(np.float32)
    adapter.adapt(images, [0, 2, 0, 2], steps=60)
    assert set(adapter.predict(images)) <= {0, 1, 2}
    assert (adapter.predict(images) == 2).any()


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (np.zeros((4, 2, 2)), np.zeros(4), ShapeError, "1 numbers per example, as in training"),
        (np.zeros((4, 2)), np.zeros(4), ShapeError, "as many targets as inputs"),
        (np.zeros((4, 1)), np.zeros(3), ShapeError, "as many targets as inputs"),
        (np.full((4, 1), np.nan), np.zeros(4), ShapeError, "finite support inputs"),
        (np.zeros((4, 1)), np.full(4, np.inf), ShapeError, "finite targets"),
        (np.zeros((4, 1)), np.zeros((4, 2)), ShapeError, "as in training"),
        (np.array([["a"], ["b"]]), np.zeros(2), ShapeError, "Encode categories"),
        (np.zeros((4, 1)), ["a"] * 4, ShapeError, "targets of numbers"),
        (np.zeros((0, 1)), np.zeros(0), ShapeError, "as in training"),
        ([[1], [2, 3]], [1, 2], ShapeError, "one shape"),
        (7, None, ShapeError, "inputs and targets"),
    ],
)
def test_other_data_are_refused(inputs, targets, error, message, sine_run):
    with pytest.raises(error, match=message):
        metarl.load(sine_run[1]).adapt(inputs, targets)


def test_labels_that_are_not_whole_are_refused(image_runs):
    with pytest.raises(ShapeError, match="not whole"):
        metarl.load(image_runs["gradient"]).adapt(np.zeros((2, 16, 16), np.float32), [0.5, 1.0])


def test_a_task_comes_first(sine_run):
    adapter = metarl.load(sine_run[1])
    with pytest.raises(SettingsError, match="call `adapt"):
        adapter.predict(X)
    adapter.adapt(X, Y)
    with pytest.raises(ShapeError, match=r"1 task\(s\)"):
        adapter.predict(np.stack([X, X]))


def test_other_units_warn_with_numbers(sine_run):
    with pytest.warns(RuntimeWarning, match=r"entry 0: .*in training -\d.*deviation [\d.]+\)"):
        metarl.load(sine_run[1]).adapt(180 / np.pi * X, Y)
    with pytest.warns(RuntimeWarning, match="targets do not fit"):
        metarl.load(sine_run[1]).adapt(X, 1000 * Y)
    many = np.linspace(-1, 1, 30)
    with pytest.warns(RuntimeWarning, match="inputs do not fit"):
        metarl.load(sine_run[1]).adapt(many / 1000, np.sin(many))


def test_adapted_weights_are_saved_and_restored(sine_run, image_runs, tmp_path):
    adapter = metarl.load(sine_run[1])
    with pytest.raises(SettingsError, match="of one task"):
        adapter.save(tmp_path / "w.safetensors")
    adapter.adapt(X, Y, steps=4)
    adapter.save(tmp_path / "w.safetensors")
    other = metarl.load(sine_run[1], adapted=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.predict(X), adapter.predict(X))
    metric = metarl.load(image_runs["metric"])
    metric.adapt(RNG.random((3, 16, 16)).astype(np.float32), [0, 1, 2])
    with pytest.raises(SettingsError, match="keep their support set"):
        metric.save(tmp_path / "m.safetensors")


def test_a_learner_of_this_process_adapts_too(generator):
    learner = GradientLearner(MAML(MLP((2, 4, 1), generator), inner_lr=0.1))
    adapter = adapter_of(learner)
    adapter.adapt(np.ones((3, 2), np.float32), np.ones((3, 1), np.float32), steps=50)
    assert adapter.predict(np.ones((1, 2), np.float32))[0, 0] == pytest.approx(1, abs=0.1)


def test_labels_that_are_missing_are_refused(image_runs):
    adapter = metarl.load(image_runs["metric"])
    images = np.zeros((6, 16, 16), np.uint8)
    with pytest.raises(TaskError, match="one kind, names or numbers, got NoneType, str"):
        adapter.adapt(images, ["a", "b", None] * 2)


def test_one_number_is_one_example(sine_run):
    adapter = metarl.load(sine_run[1])
    adapter.adapt([0.5], [0.2])
    assert adapter.predict([0.5]).shape == (1, 1)
    np.testing.assert_allclose(adapter.predict([0.5, 0.6])[:1], adapter.predict([[0.5]]), rtol=1e-5)


class Drawn:
    """Tasks of inputs that a function draws, and of targets that another one computes."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def sample(self, num_tasks, generator):
        x = self.inputs((num_tasks, 12), generator)
        y = self.targets(x)
        return TaskBatch(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def normal(*shape):
    return lambda count, generator: torch.randn(*count, *shape, generator=generator)


def binary(outputs, targets):
    targets = targets.to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs.view_as(targets), targets, reduction="none")


def rates(outputs, targets):
    return F.poisson_nll_loss(outputs.squeeze(-1), targets, reduction="none")


def both(net, tasks, folder, steps=2, **options):
    """An adapter of a run, its learner, and a task."""
    learner, run = train(GradientLearner(MAML(net, 0.1, **options)), tasks, folder)
    own = {"learner": GradientLearner(MAML(net, 0.1, **options))} if options else {}
    task = tasks.sample(1, torch.Generator().manual_seed(1))
    *_, adapted = learner.adapt(task.support, steps, torch.Generator())
    return metarl.load(run, **own), learner.predict(adapted, task.query.inputs)[0].numpy(), task


def test_a_sequence_has_a_label_for_every_element(tmp_path):
    tasks = Drawn(normal(5, 2), lambda x: (x[..., 0] > 0).long() + (x[..., 1] > 0))
    adapter, scores, task = both(nn.Linear(2, 3), tasks, tmp_path)  # more elements than classes
    adapter.adapt(task.support.inputs[0], task.support.targets[0], steps=2)
    found = adapter.predict(task.query.inputs[0])
    np.testing.assert_array_equal(found, scores.argmax(-1))
    assert found.shape == (6, 5)


@pytest.mark.parametrize(
    ("outputs", "targets", "loss"),
    [
        (1, lambda x: (x[..., 0] > 0).long(), binary),
        (3, lambda x: (x > 0).long(), binary),
        (1, lambda x: x[..., 0].exp().long() * 3, rates),
    ],
    ids=["one logit", "several labels", "counts"],
)
def test_whole_numbers_that_are_no_classes(outputs, targets, loss, tmp_path):
    options = {"loss": loss, "metric": "loss"}
    adapter, expected, task = both(nn.Linear(3, outputs), Drawn(normal(3), targets), tmp_path,
                                   **options)  # fmt: skip
    values = task.support.targets[0].numpy()
    adapter.adapt(task.support.inputs[0], values, steps=2)
    np.testing.assert_allclose(adapter.predict(task.query.inputs[0]), expected, rtol=1e-5)
    assert adapter.classes is None
    with pytest.raises(ShapeError, match="targets of numbers"):
        adapter.adapt(task.support.inputs[0], values.astype(str))


def test_logits_of_a_loss_of_the_user_are_those_of_classes(tmp_path):
    options = {"loss": nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)}
    tasks = Drawn(normal(3), lambda x: x.argmax(-1))
    adapter, scores, task = both(nn.Linear(3, 3), tasks, tmp_path, **options)
    inputs, labels = task.support.inputs[0], task.support.targets[0].numpy()
    adapter.adapt(inputs, np.array(["a", "b", "c"])[labels], steps=2)
    queries = task.query.inputs[0]
    np.testing.assert_array_equal(adapter.predict(queries), np.array(list("abc"))[scores.argmax(1)])
    labels[:3] = -100  # ignored by the loss
    adapter.adapt(inputs, labels, steps=2)
    few = adapter.outputs(queries)
    adapter.adapt(inputs[3:], labels[3:], steps=2)
    np.testing.assert_allclose(few, adapter.outputs(queries), rtol=1e-4)


def test_bfloat16_is_given_back_as_float32(tmp_path):
    tasks = Drawn(
        lambda count, g: torch.randn(*count, 3, generator=g).bfloat16(), lambda x: x.argmax(-1)
    )
    net = nn.Linear(3, 3).bfloat16()
    _, run = train(GradientLearner(MAML(net, 0.1)), tasks, tmp_path)
    adapter = metarl.load(run)
    adapter.adapt(np.eye(3), [0, 1, 2], steps=50)
    assert adapter.predict(np.eye(3)).tolist() == [0, 1, 2]
    assert adapter.outputs(np.eye(3)).dtype == np.float32


def test_indices_that_are_not_whole_are_refused(tmp_path):
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 2))
    tasks = Drawn(
        lambda count, g: torch.randint(7, (*count, 2), generator=g), lambda x: x[..., 0] % 2
    )
    _, run = train(GradientLearner(MAML(net, 0.1)), tasks, tmp_path)
    adapter = metarl.load(run)
    adapter.adapt(np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 1])
    with pytest.raises(ShapeError, match="whole numbers, as in training"):
        adapter.predict(np.array([[1.5, 2.0]]))


class Normalised(nn.Sequential):
    """Normalises its batches."""

    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def test_modules_run_in_the_modes_of_training(tmp_path):
    tasks = Drawn(normal(3), lambda x: x.argmax(-1))
    adapter, expected, task = both(Normalised(), tasks, tmp_path / "a")
    adapter.adapt(task.support.inputs[0], task.support.targets[0], steps=2)
    np.testing.assert_allclose(adapter.outputs(task.query.inputs[0]), expected, rtol=1e-5)
    assert adapter.learner.model.net.training
    adapter, expected, task = both(Normalised().eval(), tasks, tmp_path / "b")
    adapter.adapt(task.support.inputs[0], task.support.targets[0], steps=2)
    np.testing.assert_allclose(adapter.outputs(task.query.inputs[0]), expected, rtol=1e-5)


def test_adapted_weights_of_modules_are_restored_with_the_labels(tmp_path):
    tasks = Drawn(normal(3), lambda x: x.argmax(-1))
    names = np.array(["a", "b", "c"])
    for part, net in (("a", nn.Linear(3, 3)), ("b", Normalised().eval())):
        adapter, _, task = both(net, tasks, tmp_path / part)
        queries = task.query.inputs[0]
        adapter.adapt(task.support.inputs[0], names[task.support.targets[0]], steps=2)
        adapter.save(path := tmp_path / f"{part}.safetensors")
        other = metarl.load(tmp_path / part, adapted=path)
        np.testing.assert_array_equal(other.outputs(queries), adapter.outputs(queries))
        np.testing.assert_array_equal(other.predict(queries), adapter.predict(queries))
    with pytest.raises(ValueError, match="labels"):
        other.load_notes({"labels": "[[1]]"})
    adapter, _, task = both(Normalised(), tasks, tmp_path / "c")
    adapter.adapt(task.support.inputs[0], task.support.targets[0])
    adapter.save(tmp_path / "c.safetensors")
    with pytest.raises(SettingsError, match="normalises batches by its support set"):
        metarl.load(tmp_path / "c", adapted=tmp_path / "c.safetensors")


@pytest.mark.parametrize("kind", ["gradient", "metric"])
def test_an_adaptation_that_is_refused_or_interrupted_changes_nothing(
    kind, image_runs, monkeypatch
):
    adapter = metarl.load(image_runs[kind])
    tasks = Shapes().sample(1, torch.Generator().manual_seed(3))
    images = tasks.support.inputs[0].clamp(0, 1)
    adapter.adapt(images, np.array(["low", "middle", "top"])[tasks.support.targets[0]], steps=5)
    expected = adapter.predict(images).tolist()
    with pytest.raises(ShapeError):
        adapter.adapt(images, [[1, 0, 0]] * 6)
    assert adapter.predict(images).tolist() == expected
    with pytest.raises(ShapeError):
        adapter.adapt(torch.stack([images, images]), [[1, 2, 3]])
    assert adapter.predict(images).tolist() == expected

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter.learner, "adapt_to", stopped)
    with pytest.raises(KeyboardInterrupt):
        adapter.adapt(images, ["x", "y", "z", "x", "y", "z"])
    assert adapter.predict(images).tolist() == expected


def test_columns_of_a_table_have_one_order(tmp_path):
    pandas = pytest.importorskip("pandas")
    network = MLP((2, 4, 1), torch.Generator().manual_seed(0))
    rows = RNG.random((4, 2))
    adapter = adapter_of(GradientLearner(MAML(network, 0.1)))
    adapter.adapt(pandas.DataFrame(rows, columns=["angle", "load"]), rows.sum(1, keepdims=True))
    expected = adapter.predict(rows)
    named = pandas.DataFrame(rows, columns=["angle", "load"])
    np.testing.assert_array_equal(adapter.predict(named), expected)
    with pytest.raises(ShapeError, match="columns angle, load in this order"):
        adapter.predict(named[["load", "angle"]])


def other_tables(columns):
    """Yields tables that are no data frames, with these columns in this order."""
    yield columns
    rows = np.zeros(len(columns["load"]), dtype=[(name, float) for name in columns])
    for name, values in columns.items():
        rows[name] = values
    yield rows
    yield pytest.importorskip("pyarrow").table(columns)


def test_a_run_knows_the_columns_of_its_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(RNG.random((40, 4)), columns=["speed", "angle", "load", "y"])
    table["robot"] = [f"r{k % 4}" for k in range(40)]
    tasks = GroupedExamples(
        table, group="robot", inputs=["angle", "load"], targets="y", shots=3, queries=3,
        splits={"train": 0.5, "test": 0.5},
    )  # fmt: skip
    learner = GradientLearner(MAML(MLP((2, 4, 1), torch.Generator().manual_seed(0)), 0.1))
    settings = TrainingSettings(iterations=2, meta_batch_size=2, eval_every=0)
    OuterLoop(learner, tasks, settings, folder=tmp_path / "run").run()
    adapter = load(tmp_path / "run")
    assert adapter.origin.ranges["columns"] == ["angle", "load"]
    support, targets = table[:6], table[["y"]][:6]
    adapter.adapt(support[["angle", "load"]].to_numpy(), targets)
    expected = adapter.predict(table[["angle", "load"]].to_numpy())
    adapter.adapt(support[["load", "speed", "angle"]], targets)  # others are left out
    np.testing.assert_array_equal(adapter.predict(table), expected)
    table[:6].drop(columns="robot").to_csv(tmp_path / "six.csv", index=False)
    table[:6].drop(columns=["robot", "load"]).to_csv(tmp_path / "five.csv", index=False)
    found = adapt_on_table(adapter, tmp_path / "six.csv", "y", 3, 1, 0)
    assert len(found.before) == 3
    for wrong in (table[["angle"]], table.rename(columns={"load": "mass"})):
        with pytest.raises(ShapeError, match="columns of training, 'angle, load'; 'load' missing"):
            adapter.predict(wrong)
    with pytest.raises(DataError, match=r"'angle, load', in .*'load' missing"):
        adapt_on_table(adapter, tmp_path / "five.csv", "y", 3, 1, 0)
    for single in (2.0, np.float32(2.0), torch.tensor(2.0)):
        with pytest.raises(ShapeError, match=r"row in the column 'angle', got .*of a single row"):
            adapter.predict({"angle": single, "load": single})
    for other in other_tables({n: table[n].to_numpy() for n in ("load", "speed", "angle")}):
        adapter.adapt({n: v[:6] for n, v in table.items()}, {"y": table["y"].to_numpy()[:6]})
        np.testing.assert_array_equal(adapter.predict(other), expected)
    with pytest.raises(ShapeError, match="columns of training, 'angle, load'; 'load' missing"):
        adapter.predict({"angle": [0.1]})
    with pytest.raises(TaskError, match="'load' has values that are missing or not finite"):
        adapter.predict({"angle": [0.1], "load": [np.nan]})
    for nameless in (table[["angle", "load"]].to_numpy(), support[["angle", "load"]].values):
        adapter.predict(pandas.DataFrame(nameless))  # numbered columns: in their order
