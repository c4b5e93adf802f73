"""The learner of streams: what it may see at a step, its loss, and its accuracy by instance."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.evaluation.curves import adaptation_curve
from metarl.learners import ImageShape, StreamReader, Thumbnail
from metarl.learners.images.embeddings import Embedding
from metarl.learners.memory.networks import MemoryAugmentedOptions
from metarl.runs.checkpoints import load_checkpoint
from metarl.tasks import Examples, Sine, TaskBatch
from metarl.tasks.distortions import distort
from metarl.tasks.streams import LabelCode, Streams, earlier_instances
from metarl.training.loop import OuterLoop
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from tests.learners.memory.test_sequences import SETTINGS

SMALL = {**SETTINGS, "mann": replace(SETTINGS["mann"], slots=12)}
NAMES = ("mann", "lstm", "feedforward")


def streams_of(glyphs, labels="one-hot"):
    return Streams(glyphs, labels)  # 3 classes, 4 instances of each


def build(name, streams, augment=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embedding = Thumbnail(ImageShape(), 7)
    width = streams.code.width
    network = SMALL[name].make(embedding.features + width, width, generator)
    return StreamReader(embedding, network, streams.code, augment)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=["one-hot", "strings"])
def streams(request, glyphs):
    return streams_of(glyphs, request.param)


def test_no_answer_sees_its_own_label_or_a_later_one(name, streams, generator):
    learner, stream = build(name, streams), streams.sample(2, generator).query
    before = learner.outputs(stream)
    for t in range(streams.length):
        changed = stream.targets.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 3
        after = learner.outputs(stream._replace(targets=changed))
        assert torch.equal(after[:, : t + 1], before[:, : t + 1]), t
        if t + 1 < streams.length:
            assert not torch.equal(after[:, t + 1], before[:, t + 1]), "the label before is seen"


def test_the_loss_is_the_entropy_of_the_whole_label(name, streams, generator):
    learner, tasks = build(name, streams), streams.sample(2, generator)
    result = learner(learner.collect(tasks, generator, 0))
    logits, code = learner.outputs(tasks.query), streams.code
    letters = code.spell(tasks.query.targets)
    expected = sum(
        F.cross_entropy(logits[:, t, c], letters[:, t, c], reduction="none")
        for t in range(streams.length)
        for c in range(code.characters)
    )
    torch.testing.assert_close(result.losses, expected / streams.length)


def test_a_string_is_right_if_all_of_its_letters_are(glyphs, generator):
    streams = streams_of(glyphs, "strings")
    learner, tasks = build("mann", streams), streams.sample(2, generator)
    letters = streams.code.spell(tasks.query.targets)
    answers = F.one_hot(letters, 5).float()
    answers[0, :, 4] = answers[0, :, 4].roll(1, dims=-1)  # the last letter of all is wrong
    learner._read = lambda stream, moments: answers
    for right in learner.evaluate(tasks, 3, generator):
        assert right.tolist() == [0, 1]


def test_accuracy_by_instance_is_counted_example_by_example(name, streams, generator):
    learner, tasks = build(name, streams), streams.sample(4, generator)
    answers = learner.outputs(tasks.query).argmax(3)
    letters = streams.code.spell(tasks.query.targets)
    expected = torch.zeros(4, 4)
    for t in range(4):
        seen = {}
        for i, label in enumerate(tasks.query.targets[t].tolist()):
            instance = seen[label] = seen.get(label, -1) + 1
            expected[instance, t] += torch.equal(answers[t, i], letters[t, i]) / 3
    rows = list(learner.evaluate(tasks, 3, generator))
    torch.testing.assert_close(torch.stack(rows), expected)
    metrics = learner(learner.collect(tasks, generator, 0)).metrics
    torch.testing.assert_close(metrics, {"train/accuracy/step_1": expected[1]})


def test_its_curve_has_a_row_for_each_instance(name, streams, generator):
    curve = adaptation_curve(
        build(name, streams), streams, num_tasks=5, steps=3, generator=generator, chunk_size=2
    )
    assert curve.metric == "accuracy" and curve.values.shape == (4, 5)
    assert ((curve.values >= 0) & (curve.values <= 1)).all()


class Given(Embedding):
    """Inputs that are features already."""

    def forward(self, images, moments):
        return images


@pytest.mark.slow
def test_it_learns_to_remember(generator):
    """Noisy signs, under labels that say nothing: an LSTM does not learn it by then."""
    classes, instances, width = 4, 5, 16
    memory = MemoryAugmentedOptions(units=64, slots=32, width=20, reads=2)
    network = memory.make(width + classes, classes, generator)
    learner = StreamReader(Given(), network, LabelCode(1, classes))
    step = MetaStep(learner, TrainingSettings(outer_lr=3e-3, max_grad_norm=10.0))

    def sample(count):
        signs = torch.randn(count, classes, width, generator=generator).sign()
        order = torch.rand(count, classes * instances, generator=generator).argsort(1) // instances
        inputs = signs[torch.arange(count).unsqueeze(1), order]
        noise = 0.3 * torch.randn(inputs.shape, generator=generator)
        stream = Examples(inputs + noise, order)
        return TaskBatch(stream, stream, {})

    for i in range(800):
        step(learner.collect(sample(16), generator, i), i)
    rows = [r.mean().item() for r in learner.evaluate(sample(200), 4, generator)]
    assert rows[0] < 0.65 and rows[4] > 0.75, rows


def test_distortions_are_of_training_only(glyphs, generator):
    streams = streams_of(glyphs)
    tasks = streams.sample(2, generator)
    inputs = build("mann", streams, distort).collect(tasks, generator, 0).tasks
    assert inputs.support is inputs.query
    assert not torch.equal(inputs.query.inputs, tasks.query.inputs)
    assert torch.equal(inputs.query.targets, tasks.query.targets)
    assert build("mann", streams).collect(tasks, generator, 0).tasks is tasks


def test_chunks_change_nothing_and_a_stopped_run_resumes_to_the_bit(name, glyphs, tmp_path):
    streams = streams_of(glyphs)

    def train(folder, iterations, resume=None, **changes):
        settings = TrainingSettings(iterations, meta_batch_size=4, **changes)
        loop = OuterLoop(
            build(name, streams, distort), streams, settings, tmp_path / folder, resume=resume
        )
        loop.run()
        loop.logger.close()
        latest = loop.checkpoints.latest()
        return load_checkpoint(latest).weights, latest

    _, half = train("cut", 3)
    resumed, _ = train("cut", 6, half)
    whole, _ = train("whole", 6)
    chunked, _ = train("chunked", 6, task_chunk_size=3)
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
        torch.testing.assert_close(chunked[key], value, rtol=2e-4, atol=2e-5, msg=key)


def test_more_steps_than_instances_are_refused(streams, generator):
    with pytest.raises(SettingsError, match="at most 3 steps: classes come 4 times"):
        next(build("mann", streams).evaluate(streams.sample(2, generator), 4, generator))


def test_labels_of_another_code_are_refused(glyphs, generator):
    learner = build("mann", streams_of(glyphs))
    with pytest.raises(TaskError, match="labels from 0 to 2, got"):
        learner.collect(streams_of(glyphs, "strings").sample(2, generator), generator, 0)
    with pytest.raises(TaskError, match="integer labels"):
        learner.collect(Sine(4, 4).sample(2, generator), generator, 0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_integer_type(streams, dtype, generator):
    learner, tasks = build("mann", streams), streams.sample(2, generator)
    if streams.code.size > 256 and dtype == torch.uint8:
        pytest.skip("its labels do not fit")
    stream = tasks.query._replace(targets=tasks.query.targets.to(dtype))
    other = replace(tasks, support=stream, query=stream)
    losses, expected = (learner(learner.collect(t, generator, 0)).losses for t in (other, tasks))
    assert torch.equal(losses, expected)
    assert torch.equal(learner.outputs(stream), learner.outputs(tasks.query))
    for found, right in zip(
        learner.evaluate(other, 1, generator), learner.evaluate(tasks, 1, generator), strict=True
    ):
        assert torch.equal(found, right)


def test_labels_below_0_and_other_types_are_refused(streams, generator):
    learner, tasks = build("lstm", streams), streams.sample(2, generator)
    tasks.query.targets[0, 1] = -100
    for call in (learner.collect, lambda *_: next(learner.evaluate(tasks, 1, generator))):
        with pytest.raises(TaskError, match="got -100 to"):
            call(tasks, generator, 0)
    stream = tasks.query._replace(inputs=tasks.query.inputs.double())
    with pytest.raises(ShapeError, match=r"parameters' type torch\.float32"):
        learner.outputs(stream)


def test_a_diverged_reader_has_no_accuracy_from_there_on(streams, generator):
    learner, tasks = build("lstm", streams), streams.sample(2, generator)
    stream, earlier = tasks.query, earlier_instances(tasks.query.targets)
    row = int((earlier[0] == 1).nonzero()[0])  # the first second instance of the first stream
    stream.inputs[0, row] = math.nan
    with pytest.warns(RuntimeWarning, match="accuracy of task 0 is NaN"):
        curve = adaptation_curve(
            learner, Fixed(tasks), num_tasks=2, steps=3, generator=torch.Generator()
        )
    assert torch.equal(curve.values[:, 1].isnan(), torch.zeros(4, dtype=torch.bool))
    assert curve.values[1:, 0].isnan().all()
    assert bool(curve.values[0, 0].isnan()) == bool((earlier[0, row:] == 0).any())


class Fixed:
    """The same tasks each time."""

    def __init__(self, tasks):
        self.tasks = tasks

    def sample(self, num_tasks, generator):
        return self.tasks


def test_streams_longer_than_the_memory_are_refused(glyphs, generator):
    longer = streams_of(replace(glyphs, shots=4))
    learner, tasks = build("mann", streams_of(glyphs)), longer.sample(1, generator)
    message = "at most 12 steps, a row of the memory for each, got 18"
    with pytest.raises(TaskError, match=message):
        learner.collect(tasks, generator, 0)
    with pytest.raises(TaskError, match=message):
        next(learner.evaluate(tasks, 1, generator))


def test_images_of_another_size_are_refused(glyphs, generator):
    streams = streams_of(glyphs)
    stream = streams.sample(1, generator).query
    with pytest.raises(ShapeError, match=r"28, 28.*20, 20"):
        build("lstm", streams).outputs(stream._replace(inputs=stream.inputs[..., :20, :20]))


def test_a_thumbnail_is_the_mean_of_what_it_covers(generator):
    images = torch.rand(1, 2, 1, 28, 28, generator=generator)
    small = Thumbnail(ImageShape(), 14)(images, None)
    expected = images.view(1, 2, 14, 2, 14, 2).mean((3, 5)).flatten(2)
    torch.testing.assert_close(small, expected)
    assert math.isclose(Thumbnail(ImageShape()).features, 400)
    with pytest.raises(SettingsError, match="from 1 to 28 pixels, got 29"):
        Thumbnail(ImageShape(), 29)
