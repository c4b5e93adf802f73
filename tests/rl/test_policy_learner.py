import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import FOMAML, MAML, LearnedOptimizer, MetaSGD, Pretrained, Reptile
from metarl.errors import SettingsError, ShapeError
from metarl.evaluation.curves import adaptation_curve
from metarl.models import MLP
from metarl.rl.control_learner import nan_where_undefined
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import make_family
from metarl.tasks import Sine
from metarl.trees import cut_tasks, map_tensors
from tests.graph_recorder import CountedReads
from tests.rl.differences import check_gradient

FAMILY = Navigation2D(horizon=6)
T, N = 3, 4


def make(algorithm=MAML, *arguments, settings=None, chunk=None, **options):
    policy = policy_for(FAMILY, torch.Generator().manual_seed(1), hidden=(8,), activation="tanh")
    settings = settings or PolicyGradientSettings(trajectories=N)
    adaptation = algorithm(policy, *arguments, **options)
    return PolicyLearner(adaptation, FAMILY, settings, task_chunk_size=chunk)


def prepared(learner, seed=0, tasks=T):
    generator = torch.Generator().manual_seed(seed)
    return learner.collect(FAMILY.sample(tasks, generator), generator, 0)


def double(value):
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, value)


def test_shapes_and_first_rollouts_of_the_same_policy():
    inputs = prepared(make(MAML, 0.5, 2))
    assert len(inputs.experience) == 3
    first = inputs.experience[0]
    assert first.rollouts.observations.shape == (T, N, 6, 2)
    assert first.rollouts.actions.shape == (T, N, 6, 2)
    assert first.advantages.shape == first.log_probs.shape == (T, N, 6)
    torch.testing.assert_close(first.weights.sum((1, 2)), torch.ones(T))
    torch.testing.assert_close(first.advantages.mean((1, 2)), torch.zeros(T), atol=1e-6, rtol=0)


def test_the_same_rollouts_however_many_tasks_go_through_one_call():
    whole, chunked = prepared(make(MAML, 0.5, 2)), prepared(make(MAML, 0.5, 2, chunk=1))
    for a, b in zip(whole.experience, chunked.experience, strict=True):
        torch.testing.assert_close(a.rollouts.actions, b.rollouts.actions, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.advantages, b.advantages, rtol=1e-3, atol=1e-3)


def test_evaluation_keeps_to_the_chunks_too_and_leaves_gradients_on():
    whole, chunked = make(MAML, 0.5, 2), make(MAML, 0.5, 2, chunk=2)
    tasks = FAMILY.sample(T, torch.Generator().manual_seed(2))
    results = []
    for learner in (whole, chunked):
        results.append([])
        for returns in learner.returns(tasks, 2, torch.Generator().manual_seed(3)):
            assert torch.is_grad_enabled()
            results[-1].append(returns)
        assert torch.is_grad_enabled()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    sizes = {env.num_envs for env in chunked.worlds._envs.values()}
    assert sizes == {2 * N, N}  # of two tasks, and of the third


def test_each_task_goes_on_from_its_own_parameters():
    learner = make(MAML, 0.5, 3)
    inputs = prepared(learner)
    paths = [step.params for step in learner._path(inputs)]
    name = "network.layers.0.weight"
    assert torch.equal(paths[0][name][0], paths[0][name][1])
    for k in (0, 1, 2):
        for t in range(T):  # the step of one task alone, from where that very task stood
            own = {n: p.detach()[t : t + 1].requires_grad_() for n, p in paths[k].items()}
            seen = map_tensors(lambda v, t=t: v[t : t + 1], inputs.experience[k])
            grads = torch.autograd.grad(learner._inner_loss(own, seen).sum(), list(own.values()))
            for (n, p), g in zip(own.items(), grads, strict=True):
                torch.testing.assert_close(paths[k + 1][n][t : t + 1], p - 0.5 * g)
    assert not torch.allclose(paths[2][name][0], paths[2][name][1])


@pytest.mark.parametrize("surrogate", ["ratio", "dice", "logprob"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_on_stored_rollouts_is_that_of_finite_differences(surrogate, steps):
    settings = PolicyGradientSettings(
        trajectories=N, surrogate=surrogate, inner_kl=0.3, exploration=False
    )
    learner = make(MAML, 0.5, steps, settings=settings)
    inputs = double(prepared(learner))
    learner.double()
    params = list(learner.parameters())
    with torch.no_grad():  # away from the parameters that made the rollouts: every term counts
        for p in params:
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    check_gradient(lambda: learner(inputs).losses.mean(), params)


def test_values_without_gradients_are_those_with_them():
    learner = make(MAML, 0.5, 2)
    inputs = prepared(learner)
    with torch.no_grad():
        plain = learner(inputs)
    torch.testing.assert_close(plain.losses, learner(inputs).losses)


def test_first_order_drops_the_hessian():
    second, first = make(MAML, 0.5, 1), make(FOMAML, 0.5, 1)
    inputs = prepared(second)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(
            learner(inputs).losses.mean(), list(learner.parameters()))])
        for learner in (second, first)
    ]  # fmt: skip
    assert not torch.allclose(*grads, rtol=1e-3)
    # The gradient at the adapted parameters, applied to theta.
    *_, step = first._path(inputs)
    adapted = {n: p.detach().requires_grad_() for n, p in step.params.items()}
    loss, _ = first._outer_loss(adapted, inputs.experience[-1])
    direct = torch.autograd.grad(loss.mean(), list(adapted.values()))
    torch.testing.assert_close(grads[1], torch.cat([g.sum(0).flatten() for g in direct]))


def test_returns_do_not_change_where_nothing_is_learned():
    learner = make(MAML, 1e-12, 1)
    generator = torch.Generator().manual_seed(0)
    before, after = learner.returns(FAMILY.sample(200, generator), 1, generator)
    assert abs((before - after).mean()) < 3 * (before - after).std() / 200**0.5
    assert abs((before - after).mean()) < 0.05


def test_halved_steps_move_half_as_far():
    learner = make(MAML, 0.5, 1)
    tasks = FAMILY.sample(2, torch.Generator().manual_seed(0))
    noises = learner._noises(2, 2, torch.Generator().manual_seed(0))
    moved = []
    for scales in ((), (0.5,)):
        (start, _), (end, _) = learner._collect_path(tasks, noises, None, scales)
        moved.append(end["log_std"] - start["log_std"])
    torch.testing.assert_close(moved[1], moved[0] / 2)


def test_e_maml_credits_the_first_rollouts():
    plain = make(MAML, 0.5, 1)
    credited = make(MAML, 0.5, 1, settings=PolicyGradientSettings(trajectories=N, exploration=True))
    inputs = prepared(credited)
    difference = credited(inputs).losses - plain(inputs).losses
    log_probs = inputs.experience[0].log_probs.sum((1, 2))
    torch.testing.assert_close(difference, -inputs.credit * log_probs)
    assert abs(inputs.credit.mean()) < 1e-4
    assert inputs.credit.abs().max() > 0.05
    assert not prepared(plain).credit.any()


@pytest.mark.parametrize("normalize", [True, False])
def test_e_mamls_credit_is_in_the_units_of_the_outer_surrogate(normalize):
    """That is a mean over the steps of an episode; its advantages may have deviation 1."""
    settings = PolicyGradientSettings(N, exploration=True, normalize_advantages=normalize)
    learner = make(MAML, 0.5, 1, settings=settings)
    inputs = prepared(learner)
    returns = inputs.experience[-1].rollouts.returns()
    others = (returns.sum() - returns) / (T - 1)
    scale = returns.std() if normalize else 1.0
    torch.testing.assert_close(inputs.credit * FAMILY.horizon * scale, returns - others)
    assert prepared(learner, tasks=1).credit.isfinite().all()


def test_clipping_stops_the_gain():
    settings = PolicyGradientSettings(trajectories=N, clip=0.1)
    learner = make(Pretrained, 0.5, settings=settings)
    inputs = prepared(learner)
    seen = inputs.experience[0]
    up = seen._replace(log_probs=seen.log_probs - 1.0, advantages=torch.ones_like(seen.advantages))
    loss = learner._outer_loss(dict(_batched(learner)), up)[0]
    torch.testing.assert_close(loss, torch.full((T,), -1.1), rtol=1e-4, atol=0)


def _batched(learner):
    return {n: p.expand(T, *p.shape) for n, p in learner.policy.named_parameters()}


def test_reptile_moves_towards_the_adapted_policies():
    learner = make(Reptile, 0.01, 2, batch_size=None)
    inputs = prepared(learner)
    result = learner(inputs)
    theta = list(learner.policy.parameters())
    grads = torch.autograd.grad(result.losses.mean(), theta)
    *_, step = learner._path(inputs)
    for (name, p), g in zip(learner.policy.named_parameters(), grads, strict=True):
        torch.testing.assert_close(g, p.detach() - step.params[name].detach().mean(0))
    learner.after_update(result.carry)
    assert learner.adaptation.rule.get_buffer("count") == 2


@pytest.mark.parametrize(
    ("sizes", "observe_task", "message"),
    [
        ((3, 2), False, r"observations of 2 numbers and .* \(2,\), got .* of 3 numbers"),
        ((2, 2), True, "observations of 4 numbers"),
        ((2, 3), False, r"got a GaussianPolicy .* actions of shape \(3,\)"),
        ((2, 5), None, "got a CategoricalPolicy with .* and 5 choices"),
    ],
)
def test_a_policy_of_other_spaces_is_refused(sizes, observe_task, message):
    kind = CategoricalPolicy if observe_task is None else GaussianPolicy
    observed, acted = sizes
    policy = kind(observed, acted, torch.Generator(), (8,))
    with pytest.raises(SettingsError, match=message):
        PolicyLearner(MAML(policy, 0.1), FAMILY, observe_task=bool(observe_task))


def test_a_single_step_teaches_nothing():
    family, settings = Navigation2D(horizon=1), PolicyGradientSettings(trajectories=1)
    policy = policy_for(family, torch.Generator())
    learner, generator = PolicyLearner(MAML(policy, 0.1), family, settings), torch.Generator()
    with pytest.raises(SettingsError, match="more than 1 `trajectories`"):
        learner.collect(family.sample(2, generator), generator, 0)


def test_what_does_not_suit_policies_is_refused():
    with pytest.raises(SettingsError, match="`metric` belongs to supervised tasks"):
        make(MAML, 0.1, metric="mae")
    with pytest.raises(SettingsError, match="batch_size"):
        make(Reptile, 0.01, 2)
    with pytest.raises(SettingsError, match="unroll"):
        make(LearnedOptimizer, torch.Generator(), 4, 2)
    with pytest.raises(SettingsError, match="Policy"):
        PolicyLearner(MAML(MLP((2, 2), torch.Generator())), FAMILY)


def test_a_setting_of_another_surrogate_warns():
    with pytest.warns(UserWarning, match="dice_lambda=0.5 has no effect with the surrogate ratio"):
        make(settings=PolicyGradientSettings(dice_lambda=0.5))
    make(settings=PolicyGradientSettings(dice_lambda=0.5, surrogate="dice"))


def test_meta_sgd_gets_gradients_for_its_rates():
    learner = make(MetaSGD, torch.Generator().manual_seed(0), 1)
    inputs = prepared(learner)
    rates = list(learner.adaptation.rule.parameters())
    grads = torch.autograd.grad(learner(inputs).losses.mean(), rates)
    assert all(g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("chunk", [None, 2])
def test_environment_steps_of_training_are_counted_and_carried(chunk):
    learner = make(MAML, 0.5, 2, chunk=chunk)
    inputs = prepared(learner)
    taken = sum(int(e.rollouts.mask.sum()) for e in inputs.experience)
    assert 0 < taken <= 3 * T * N * 6
    results = [learner(part) for part in cut_tasks(inputs, chunk)]
    assert learner.environment_steps == 0  # looking at rollouts again takes none
    with CountedReads() as reads:
        for result in results:
            learner.after_update(result.carry)
    assert reads.count == 0  # a GPU is not waited for
    assert learner.environment_steps == learner.environment_steps == taken
    list(learner.returns(inputs.tasks, 1, torch.Generator()))  # evaluation is not training
    other = make()
    other.load_extra_state(learner.extra_state())
    assert other.environment_steps == taken


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_penalty_is_the_mean_divergence_of_the_inner_steps(steps):
    """ProMP's code takes the mean over the steps; with one step it is the sum."""
    weight, losses = 0.7, {}
    for eta in (0.0, weight):
        settings = PolicyGradientSettings(trajectories=N, inner_kl=eta)
        learner = make(MAML, 0.5, steps, settings=settings)
        inputs = prepared(learner)
        with torch.no_grad():  # away from the policy that made the rollouts
            for p in learner.parameters():
                p.add_(0.1)
        losses[eta] = learner(inputs).losses
    divergences = []
    for k, step in enumerate(learner._path(inputs)):
        if k < steps:
            batch = inputs.experience[k]
            new = learner.policy.distribution(step.params, batch.rollouts.observations)
            divergences.append((batch.rollouts.behaviour.kl(new) * batch.weights).sum((1, 2)))
    assert len(divergences) == steps
    expected = weight * torch.stack(divergences).mean(0)
    assert (expected > 1e-3).all()
    torch.testing.assert_close(losses[weight] - losses[0.0], expected, rtol=1e-3, atol=1e-5)


def test_a_diverged_categorical_policy_has_no_return():
    """Its action would be 0 at every step."""
    family = make_family("Bandit-v1", horizon=5)
    policy = policy_for(family, torch.Generator().manual_seed(0), hidden=())
    settings = PolicyGradientSettings(trajectories=2)
    learner = PolicyLearner(MAML(policy, 0.1), family, settings)
    with torch.no_grad():
        policy.get_parameter("network.layers.0.bias").fill_(float("nan"))
    generator = torch.Generator().manual_seed(0)
    with pytest.warns(RuntimeWarning, match="return of task 0, 1, 2 is NaN"):
        curve = adaptation_curve(learner, family, num_tasks=3, steps=3, generator=generator)
    assert curve.values.isnan().all()


def test_one_diverged_task_leaves_the_others():
    returns, log_probs = torch.arange(3.0), torch.zeros(3, 2, 4)
    log_probs[1, 0, 2] = float("nan")
    assert nan_where_undefined(returns, log_probs).isnan().tolist() == [False, True, False]
    assert nan_where_undefined(torch.zeros(3, 5), log_probs).isnan().any(1).tolist() == [
        False, True, False,
    ]  # fmt: skip


def test_clipped_inner_gradients_of_policies_match_finite_differences():
    free = make(MAML, 1.0, 2)
    inputs = prepared(free)
    starts = {n: p.detach() for n, p in free.policy.named_parameters()}
    adapted, _ = make(MAML, 1.0, 1).adapted(inputs.tasks, 1, torch.Generator().manual_seed(0))
    moves = torch.cat([(p - starts[n]).flatten(1) for n, p in adapted.items()], 1).norm(dim=1)
    limit = moves.sort().values[:2].mean().item()  # one of three tasks is not clipped
    learner = make(MAML, 1.0, 2, max_inner_grad_norm=limit)
    clipped, _ = learner.adapted(inputs.tasks, 1, torch.Generator().manual_seed(0))
    norms = torch.cat([(p - starts[n]).flatten(1) for n, p in clipped.items()], 1).norm(dim=1)
    torch.testing.assert_close(norms, moves.clamp(max=limit), rtol=1e-4, atol=1e-6)
    inputs = double(prepared(learner))
    learner.double()
    check_gradient(lambda: learner(inputs).losses.mean(), list(learner.parameters()), 1e-6)


def test_supervised_tasks_are_refused():
    learner, generator = make(MAML, 0.5, 1), torch.Generator().manual_seed(0)
    with pytest.raises(ShapeError, match=r"Expected tasks of a family.* got a TaskBatch"):
        learner.collect(Sine().sample(2, generator), generator, 0)
