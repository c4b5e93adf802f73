"""Whole meta-iterations as one graph: the same training, and nothing changed where not finite."""

import math
import sys

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.cuda_graphs import CudaDriver, allow_graphs
from metarl.learners.metric.algorithms import PrototypicalAlgorithm
from metarl.tasks import Glyphs, Sine
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep
from metarl.training.proximal import ProximalSettings, ProximalUpdate
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.gradient_learners import MAML
from tests.graph_recorder import Recorder, Refusing
from tests.image_problems import image_problem
from tests.training.test_meta_gradient import LEARNERS, TASKS, network, policy_learner

RATE = 2.0**-10  # a number of float32, like those of the graph
CAPTURABLE = ("adadelta", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop")


def maml():
    return MAML(network(), 0.01, 1)


@pytest.fixture
def capturable_on_cpu(monkeypatch):
    """Torch's optimisers that can be captured on a GPU take tensors of the CPU, too."""
    for name in CAPTURABLE:
        module = sys.modules[f"torch.optim.{name}"]
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *a, **k: ["cpu"])


def settings_of(optimizer="adam", **changes):
    return TrainingSettings(
        **{"meta_batch_size": TASKS, "optimizer": optimizer, "outer_lr": RATE, **changes}
    )


def train(learner, step, iterations=range(5), device="cpu", spoil=()):
    """Takes steps on tasks drawn by the number of the iteration; returns the results."""
    results = []
    for i in iterations:
        generator = torch.Generator(device).manual_seed(i)
        tasks = Sine().sample(TASKS, generator)
        inputs = learner.collect(tasks, generator, i)
        if i in spoil:
            inputs.tasks.query.targets[1, 0] = math.nan
        results.append(step(inputs, i))
        learner.after_update(results[-1].carry)
    return results


def state(step):
    params = [p.detach().clone() for p in step.params]
    return params, map_tensors(torch.clone, step.optimizer.state_dict()["state"])


def compare(make, settings, driver=None, exact=True):
    """Trains with a graph and without; compares results, parameters and the optimiser's state."""
    driver, sides = driver or Recorder(), []
    for each in (driver, None):
        learner = make()
        step = MetaStep(learner, settings, driver=each)
        results = train(learner, step)
        if isinstance(each, Recorder):
            assert step.captured is not None and step.captured.refused is None
        grads = [p.grad for p in step.params]
        sides.append(([r._replace(carry={}) for r in results], grads, *state(step)))
    close = {"rtol": 0, "atol": 0} if exact else {}
    torch.testing.assert_close(sides[0][1:], sides[1][1:], **close)
    for ours, theirs in zip(sides[0][0], sides[1][0], strict=True):
        torch.testing.assert_close(ours, theirs, **close)
    return driver


def slow_but(names, quick):
    """Names of parameters, of which those that are not `quick` are for slow tests."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", slow_but(LEARNERS, ("maml++", "reptile")))
def test_a_graph_trains_every_learner_to_the_bit(name):
    driver = compare(LEARNERS[name], settings_of())
    assert driver.captures == 1  # the first step makes the optimiser's state
    assert driver.replays == 4  # one of them to compare with the operations


@pytest.mark.parametrize(
    ("name", "options", "max_grad_norm"),
    [
        ("adam", ("betas=(0.5,0.75)",), 0.1),
        ("adamw", ("amsgrad=True", "weight_decay=0.25"), None),
        ("sgd", (), 0.1),
        ("sgd", ("momentum=0.5", "nesterov=True"), None),
        ("adagrad", ("lr_decay=0.5",), None),
    ],
)
def test_fused_optimisers(name, options, max_grad_norm):
    settings = settings_of(name, optimizer_options=options, max_grad_norm=max_grad_norm)
    compare(maml, settings)


@pytest.mark.parametrize("name", slow_but(CAPTURABLE, ("asgd", "rmsprop")))
def test_capturable_optimisers(name, capturable_on_cpu):
    options = ("capturable=True", "foreach=True")  # torch's choice on a GPU
    schedule = {"schedule": "linear", "iterations": 8, "outer_lr": 2.0**-7}
    settings = settings_of(name, optimizer_options=options, **schedule)
    exact = name not in ("adadelta", "rmsprop")  # their operations have another order
    assert compare(maml, settings, exact=exact).captures == 1


@pytest.mark.slow
def test_epochs_of_policies_with_a_bound():
    family, ends = Navigation2D(horizon=5), []
    for driver in (Recorder(), None):
        learner, generator = policy_learner(family), torch.Generator().manual_seed(0)
        step = MetaStep(learner, settings_of(outer_lr=2.0**-7), driver=driver)
        update = ProximalUpdate(step, ProximalSettings(epochs=3, max_kl=0.5))
        update.read_late()
        for i in range(3):
            inputs = learner.collect(family.sample(TASKS, generator), generator, i)
            result = update(inputs, i)
            assert result.finite is True  # they wait for the divergence
            learner.after_update(result.carry)
        ends.append(state(step))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@pytest.mark.slow
def test_metric_learners_do_not_wait_for_their_moments():
    glyphs, ends = Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6), []
    for driver in (Recorder(), None):
        generator = torch.Generator().manual_seed(0)
        learner = PrototypicalAlgorithm().build(image_problem(generator))
        step = MetaStep(learner, settings_of(), driver=driver)
        step.read_late()
        for i in range(4):
            inputs = learner.collect(glyphs.sample(2, generator), generator, i)
            result = step(inputs, i)
            at_once = driver is None or i == 0  # the first step makes the optimiser's state
            assert isinstance(result.finite, bool) == at_once and bool(result.finite)
            learner.after_update(result.carry)
        ends.append(learner.state_dict())
    torch.testing.assert_close(*ends)


def test_schedules_and_rates_of_groups_reach_the_graph():
    settings = settings_of(
        outer_lr=0.25, schedule="linear", iterations=8, warmup=2, rate_factors=("*.bias=0.5",)
    )
    driver = compare(maml, settings)
    assert driver.captures == 1


@pytest.mark.parametrize(
    "make", [lambda learner: torch.optim.AdamW(learner.parameters(), RATE, fused=True)]
)
def test_optimisers_that_are_given(make):
    for driver in (Recorder(), None):
        learner = maml()
        step = MetaStep(learner, TrainingSettings(), make(learner), driver=driver)
        assert (step.captured is None) == (driver is None)
        train(learner, step)


@pytest.mark.parametrize("late", [False, True])
def test_nothing_changes_from_the_first_that_is_not_finite(late):
    learner = maml()
    step = MetaStep(learner, settings_of(), driver=Recorder())
    if late:
        step.read_late()
    assert all(r.finite for r in train(learner, step, range(3)))
    before = state(step)
    results = train(learner, step, range(3, 6), spoil=(3,))
    assert [bool(r.finite) for r in results] == ([False] * 3 if late else [False, True, True])
    assert isinstance(results[0].finite, torch.Tensor) == late
    assert results[0].losses.isfinite().tolist() == [True, False, True]
    if late:
        torch.testing.assert_close(state(step), before, rtol=0, atol=0)
        step.read_late()
        assert all(train(learner, step, range(6, 8)))
    assert not torch.equal(state(step)[0][0], before[0][0])


@pytest.mark.parametrize("name", slow_but(CAPTURABLE, ("nadam",)))
def test_steps_without_masks_in_their_kernels_are_taken_back(name, capturable_on_cpu):
    learner = maml()
    settings = settings_of(name, optimizer_options=("capturable=True",))
    step = MetaStep(learner, settings, driver=Recorder())
    step.read_late()
    train(learner, step, range(3))
    before = state(step)
    train(learner, step, range(3, 5), spoil=(3,))
    torch.testing.assert_close(state(step), before, rtol=0, atol=0)


def test_chunks_and_refusals_leave_the_operations(capsys):
    for settings, driver in (
        (settings_of(task_chunk_size=2), Recorder()),
        (settings_of(), Refusing()),
    ):
        compare(maml, settings, driver)
    assert "meta-iterations run without a CUDA graph: operation not" in capsys.readouterr().err


def test_no_graph_is_captured_where_none_is_allowed():
    allow_graphs(False)
    try:
        assert compare(maml, settings_of()).captures == 0
    finally:
        allow_graphs(True)


def test_a_state_is_loaded_into_the_memory_of_the_graph():
    learner, recorder = maml(), Recorder()
    step = MetaStep(learner, settings_of(), driver=recorder)
    train(learner, step, range(3))
    saved = map_tensors(torch.clone, step.state_dict()), state(step)[0]
    expected = train(learner, step, range(3, 6)), state(step)
    step.load_state_dict(saved[0])
    with torch.no_grad():
        torch._foreach_copy_(step.params, saved[1])
    again = train(learner, step, range(3, 6)), state(step)
    torch.testing.assert_close(again[1], expected[1], rtol=0, atol=0)
    assert [r.losses.tolist() for r in again[0]] == [r.losses.tolist() for r in expected[0]]
    assert recorder.captures == 1


def test_another_state_in_other_memory_is_captured_again():
    learner, recorder = maml(), Recorder()
    step = MetaStep(learner, settings_of(), driver=recorder)
    train(learner, step, range(3))
    step.optimizer.load_state_dict(map_tensors(torch.clone, step.optimizer.state_dict()))
    expected = train(learner, step, range(3, 4))
    assert recorder.captures == 2 and expected[0].finite


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "adafactor"}, "neither `fused` nor `capturable`"),
        ({"optimizer": "adam", "optimizer_options": ("fused=False",)}, "neither"),
        ({"schedule": "StepLR", "schedule_options": ("step_size=2",)}, "scheduler StepLR"),
    ],
)
def test_what_stays_outside_is_said(settings, reason, capsys):
    learner = maml()
    step = MetaStep(learner, settings_of(**settings), driver=Recorder())
    assert step.captured is None
    assert reason in capsys.readouterr().err
    train(learner, step)


def test_an_optimiser_that_fails_with_its_rate_on_the_device_stays_outside(monkeypatch, capsys):
    original = torch.optim.Adam.step.__wrapped__

    def fails(shadow):
        if isinstance(shadow.param_groups[0]["lr"], torch.Tensor):
            raise NotImplementedError("no kernel for a tensor")
        original(shadow)

    monkeypatch.setattr(torch.optim.Adam.step, "__wrapped__", fails)
    step = MetaStep(maml(), settings_of(), driver=Recorder())
    assert step.captured is None and "no kernel for a tensor" in capsys.readouterr().err


def test_hooks_are_called():
    learner, calls = maml(), []
    optimizer = torch.optim.Adam(learner.parameters(), RATE, fused=True)
    step = MetaStep(learner, TrainingSettings(), optimizer, driver=Recorder())
    train(learner, step, range(3))
    optimizer.register_step_post_hook(lambda *_: calls.append(None))
    train(learner, step, range(3, 5))
    assert len(calls) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad", *CAPTURABLE])
def test_cuda_graphs_of_iterations_are_not_refused(name):
    device = on_cuda()
    drivers = [CudaDriver(), None]
    trained = []
    for driver in drivers:
        learner = maml().to(device)
        step = MetaStep(learner, settings_of(name, max_grad_norm=1.0), driver=driver)
        allow_graphs(driver is not None)
        train(learner, step, device="cuda")
        allow_graphs(True)
        assert step.captured is not None and step.captured.refused is None
        trained.append(state(step))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)
