import copy

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML, Reptile
from metarl.errors import SettingsError
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.training.divergence import not_finite_message
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.proximal import BACKTRACK, STUCK, ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors

FAMILY = Navigation2D(horizon=8)
SETTINGS = PolicyGradientSettings(trajectories=6, clip=0.2, inner_kl=1e-3)


def make_policy():
    return policy_for(FAMILY, torch.Generator().manual_seed(1), hidden=(8,), activation="tanh")


def make(update):
    learner = PolicyLearner(MAML(make_policy(), 0.1), FAMILY, SETTINGS)
    generator = torch.Generator().manual_seed(0)
    inputs = learner.collect(FAMILY.sample(3, generator), generator, 0)
    return learner, update.build(learner, TrainingSettings(outer_lr=1e-3)), inputs


def parameters(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_epochs_are_optimiser_steps_on_the_same_rollouts():
    learner, update, inputs = make(ProximalSettings(epochs=3))
    result = update(inputs, 0)
    other, step, same = make(GradientUpdateSettings())
    losses = [step(same, 0).losses for _ in range(3)]
    assert torch.equal(parameters(learner), parameters(other))
    assert torch.equal(result.losses, losses[0])
    assert losses[2].mean() < losses[0].mean()
    assert result.metrics["meta/kl"].mean() > 0


def test_minibatches_are_optimiser_steps_on_parts_of_the_tasks():
    learner, update, inputs = make(ProximalSettings(epochs=2, minibatches=2))
    result = update(inputs, 0)
    other, step, same = make(GradientUpdateSettings())
    parts = [map_tensors(lambda t, k=k: t[k::2], same) for k in range(2)]  # tasks 0, 2 and 1
    results = [step(part, 0) for _ in range(2) for part in parts]
    assert torch.equal(parameters(learner), parameters(other))
    assert torch.equal(result.losses[::2], results[0].losses)
    assert torch.equal(result.losses[1::2], results[1].losses)
    torch.testing.assert_close(result.grad_norm, sum(r.grad_norm for r in results[:2]) / 2)
    assert result.metrics["meta/epochs"].tolist() == [2] * 3
    assert all(len(values) == 3 for values in result.carry.values())


def test_with_minibatches_the_bound_takes_back_an_epoch_and_a_bad_loss_names_its_task():
    learner, update, inputs = make(ProximalSettings(epochs=3, minibatches=3, max_kl=1e-9))
    before = parameters(learner)
    result = update(inputs, 0)
    assert result.metrics["meta/epochs"].tolist() == [0] * 3
    assert torch.equal(parameters(learner), before)
    learner, update, inputs = make(ProximalSettings(epochs=3, minibatches=3))
    gradient, calls = update.step.gradient, []

    def breaks_at_the_second(inputs):
        calls.append(None)
        found = gradient(inputs)
        if len(calls) != 2:
            return found
        bad = found.result._replace(losses=torch.full_like(found.result.losses, torch.nan))
        return found._replace(result=bad, finite=False)

    update.step.gradient = breaks_at_the_second
    result = update(inputs, 0)
    assert not result.finite and result.losses.isnan().tolist() == [False, True, False]
    assert torch.equal(parameters(learner), before)
    assert all(len(values) == 3 for values in result.metrics.values())
    message = not_finite_message(result, 0, "Saved.")
    assert "task(s) 1. Saved. The support losses are finite and the outer loss is not" in message


def test_an_epoch_that_is_not_finite_takes_back_those_before_it():
    learner, update, inputs = make(ProximalSettings(epochs=3))
    update(inputs, 0)
    before, optimizer = parameters(learner), update.state_dict()["state"][0]["exp_avg"].clone()
    calls = []
    gradient = update.step.gradient

    def breaks_at_the_second(inputs):
        calls.append(None)
        found = gradient(inputs)
        return found._replace(finite=False) if len(calls) == 2 else found

    update.step.gradient = breaks_at_the_second
    assert not update(inputs, 0).finite
    assert torch.equal(parameters(learner), before)
    assert torch.equal(update.state_dict()["state"][0]["exp_avg"], optimizer)


def test_a_step_that_leads_too_far_is_taken_back_and_ends_the_epochs():
    learner, step, inputs = make(GradientUpdateSettings())
    passed, divergences = [], []
    for _ in range(4):
        passed.append((parameters(learner), step.optimizer.state_dict()["state"]))
        divergences.append(step(inputs, 0).metrics["meta/kl"].mean().item())
    assert divergences == sorted(divergences)
    for allowed in (1, 2):  # steps whose end is near enough
        bound = (divergences[allowed] + divergences[allowed + 1]) / 2
        learner, update, inputs = make(ProximalSettings(epochs=4, max_kl=bound))
        result = update(inputs, 0)
        assert torch.equal(parameters(learner), passed[allowed][0])
        assert update.state_dict()["state"][0]["step"] == allowed
        assert result.metrics["meta/kl"].mean() == divergences[allowed]
        assert result.metrics["meta/epochs"].tolist() == [allowed] * 3
    learner, update, inputs = make(ProximalSettings(epochs=4, max_kl=1e6))
    update(inputs, 0)
    other, step, inputs = make(ProximalSettings(epochs=4))
    step(inputs, 0)
    assert torch.equal(parameters(learner), parameters(other))


def test_a_first_step_that_leads_too_far_is_shortened():
    learner, step, inputs = make(GradientUpdateSettings())
    start = [p.detach().clone() for p in learner.parameters()]
    step(inputs, 0)
    end, state = [p.detach().clone() for p in learner.parameters()], step.optimizer.state_dict()
    state = copy.deepcopy(state)
    divergences = []
    for share in (1.0, BACKTRACK, BACKTRACK**2):
        with torch.no_grad():
            for p, a, b in zip(learner.parameters(), start, end, strict=True):
                p.copy_(b.lerp(a, 1 - share))
        step.optimizer.load_state_dict(copy.deepcopy(state))
        divergences.append(step(inputs, 0).metrics["meta/kl"].mean().item())
    assert divergences == sorted(divergences, reverse=True)
    expected = parameters(learner)  # a part of the first step, then a whole one
    bound = (divergences[1] + divergences[2]) / 2
    learner, update, inputs = make(ProximalSettings(epochs=4, max_kl=bound))
    result = update(inputs, 0)
    torch.testing.assert_close(parameters(learner), expected)
    assert result.metrics["meta/backtracks"].tolist() == [2] * 3
    assert result.metrics["meta/epochs"].tolist() == [2] * 3
    torch.testing.assert_close(result.metrics["meta/kl"].mean().item(), divergences[2])
    # Three passes cannot measure a step that is shortened twice.
    learner, update, inputs = make(ProximalSettings(epochs=3, max_kl=bound))
    assert update(inputs, 0).metrics["meta/epochs"].tolist() == [0] * 3
    torch.testing.assert_close(parameters(learner), torch.cat([p.flatten() for p in start]))
    assert update.state_dict()["state"] == {}


def test_updates_that_are_all_undone_are_reported_once():
    _, update, inputs = make(ProximalSettings(epochs=2, max_kl=1e-12))
    for _ in range(STUCK - 1):
        update(inputs, 0)
    with pytest.warns(RuntimeWarning, match="nothing is learned. Lower `--training.outer-lr`"):
        update(inputs, 0)
    update(inputs, 0)


def test_a_bound_that_nothing_measures_warns():
    with pytest.warns(UserWarning, match="`max_kl` has no effect with one epoch"):
        make(ProximalSettings(epochs=1, max_kl=0.1))


def test_a_bound_is_refused_where_no_divergence_is_measured():
    learner = PolicyLearner(Reptile(make_policy(), batch_size=None), FAMILY, SETTINGS)
    generator = torch.Generator().manual_seed(0)
    inputs = learner.collect(FAMILY.sample(3, generator), generator, 0)
    ProximalSettings(epochs=2).build(learner, TrainingSettings())(inputs, 0)
    update = ProximalSettings(epochs=2, max_kl=0.1).build(learner, TrainingSettings())
    with pytest.raises(SettingsError, match=r"`max_kl` bounds.*PolicyLearner measures none"):
        update(inputs, 0)


@pytest.mark.parametrize(
    ("settings", "match"), [({"epochs": 0}, "epoch"), ({"max_kl": 0.0}, "max_kl")]
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(SettingsError, match=match):
        ProximalSettings(**settings)
