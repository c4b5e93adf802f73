import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML, GradientLearner, Reptile
from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.rl.fisher import flatten, unflatten
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import compilation
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.trees import map_tensors

FAMILY = Navigation2D(horizon=8)


def make(chunk=None, workers=1, compiled=False, **settings):
    policy = policy_for(FAMILY, torch.Generator().manual_seed(1), hidden=(8,), activation="tanh")
    learner = PolicyLearner(MAML(policy, 0.5), FAMILY, PolicyGradientSettings(trajectories=6))
    training = TrainingSettings(task_chunk_size=chunk, workers=workers, compile=compiled)
    update = TrustRegionSettings(**settings).build(learner, training)
    return learner, update


def prepared(learner, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return learner.collect(FAMILY.sample(4, generator), generator, 0)


def double(inputs):
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)


def parameters(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_an_accepted_step_lowers_the_loss_within_the_trust_region():
    learner, update = make(max_kl=0.02)
    for seed in range(5):
        inputs = prepared(learner, seed)
        result = update(inputs, 0)
        assert result.metrics["meta/line_search/accepted"] == 1
        after = learner(inputs)
        assert after.losses.mean() < result.losses.mean()
        kl = after.metrics["meta/kl"].mean()
        assert 0 < kl <= 0.02
        torch.testing.assert_close(kl, result.metrics["meta/kl"])
    assert kl > 0.005  # the step is as long as the region allows, nearly


def test_the_step_solves_the_system_of_the_dense_fisher_matrix():
    learner, update = make(max_kl=0.01, cg_iterations=80, damping=1e-3)
    inputs = double(prepared(learner))
    learner.double()
    product = update._fisher_product(inputs)
    size = len(parameters(learner))
    dense = torch.stack([product(e) for e in torch.eye(size, dtype=torch.double)], 1)
    torch.testing.assert_close(dense, dense.T, rtol=1e-6, atol=1e-9)
    assert torch.linalg.eigvalsh(dense).min() > 0.99e-3
    slope = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    direction = torch.linalg.solve(dense, slope)
    expected = -direction * (0.02 / (direction @ dense @ direction)).sqrt()
    torch.testing.assert_close(
        update._natural_gradient_step(slope, inputs), expected, rtol=1e-3, atol=1e-5
    )


def test_chunks_change_nothing_but_memory():
    found = []
    for chunk, workers in ((None, 1), (1, 1), (None, 2), (1, 2)):
        learner, update = make(chunk, workers)
        inputs = double(prepared(learner))
        learner.double()
        update.gradient(inputs)
        slope = flatten([p.grad for p in learner.parameters()])
        with torch.no_grad():
            judged = torch.stack(update._mean_loss_and_divergence(inputs))
        found.append((slope, update._fisher_product(inputs)(slope), judged))
    for others in found[1:]:
        torch.testing.assert_close(found[0], others)


@pytest.mark.parametrize(("chunk", "workers", "kept"), [(None, 1, None), (3, 2, None), (2, 2, 3)])
def test_what_is_captured_to_be_compiled_is_the_same(chunk, workers, kept, monkeypatch):
    monkeypatch.setattr(compilation, "_inductor", lambda graph, tensors: graph)
    found = []
    for compiled in (False, True):
        learner, update = make(
            chunk, workers, compiled, fisher_trajectories=kept, cg_iterations=3, damping=0.01
        )
        batches = [double(prepared(learner, seed)) for seed in range(2)]
        learner.double()
        for inputs in batches:  # the second with the graphs of the first
            result = update(inputs, 0)
        product = update._fisher_product(inputs)
        vectors = torch.eye(len(parameters(learner)), dtype=torch.double)[:3]
        metrics = torch.stack([m.mean() for m in result.metrics.values()])
        found.append([parameters(learner), metrics, *map(product, vectors)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_that_of_the_uncompiled_one():
    found = []
    for compiled in (False, True):
        learner, update = make(2, compiled=compiled, cg_iterations=3, damping=0.01)
        for seed in range(2):
            result = update(prepared(learner, seed), 0)
            assert result.metrics["meta/line_search/accepted"] == 1
        found.append(parameters(learner))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_few_rollouts_of_the_adaptation_give_the_jacobian_and_not_the_policies():
    learner, update = make(fisher_trajectories=2, fisher_support=3, damping=0.0)
    inputs = double(prepared(learner))
    learner.double()
    thinned = inputs.thinned(2, 3)
    assert [e.rollouts.rewards.shape[1] for e in thinned.experience] == [3, 2]
    vector = torch.randn(len(parameters(learner)), generator=torch.Generator().manual_seed(0))
    theta, policy = list(learner.parameters()), learner.policy

    def flat(params):
        return torch.cat([p.flatten(1) for p in params.values()], 1)  # [T, P]

    def adapted(share):
        """The parameters that adapt on few rollouts, from theta + share * vector, [T, P]."""
        with torch.no_grad():
            for p, move in zip(theta, unflatten(vector.double(), theta), strict=True):
                p.add_(share * move)
        *_, step = learner._path(thinned)
        return flat(step.params)

    # J v by a difference quotient, M as the Hessian of the divergence at the policies that adapted
    # on all rollouts, and J^T by a gradient.
    epsilon = 1e-6
    j_v = (adapted(epsilon) - adapted(-2 * epsilon)).detach() / (2 * epsilon)
    few = adapted(epsilon)
    *_, step = learner._path(inputs)
    phi = {n: p.detach().requires_grad_() for n, p in step.params.items()}
    batch = thinned.experience[-1]
    new = policy.distribution(phi, batch.rollouts.observations)
    old = map_tensors(torch.Tensor.detach, new)
    divergence = (old.kl(new) * batch.weights).sum() / 4
    slope = torch.autograd.grad(divergence, list(phi.values()), create_graph=True)
    slope = torch.cat([g.flatten(1) for g in slope], 1)
    m_j_v = torch.autograd.grad((slope * j_v).sum(), list(phi.values()))
    expected = flatten(torch.autograd.grad(few, theta, flat(dict(zip(phi, m_j_v, strict=True)))))
    torch.testing.assert_close(
        update._fisher_product(inputs)(vector.double()), expected, rtol=1e-5, atol=1e-8
    )


def test_fewer_rollouts_estimate_the_matrix_of_the_first_of_them():
    learner, update = make(fisher_trajectories=2)
    inputs = prepared(learner)
    whole = make()[1]
    whole.learner.load_state_dict(learner.state_dict())
    vector = torch.randn(len(parameters(learner)), generator=torch.Generator().manual_seed(0))
    thinned = inputs.thinned(2)
    torch.testing.assert_close(thinned.experience[1].weights.sum((1, 2)), torch.ones(4))
    assert thinned.experience[0] is inputs.experience[0], "the adaptation sees all rollouts"
    torch.testing.assert_close(
        update._fisher_product(inputs)(vector), whole._fisher_product(thinned)(vector)
    )
    assert not torch.allclose(
        update._fisher_product(inputs)(vector), whole._fisher_product(inputs)(vector)
    )


@pytest.mark.parametrize("broken", ["loss", "kl", "nan"])
def test_a_step_that_no_try_makes_good_is_taken_back_to_the_bit(broken, monkeypatch):
    learner, update = make(max_backtracks=3)
    judged = []

    def judge(inputs):
        judged.append(parameters(learner))
        values = {"loss": (1e9, 0.0), "kl": (-1e9, 1.0), "nan": (float("nan"), 0.0)}[broken]
        return tuple(torch.tensor(v) for v in values)

    monkeypatch.setattr(update, "_mean_loss_and_divergence", judge)
    before = parameters(learner)
    result = update(prepared(learner), 0)
    assert torch.equal(parameters(learner), before)
    assert result.metrics["meta/line_search/accepted"] == 0
    assert result.metrics["meta/line_search/tries"] == 3
    steps = [(j - before).norm() for j in judged]
    assert steps[0] > 0
    torch.testing.assert_close(steps[1] / steps[0], torch.tensor(0.8), rtol=1e-3, atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing():
    learner, update = make()
    inputs = prepared(learner)
    inputs.experience[-1].advantages[0, 0, 0] = torch.nan
    before = parameters(learner)
    assert not update(inputs, 0).finite
    assert torch.equal(parameters(learner), before)


def test_no_gradient_moves_nothing():
    learner, update = make()
    inputs = prepared(learner)
    for seen in inputs.experience:
        seen.advantages.zero_()
    before = parameters(learner)
    assert update(inputs, 0).finite
    assert torch.equal(parameters(learner), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_kl": 0.0}, {"backtrack_ratio": 1.0}, {"cg_iterations": 0}, {"damping": -1.0},
        {"max_backtracks": 0}, {"fisher_trajectories": 0}, {"fisher_support": 0},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        TrustRegionSettings(**settings)


def test_it_is_for_policies():
    learner = GradientLearner(MAML(MLP((1, 1), torch.Generator())))
    with pytest.raises(SettingsError, match="GradientLearner"):
        TrustRegionSettings().build(learner, TrainingSettings())


def test_an_objective_without_a_loss_of_the_adapted_policies_is_refused():
    policy = policy_for(FAMILY, torch.Generator().manual_seed(1), hidden=(8,))
    learner = PolicyLearner(Reptile(policy, 0.01, batch_size=None), FAMILY)
    with pytest.raises(SettingsError, match="ReptileDistance has none"):
        TrustRegionSettings().build(learner, TrainingSettings())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_goes_too_far_is_not_judged_to_the_end(workers, monkeypatch):
    learner, update = make(1, workers, max_kl=1e-3)
    inputs, judged, outcome = prepared(learner), [], update._outcome_of_chunk
    monkeypatch.setattr(update, "_outcome_of_chunk", lambda c: judged.append(c) or outcome(c))
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.5)
        divergence = update._mean_loss_and_divergence(inputs)[1]
        whole = learner(inputs).metrics["meta/kl"]
    assert 1e-3 < divergence < whole.mean()
    torch.testing.assert_close(divergence, whole[0] / 4)
    assert len(judged) == 1 or workers > 1


@pytest.mark.parametrize(
    "ignored",
    [{"outer_lr": 0.1}, {"optimizer": "sgd"}, {"schedule": "linear"}, {"max_grad_norm": 1.0}],
)
def test_settings_of_optimisers_are_refused_since_they_would_change_nothing(ignored):
    learner, update = make()
    with pytest.raises(SettingsError, match=f"{next(iter(ignored))}=.* would change nothing"):
        update.settings.build(learner, TrainingSettings(**ignored))
    assert update.rate(0) is None


def test_the_state_of_an_optimiser_is_refused():
    learner, update = make()
    update.load_state_dict(update.state_dict())
    with pytest.raises(ValueError, match="optimiser's state"):
        update.load_state_dict(MetaStep(learner, TrainingSettings()).state_dict())
