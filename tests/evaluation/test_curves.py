import math

import pytest
import torch

from metarl.adaptation.learner import Adapted, SupervisedLearner
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve, derived
from metarl.models import MLP, Conv4
from metarl.tasks import Examples, Glyphs, Sine, TaskBatch
from tests.gradient_learners import MAML, Reptile


class Halving(SupervisedLearner):
    """Knows the answer but for an offset that every step halves: mse (offset / 2^k)^2."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(8.0))
        self.modes = []

    def collect(self, tasks, generator, iteration):
        """Is not trained here."""
        raise NotImplementedError

    def forward(self, inputs):
        """Is not trained here."""
        raise NotImplementedError

    def adapt(self, support, steps, generator):
        """Yields the offset of each task after each step."""
        self.supports = support.inputs
        for k in range(steps + 1):
            offset = self.offset.expand(support.inputs.shape[0]) / 2**k
            yield Adapted({"offset": offset}, support.inputs)

    def predict(self, adapted, inputs, transductive=False):
        """Predicts twice the input plus the offset."""
        self.modes.append(transductive)
        return 2 * inputs + adapted.params["offset"].view(-1, 1, 1)


class Doubles:
    """Tasks y = 2 x + noise of the task, all from the generator."""

    def __init__(self):
        self.sizes = []

    def sample(self, num_tasks, generator):
        """Draws tasks and notes how many."""
        self.sizes.append(num_tasks)
        x = torch.randn(num_tasks, 6, 1, generator=generator)
        return TaskBatch(Examples(x[:, :2], 2 * x[:, :2]), Examples(x[:, 2:], 2 * x[:, 2:]))

    def split(self, name):
        """Is one distribution."""
        return self


def curve(learner, distribution, seed=0, **settings):
    settings = {"num_tasks": 5, "steps": 3} | settings
    generator = torch.Generator().manual_seed(seed)
    return adaptation_curve(learner, distribution, generator=generator, **settings)


@pytest.fixture
def maml(generator):
    return MAML(MLP((1, 8, 1), generator), inner_lr=0.01, steps=1)


def test_the_metric_after_every_step_by_hand():
    result = curve(Halving(), Doubles())
    assert result.metric == "mse"
    assert result.values.shape == (4, 5)
    assert result.values.dtype == torch.float32
    for k in range(4):
        torch.testing.assert_close(result.values[k], torch.full((5,), 64.0 / 4**k))


def test_accuracy_is_measured_for_labels(generator):
    distribution = Glyphs(2, 1, 3, alphabets=2, characters=3, drawings=4)
    learner = MAML(Conv4(2, generator, filters=4), 0.1)
    result = curve(learner, distribution, num_tasks=3, steps=1, chunk_size=2)
    assert result.metric == "accuracy"
    assert ((result.values >= 0) & (result.values <= 1)).all()
    assert torch.equal((result.values * 6).round() / 6, result.values)  # of six queries


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (100, [5])])
def test_tasks_are_drawn_in_chunks(size, sizes):
    distribution = Doubles()
    result = curve(Halving(), distribution, chunk_size=size)
    assert distribution.sizes == sizes
    assert result.values.shape == (4, 5)


class Fixed(Doubles):
    """Tasks of a table in order, so that chunks meet the same tasks as one batch does."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks, self.next = tasks, 0

    def sample(self, num_tasks, generator):
        """Takes the next tasks."""
        rows = slice(self.next, self.next + num_tasks)
        self.next += num_tasks
        support, query = (Examples(*(t[rows] for t in e[:2])) for e in (self.support, self.query))
        return TaskBatch(support, query)

    @property
    def support(self):
        """The support of all tasks."""
        return self.tasks.support

    @property
    def query(self):
        """The queries of all tasks."""
        return self.tasks.query


class Recorder:
    """Notes the amplitudes that a distribution gives."""

    def __init__(self, distribution):
        self.distribution, self.amplitudes = distribution, []

    def sample(self, num_tasks, generator):
        tasks = self.distribution.sample(num_tasks, generator)
        self.amplitudes.append(tasks.info["amplitude"])
        return tasks

    def split(self, name):
        return Recorder(self.distribution.split(name))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_chunks_do_not_change_the_values(maml, size):
    tasks = Sine().sample(7, torch.Generator().manual_seed(1))
    whole = curve(maml, Fixed(tasks), num_tasks=7)
    parts = curve(maml, Fixed(tasks), num_tasks=7, chunk_size=size)
    torch.testing.assert_close(parts.values, whole.values)
    assert whole.values.std() > 0


def test_the_last_step_only():
    learner = Halving()
    result = curve(learner, Doubles(), last_only=True)
    assert result.values.tolist() == [[1.0] * 5]
    assert len(learner.modes) == 1  # the other steps are not even predicted


def test_no_steps_judge_the_initialisation(maml):
    result = curve(maml, Sine(), steps=0)
    assert result.values.shape == (1, 5)
    assert torch.equal(result.values, curve(maml, Sine(), steps=4).values[:1])


def test_more_steps_than_in_training(maml):
    result = curve(maml, Sine(), num_tasks=20, steps=12)
    assert result.values.shape == (13, 20)
    assert torch.isfinite(result.values).all()
    means = result.values.mean(1)
    assert means[12] < means[1] < means[0]


@pytest.mark.parametrize("transductive", [True, False])
def test_the_learner_is_told_whether_queries_may_share_statistics(transductive):
    learner = Halving()
    result = curve(learner, Doubles(), transductive=transductive)
    assert result.transductive is transductive
    assert set(learner.modes) == {transductive}


def test_queries_are_alone_unless_a_comparison_says_otherwise():
    learner = Halving()
    assert not curve(learner, Doubles()).transductive
    assert set(learner.modes) == {False}


def test_tasks_that_diverge_are_named():
    tasks = Doubles().sample(5, torch.Generator().manual_seed(0))
    tasks.query.targets[3, 1] = math.nan
    tasks.query.targets[1] = math.inf
    with pytest.warns(RuntimeWarning, match=r"mse of task 1, 3 is NaN \(2 of 5") as warnings:
        result = curve(Halving(), Fixed(tasks), chunk_size=2)
    assert warnings[0].filename == __file__
    assert torch.equal(
        result.values.isnan().any(0), torch.tensor([False, True, False, True, False])
    )
    torch.testing.assert_close(result.values[3, [0, 2, 4]], torch.ones(3))


def test_an_inner_loop_that_explodes_gives_nan(generator):
    learner = MAML(MLP((1, 8, 1), generator), inner_lr=1e6, steps=1)
    with pytest.warns(RuntimeWarning, match="lower the inner rate"):
        result = curve(learner, Sine(), steps=8)
    assert torch.isfinite(result.values[0]).all()
    assert result.values[8].isnan().all()


def test_a_metric_that_is_infinite_is_named(generator):
    learner = MAML(MLP((1, 8, 1), generator), inner_lr=0.01, metric="r2")
    tasks = Sine().sample(3, generator)
    tasks.query.targets[1] = 2.0
    with pytest.warns(RuntimeWarning, match=r"r2 of task 1 is infinite \(1 of 3.*all the same"):
        curve(learner, Fixed(tasks), num_tasks=3, steps=1)


def test_the_same_seed_gives_the_same_curve(maml):
    first, same, other = (curve(maml, Sine(), seed).values for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_learners_that_draw_meet_the_same_tasks(maml, generator):
    seen = {}
    learners = {
        "none": maml,
        "batches": Reptile(MLP((1, 8, 1), generator), batch_size=2),
    }
    for name, learner in learners.items():
        recorder = Recorder(Sine())
        curve(learner, recorder, num_tasks=6, chunk_size=2)
        seen[name] = torch.cat(recorder.amplitudes)
    assert torch.equal(seen["none"], seen["batches"])
    assert len(seen["none"].unique()) == 6


def test_what_the_learner_draws_is_seeded_too(generator):
    learner = Reptile(MLP((1, 8, 1), generator), 0.05, batch_size=2)
    first, same, other = (curve(learner, Sine(), seed).values for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_derived_generator_draws_other_numbers_and_leaves_the_first_alone(generator):
    state = generator.get_state()
    first, same = (torch.rand(5, generator=derived(generator)) for _ in range(2))
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(first, same)
    assert not torch.equal(first, torch.rand(5, generator=generator))
    assert not torch.equal(first, torch.rand(5, generator=derived(generator)))


def test_support_is_adapted_on_and_query_judged(maml):
    tasks = Sine(5, 7).sample(3, torch.Generator().manual_seed(0))
    learner = Halving()
    list(learner.evaluate(tasks, 0, torch.Generator()))
    assert torch.equal(learner.supports, tasks.support.inputs)
    hidden = TaskBatch(tasks.support, tasks.query._replace(targets=tasks.query.targets + 100))
    values = torch.stack(list(maml.evaluate(tasks=hidden, steps=2, generator=torch.Generator())))
    assert (values > 5000).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [MAML, Reptile], ids=lambda f: f.__name__)
def test_evaluation_leaves_the_learner_as_it_was(make, training, generator):
    learner = make(MLP((1, 8, 1), generator)).train(training)
    learner.register_buffer("counter", torch.arange(3))
    before = {n: v.clone() for n, v in learner.state_dict().items()}
    modes = [m.training for m in learner.modules()]
    curve(learner, Sine(), steps=2)
    after = learner.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[n]) for n, v in before.items())
    assert [m.training for m in learner.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in learner.parameters())
    assert not learner.extra_state()


def test_batch_statistics_leave_no_trace(generator):
    learner = MAML(Conv4(2, generator, filters=4), 0.1)
    before = {n: v.clone() for n, v in learner.state_dict().items()}
    distribution = Glyphs(2, 1, 1, alphabets=2, characters=3, drawings=4)
    curve(learner, distribution, num_tasks=2, steps=1, transductive=False)
    assert all(torch.equal(v, before[n]) for n, v in learner.state_dict().items())


def test_no_graph_is_kept(maml):
    for learner, distribution in ((Halving(), Doubles()), (maml, Sine())):
        assert not curve(learner, distribution).values.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_tasks": 0}, "got 0, 3"),
        ({"num_tasks": -2}, "got -2, 3"),
        ({"steps": -1}, "got 5, -1"),
        ({"chunk_size": 0}, "chunk_size >= 1, got 5, 3 and 0"),
        ({"chunk_size": -1}, "got 5, 3 and -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        curve(Halving(), Doubles(), **settings)


class Three(Doubles):
    """Has three tasks, and returns all of them at each call."""

    def sample(self, num_tasks, generator):
        """Returns the three tasks."""
        return super().sample(3, generator)


def test_another_number_of_tasks_than_asked_for_warns():
    options = {"steps": 1, "generator": torch.Generator()}
    with pytest.warns(RuntimeWarning, match=r"`sample\(5, generator\)` returned 3 tasks"):
        adaptation_curve(Halving(), Three(), num_tasks=5, **options)
