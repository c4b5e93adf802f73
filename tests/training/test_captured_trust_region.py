"""Trust regions whose line search the device decides: the same steps as those of the host."""

import math
from typing import Any

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl import adaptation
from metarl.cuda_graphs import CudaDriver, allow_graphs
from metarl.rl.fisher import flatten, unflatten
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings, compilation
from metarl.training.trust_region import TrustRegionSettings, TrustRegionUpdate
from metarl.trees import to_device
from tests.devices import on_cuda
from tests.graph_recorder import CountedReads, Recorder, Refusing

FAMILY = Navigation2D(horizon=5)
TASKS = 4
RATIO = 0.5
TRIES = 5
KL = 0.01
KINDS = ("good", "edge", "over", "loss", "loss-nan", "kl", "kl-nan", "kl-inf")
ACCEPTED = ("good", "edge")


def make(driver=None, seed=0, kind=TrustRegionUpdate, training=None, **settings):
    policy = policy_for(FAMILY, torch.Generator().manual_seed(seed), hidden=(8,))
    learner = PolicyLearner(
        adaptation.MAML(policy, 0.1), FAMILY, PolicyGradientSettings(trajectories=4)
    )
    training = TrainingSettings(**{"meta_batch_size": TASKS, **(training or {})})
    options = {
        "max_kl": KL, "backtrack_ratio": RATIO, "max_backtracks": TRIES, "cg_iterations": 2,
        "damping": 0.1, **settings,
    }  # fmt: skip
    return learner, kind(learner, training, TrustRegionSettings(**options), driver)


def collected(learner, seed):
    generator = torch.Generator().manual_seed(seed)
    return learner.collect(FAMILY.sample(TASKS, generator), generator, 0)


def parameters(learner):
    return flatten([p.detach() for p in learner.parameters()])


def put_back(update, start):
    with torch.no_grad():
        for p, old in zip(update.params, unflatten(start, update.params), strict=True):
            p.copy_(old)


def captured_of(update):
    """Returns what decides on the device; it has a graph of each kind that was used."""
    captured = update._captured
    assert captured is not None
    assert captured._start.refused is None and captured._further.refused is None
    return captured


def assert_same(ours, theirs):
    """Two results are equal to the bit."""
    assert ours.metrics.keys() == theirs.metrics.keys()
    assert ours.finite is theirs.finite
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("compiled", "settings"),
    [
        (False, {"backtrack_ratio": 0.8, "max_backtracks": 15, "damping": 1e-3}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (False, {"fisher_trajectories": 2, "fisher_support": 2, "cg_iterations": 4}),
                (False, {"max_backtracks": 1}),
                (True, {"fisher_trajectories": 2, "fisher_support": 2}),
            )
        ),
    ],
)
def test_the_steps_are_those_of_the_host_to_the_bit(compiled, settings, monkeypatch):
    monkeypatch.setattr(compilation, "_inductor", lambda graph, tensors: graph)
    recorder, ends, found = Recorder(), [], []
    for driver in (recorder, None):
        learner, update = make(driver, training={"compile": compiled}, **settings)
        found.append([update(collected(learner, seed), 0) for seed in range(5)])
        ends.append(parameters(learner))
        if driver is not None:
            captured_of(update)
    for ours, theirs in zip(*found, strict=True):
        assert_same(ours, theirs)
    assert torch.equal(*ends)
    assert recorder.captures <= 2  # the step with its first try, and a further try


class Scripted(TrustRegionUpdate):
    """A trust region in which a script says how each try of the line search ends."""

    def __init__(self, learner, training, settings, driver):
        for name, size in (("losses", TRIES), ("kls", TRIES), ("start", 0), ("length", ())):
            learner.register_buffer(name, torch.zeros(size))
        super().__init__(learner, training, settings, driver)

    def follow(self, kinds, length):
        over = torch.nextafter(torch.tensor(KL), torch.tensor(1.0)).item()
        values = {
            "good": (-1e9, 0.0), "edge": (-1e9, KL), "over": (-1e9, over), "loss": (1e9, 0.0),
            "loss-nan": (math.nan, 0.0), "kl": (-1e9, 1.0), "kl-nan": (-1e9, math.nan),
            "kl-inf": (-1e9, math.inf),
        }  # fmt: skip
        losses, kls = zip(*(values[kind] for kind in kinds), strict=True)
        self.learner.losses, self.learner.kls = torch.tensor(losses), torch.tensor(kls)
        self.learner.start, self.learner.length = parameters(self.learner), length

    def _loss_and_divergence(self, chunk):
        learner: Any = self.learner  # with buffers of the script
        losses, kls = super()._loss_and_divergence(chunk)
        share = (flatten(list(learner.parameters())) - learner.start).norm() / learner.length
        tries = (RATIO ** torch.arange(TRIES) - share).abs().argmin()
        return (
            learner.losses.take(tries).expand_as(losses).clone(),
            learner.kls.take(tries).expand_as(kls).clone(),
        )


def scripts():
    """Returns how the tries of each line search end: what may go wrong, and 40 at random."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(KINDS), (40, TRIES), generator=generator).tolist()
    bad = [kind for kind in KINDS if kind not in ACCEPTED]
    return [
        *([kind] * TRIES for kind in KINDS),
        *([kind] * (TRIES - 1) + ["good"] for kind in bad),
        *([kind] * (TRIES - 1) + ["edge"] for kind in bad),
        *([KINDS[k] for k in row] for row in drawn),
    ]


def test_every_end_of_a_line_search_is_that_of_the_host():
    recorder = Recorder()
    (learner, update), (other, by_host) = make(recorder, kind=Scripted), make(kind=Scripted)
    inputs = collected(learner, 0)
    by_host.gradient(inputs)
    gradient = flatten([p.grad for p in by_host.params])
    step, start = by_host._natural_gradient_step(gradient, inputs), parameters(other)
    for kinds in scripts():
        results = []
        for each in (update, by_host):
            put_back(each, start)
            each.follow(kinds, step.norm())
            results.append(each(inputs, 0))
        assert_same(*results)
        assert torch.equal(parameters(learner), parameters(other))
        places = [place for place, kind in enumerate(kinds) if kind in ACCEPTED]
        share = RATIO ** places[0] if places else 0.0
        assert torch.equal(parameters(learner), start + share * step)
        metrics = results[0].metrics
        assert metrics["meta/line_search/accepted"] == bool(places)
        assert metrics["meta/line_search/tries"] == (places[0] + 1 if places else TRIES)
    captured_of(update)
    assert recorder.captures == 2


def test_numbers_that_are_not_finite_change_nothing_and_name_their_task():
    results = []
    for driver in (Recorder(), None):
        learner, update = make(driver)
        update(collected(learner, 0), 0)  # which is captured
        results.append([])
        for place, value in ((0, math.nan), (1, math.inf), (1, math.nan)):
            inputs, before = collected(learner, 1), parameters(learner)
            inputs.experience[place].advantages[2] = value
            result = update(inputs, 1)
            results[-1].append(result)
            assert result.finite is False
            assert result.losses.isfinite().tolist() == [True, True, False, True]
            assert torch.equal(parameters(learner), before)
        for seen in inputs.experience:
            seen.advantages.zero_()  # no gradient moves nothing, either
        result = update(inputs, 1)
        assert result.finite and result.metrics["meta/line_search/accepted"] == 0
        assert torch.equal(parameters(learner), before)
        assert update(collected(learner, 2), 2).metrics["meta/line_search/accepted"] == 1
        assert not torch.equal(parameters(learner), before)
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)


def test_the_host_reads_once_for_each_try():
    learner, update = make(Recorder(), kind=Scripted)
    inputs, start = collected(learner, 0), parameters(learner)
    update.gradient(inputs)
    gradient = flatten([p.grad for p in update.params])
    length = update._natural_gradient_step(gradient, inputs).norm()
    counts = []
    for accepted in (2, 1, 2, TRIES, TRIES + 1):
        put_back(update, start)
        update.follow((["kl"] * (accepted - 1) + ["good"] * TRIES)[:TRIES], length)
        with CountedReads() as reads:
            result = update(inputs, 0)
        assert result.metrics["meta/line_search/tries"] == min(accepted, TRIES)
        counts.append(reads.count)
    assert counts[1:] == [1, 2, TRIES, TRIES]  # the first search is captured
    captured_of(update)


@pytest.mark.parametrize("reason", ["chunks", "graphs", "driver"])
def test_without_a_graph_the_steps_are_the_same(reason, capsys):
    ends = []
    for driver in (Refusing() if reason == "driver" else Recorder(), None):
        learner, update = make(
            driver, training={"task_chunk_size": 2 if reason == "chunks" else None}
        )
        allow_graphs(reason != "graphs")
        for seed in range(3):
            update(collected(learner, seed), 0)
        allow_graphs(True)
        ends.append(parameters(learner))
        if driver is not None and reason != "driver":
            assert not update._captured._start._graphs
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)
    assert (reason == "driver") == ("trust-region steps run without" in capsys.readouterr().err)


def test_memory_that_does_not_suffice_halves_the_tasks(monkeypatch, capsys):
    learner, update = make(Recorder())
    inputs = collected(learner, 0)

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(update, "_captured", exhausted)
    result = update(inputs, 0)
    assert result.finite and result.metrics["meta/line_search/accepted"] == 1
    assert "going on with 2 at once" in capsys.readouterr().err
    assert update(inputs, 0).finite


@pytest.mark.gpu
def test_cuda_graphs_are_not_refused_and_give_the_steps_of_the_cpu():
    device, ends = on_cuda(), []
    for driver in (CudaDriver(), None):
        learner, update = make(fisher_trajectories=2, damping=0.01)
        batches = [collected(learner, seed) for seed in range(3)]
        if driver is not None:
            learner.to(device)
            settings = update.settings
            update = TrustRegionUpdate(learner, update.gradient.settings, settings, driver)
            batches = [to_device(inputs, device) for inputs in batches]
        for inputs in batches:
            result = update(inputs, 0)
            assert result.finite and result.metrics["meta/line_search/accepted"] == 1
        ends.append(parameters(learner).cpu())
        if driver is not None:
            captured_of(update)
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
