"""RL^2: the loss of stored trials and its derivative, the values' units, and learning a bandit."""

from dataclasses import replace

import pytest
import torch
from metarl_envs import Bandit, Navigation2D, TabularMDP

from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials.history import MemorySettings
from metarl.rl.trials.recurrent_learner import RecurrentLearner, RL2Algorithm
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.sim import GymTasks, Uniform
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import concatenate_tasks, cut_tasks, map_tensors
from tests.rl.differences import check_gradient
from tests.sim.families import Drift

T, N, E = 3, 2, 3
FAMILIES = {"mdp": TabularMDP(states=3, actions=2, horizon=3), "early ends": Drift(horizon=4)}


def make(family, chunk=None, gradients=None, units=5, embedding=0, **settings):
    generator = torch.Generator().manual_seed(1)
    spaces = (family.observation_space, family.action_space)
    settings = RL2Algorithm(**{"episodes": E, "units": units, "entropy_weight": 0.1, **settings})
    s, steps = settings, E * family.horizon
    memory = MemorySettings(s.memory, s.layer_norm, s.blocks, s.heads, steps)
    policy = RecurrentPolicy(
        *spaces, generator, units, embedding, memory=memory, separate_values=s.separate_values
    )
    value = policy.value or policy.critic.value
    with torch.no_grad():  # values and actions that depend on the state
        for p in (*value.parameters(), *policy.head.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    gradients = gradients or PolicyGradientSettings(N, 0.9, 0.8, clip=0.2)
    return RecurrentLearner(policy, family, settings, gradients, task_chunk_size=chunk)


def prepared(learner, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return learner.collect(learner.family.sample(T, generator), generator, 0)


def test_the_start_of_the_units_takes_no_numbers_of_the_generator():
    own = PolicySettings(normalize_observations=True)
    gradients = PolicyGradientSettings(2, clip=0.2)
    family, generator = Drift(horizon=4), torch.Generator().manual_seed(1)
    problem = ControlProblem(family, generator, gradients, policy=own)
    learner = RL2Algorithm(episodes=2, units=5).build(problem)
    after = []
    for _ in range(2):
        generator.manual_seed(2)
        learner.play(family.sample(T, generator), 2, generator)
        after.append(generator.get_state())
    assert torch.equal(*after)


def double(value):
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, value)


RECIPE = {
    "layer_norm": True, "separate_values": True, "value_loss": "huber", "value_targets": "lambda",
}  # fmt: skip
ATTENTION = {"memory": "attention", "heads": 1, "blocks": 1, "units": 3}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("mdp", {}), ("mdp", {"embedding": 4}), ("early ends", {}), ("early ends", RECIPE),
     ("early ends", ATTENTION)],
)  # fmt: skip
def test_the_gradient_on_stored_trials_is_that_of_finite_differences(name, settings):
    learner = make(FAMILIES[name], **settings)
    inputs = double(prepared(learner))
    learner.double()
    generator = torch.Generator().manual_seed(2)
    params = list(learner.parameters())
    with torch.no_grad():  # away from where the trials were played, some ratios clipped
        for p in params:
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    check_gradient(lambda: learner(inputs).losses.mean(), params, 1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_advantages_reach_across_the_episodes_of_a_trial(name):
    """Against generalised advantage estimation as its defining sum."""
    raw = PolicyGradientSettings(N, 0.9, 0.8, clip=0.2, normalize_advantages=False)
    learner = make(FAMILIES[name], gradients=raw)
    inputs = prepared(learner)
    trials = inputs.trials
    per_step = learner.policy.values(learner.policy.unroll(trials.record.inputs)).detach()
    steps = trials.mask.shape[2]
    left = torch.tensor([sum(0.9**k for k in range(steps - i)) for i in range(steps)])
    values = per_step * left
    for t in range(T):
        for n in range(N):
            length = int(trials.mask[t, n].sum())
            v = [*values[t, n, :length].tolist(), 0.0]
            r = trials.rewards[t, n].tolist()
            delta = [r[i] + 0.9 * v[i + 1] - v[i] for i in range(length)]
            expected = [
                sum(0.72 ** (j - i) * delta[j] for j in range(i, length)) for i in range(length)
            ]
            got = inputs.advantages[t, n]
            torch.testing.assert_close(got[:length], torch.tensor(expected), rtol=1e-4, atol=1e-5)
            assert (got[length:] == 0).all()
            returns = [sum(0.9 ** (j - i) * r[j] for j in range(i, length)) for i in range(length)]
            targets = inputs.targets[t, n, :length] * left[:length]
            torch.testing.assert_close(targets, torch.tensor(returns), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inputs.weights.sum((1, 2)), torch.ones(T))


@pytest.mark.parametrize("settings", [RECIPE, ATTENTION], ids=["recipe", "attention"])
def test_steps_after_the_end_of_a_trial_count_for_nothing(settings):
    """Trials end at different times: what the padding holds changes neither loss nor derivative."""
    learner = make(FAMILIES["early ends"], **settings)
    inputs = prepared(learner)
    mask = inputs.trials.mask
    assert 0 < mask.mean() < 1 and mask.sum(2).unique().numel() > 1
    record = inputs.trials.record
    noise = torch.randn(record.inputs.shape, generator=torch.Generator().manual_seed(3))
    padded = record._replace(inputs=record.inputs + noise * (1 - mask).unsqueeze(3))
    other = replace(inputs, trials=inputs.trials._replace(record=padded))
    params = list(learner.parameters())
    results = []
    for given in (inputs, other):
        losses = learner(given).losses
        results.append((losses, *torch.autograd.grad(losses.sum(), params)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lambda_returns_are_the_targets():
    """With lambda 1 they are the returns; with 0 those of one step and the next value."""
    family, kwargs = FAMILIES["early ends"], {"normalize_advantages": False, "clip": 0.2}
    targets = {}
    for lam, kind in ((1.0, "lambda"), (1.0, "returns"), (0.0, "lambda")):
        gradients = PolicyGradientSettings(N, 0.9, lam, **kwargs)
        learner = make(family, gradients=gradients, value_targets=kind)
        targets[lam, kind] = prepared(learner)
    mask = targets[1.0, "returns"].trials.mask
    both = [targets[1.0, kind].targets * mask for kind in ("lambda", "returns")]
    torch.testing.assert_close(*both)
    one = targets[0.0, "lambda"]
    learner = make(family)
    values = learner.policy.values(learner.policy.unroll(one.trials.record.inputs)).detach()
    left = learner._steps_left(one.trials)
    later = torch.cat((values * left * mask, torch.zeros_like(values[..., :1])), 2)[..., 1:]
    expected = (one.trials.rewards + 0.9 * later) / left * mask
    torch.testing.assert_close(one.targets * mask, expected, rtol=1e-4, atol=1e-5)


def test_huber_is_the_square_of_small_errors_and_linear_in_large_ones():
    errors = torch.tensor([0.0, 0.5, -1.0, 3.0])
    square, huber = (make(FAMILIES["mdp"], value_loss=n)._penalty for n in ("squared", "huber"))
    torch.testing.assert_close(square(errors), torch.tensor([0.0, 0.25, 1.0, 9.0]))
    torch.testing.assert_close(huber(errors), torch.tensor([0.0, 0.25, 1.0, 5.0]))


def test_a_transformer_refuses_trials_longer_than_those_of_training():
    learner = make(FAMILIES["mdp"], **ATTENTION)
    tasks = learner.family.sample(T, torch.Generator().manual_seed(5))
    assert len(list(learner.returns(tasks, E - 1, torch.Generator().manual_seed(6)))) == E
    with pytest.raises(SettingsError, match=r"at most 9 steps.* got 12.*--learner\.episodes"):
        list(learner.returns(tasks, E, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("settings", [RECIPE, ATTENTION], ids=["recipe", "attention"])
def test_the_settings_build_it_for_any_family(settings):
    for family in (Navigation2D(horizon=4), Drift(horizon=4), Bandit(3, 4)):
        algorithm = RL2Algorithm(episodes=2, **{"units": 4, **settings})
        gradients = PolicyGradientSettings(1, clip=0.2)
        learner = algorithm.build(
            ControlProblem(family, torch.Generator().manual_seed(0), gradients, ())
        )
        assert learner(prepared(learner)).losses.isfinite().all()


def test_advantages_of_all_tasks_are_normalised_together():
    inputs = prepared(make(FAMILIES["early ends"]))
    mean = (inputs.advantages * inputs.weights).sum((1, 2))
    square = (inputs.advantages.square() * inputs.weights).sum((1, 2))
    torch.testing.assert_close(mean.mean(), torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(square.mean(), torch.tensor(1.0), rtol=1e-4, atol=0)
    assert mean.abs().max() > 0.01


def test_losses_where_the_trials_were_played():
    """No ratio has moved: the gain is the mean advantage, and there is no divergence."""
    learner = make(FAMILIES["mdp"])
    inputs = prepared(learner)
    result = learner(inputs)
    gain = (inputs.advantages * inputs.weights).sum((1, 2))
    parts = 0.5 * result.metrics["meta/value_error"] - 0.1 * result.metrics["meta/entropy"]
    torch.testing.assert_close(result.losses.detach(), parts - gain)
    torch.testing.assert_close(result.metrics["meta/kl"], torch.zeros(T), rtol=0, atol=1e-6)
    assert set(result.metrics) >= {"train/return/step_0", "train/return/step_2"}
    total = inputs.trials.returns.mean(1).sum(1)
    torch.testing.assert_close(result.metrics["train/return/trial"], total)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_trials_and_losses_however_many_tasks_go_through_one_call(name):
    whole, parts = make(FAMILIES[name]), make(FAMILIES[name], chunk=1)
    inputs, others = prepared(whole), prepared(parts)
    torch.testing.assert_close(inputs.trials.rewards, others.trials.rewards, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inputs.advantages, others.advantages, rtol=1e-3, atol=1e-4)
    chunks = concatenate_tasks([whole(part).losses for part in cut_tasks(inputs, 2)])
    torch.testing.assert_close(whole(inputs).losses, chunks, rtol=1e-4, atol=1e-5)


def test_values_are_learned_in_units_of_the_last_targets():
    learner = make(FAMILIES["mdp"])
    inputs = prepared(learner)
    learner.after_update(learner(inputs).carry)
    expected = (inputs.targets * inputs.weights).sum((1, 2)).mean()
    torch.testing.assert_close(learner.value_mean, expected)
    spread = ((inputs.targets - expected).square() * inputs.weights).sum((1, 2)).mean().sqrt()
    torch.testing.assert_close(learner.value_std, spread)
    assert {"value_mean", "value_std"} <= set(learner.state_dict())


def test_rewards_of_any_size_give_the_same_learning():
    """From the second iteration on: the first one finds out how large they are."""

    class Large(TabularMDP):
        def reward(self, before, actions, after, tasks):
            return 1000 * super().reward(before, actions, after, tasks)

    errors = []
    for family in (TabularMDP(horizon=3), Large(horizon=3)):
        learner = make(family)
        learner.after_update(learner(prepared(learner)).carry)
        errors.append(learner(prepared(learner, 1)).metrics["meta/value_error"].mean())
    assert 0.2 < errors[1] / errors[0] < 5


class Equal(TabularMDP):
    """Pays the same for everything."""

    def reward(self, before, actions, after, tasks):
        return torch.full_like(after["reward"], 7.0)


def test_rewards_that_never_change_leave_errors_of_the_values_finite():
    learner = make(Equal(horizon=3))
    first = learner(prepared(learner))
    assert first.metrics["meta/value_error"].max() < 1000
    learner.after_update(first.carry)
    torch.testing.assert_close(learner.value_mean, torch.tensor(7.0))
    second = learner(prepared(learner, 1))
    assert second.metrics["meta/value_error"].max() < 10


def test_environment_steps_are_counted_and_carried():
    learner = make(FAMILIES["early ends"])
    inputs = prepared(learner)
    result = learner(inputs)
    assert learner.environment_steps == 0
    learner.after_update(result.carry)
    assert learner.environment_steps == int(inputs.trials.mask.sum()) < T * N * E * 4
    list(learner.returns(inputs.tasks, 2, torch.Generator()))  # evaluation is not training
    other = make(FAMILIES["early ends"])
    other.load_extra_state(learner.extra_state())
    assert other.environment_steps == learner.environment_steps


def test_an_evaluation_may_play_more_episodes_than_training_and_they_are_of_one_trial():
    learner = make(FAMILIES["mdp"], units=4)
    tasks = learner.family.sample(T, torch.Generator().manual_seed(5))
    seven = list(learner.returns(tasks, 6, torch.Generator().manual_seed(6)))
    assert len(seven) == 7 and seven[0].shape == (T,)
    played = learner.play(tasks, 7, torch.Generator().manual_seed(6))
    torch.testing.assert_close(torch.stack(seven, 1), played.returns.mean(1))


@pytest.mark.parametrize(
    "setting",
    [{"surrogate": "dice"}, {"inner_kl": 0.1}, {"exploration": True}, {"bootstrap": True}],
)
def test_settings_of_an_inner_loop_are_refused(setting):
    with pytest.raises(SettingsError, match=f"{next(iter(setting))}=.* would change nothing"):
        make(FAMILIES["mdp"], gradients=PolicyGradientSettings(**setting))


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"episodes": 0}, "episodes=0"), ({"units": 0}, "units=0"),
     ({"embedding": -1}, "embedding=-1"), ({"value_weight": 0.0}, "value_weight"),
     ({"entropy_weight": -0.1}, "entropy_weight"), ({"blocks": 0}, "blocks"),
     ({"memory": "attention", "units": 6}, "`heads` that divide `units`, got 4 and 6"),
     ({"memory": "lstm"}, "memory"), ({"value_loss": "l1"}, "value_loss")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting, word):
    with pytest.raises(SettingsError, match=word):
        RL2Algorithm(**setting)


def trained(family, iterations, meta_batch, episodes=1):
    generator = torch.Generator().manual_seed(0)
    policy = RecurrentPolicy(family.observation_space, family.action_space, generator, 16)
    settings = RL2Algorithm(episodes, 16, entropy_weight=0.02)
    gradients = PolicyGradientSettings(1, 1.0, 0.3, clip=0.2)
    learner = RecurrentLearner(policy, family, settings, gradients)
    training = TrainingSettings(outer_lr=0.02, max_grad_norm=1.0)
    update = ProximalSettings(4).build(learner, training)
    for i in range(iterations):
        inputs = learner.collect(family.sample(meta_batch, generator), generator, i)
        learner.after_update(update(inputs, i).carry)
    return learner


def test_it_learns_to_find_the_better_arm():
    """A learning gate for seconds. Any arm pays 5 of 10; the best that can be is about 6.2."""
    family = Bandit(arms=2, horizon=10)
    learner = trained(family, 12, 200)
    tasks = family.split("test").sample(2000, torch.Generator().manual_seed(1))
    (returns,) = learner.returns(tasks, 0, torch.Generator().manual_seed(2))
    assert returns.mean() > 5.7


def test_an_oracle_is_told_the_task():
    family = Navigation2D(horizon=4)
    policy = RecurrentPolicy(
        Drift().observation_space, family.action_space, torch.Generator(), units=3
    )
    told = RecurrentPolicy(
        TabularMDP(states=4).observation_space, family.action_space, torch.Generator(), units=3
    )
    plain = RecurrentLearner(policy, family, RL2Algorithm(1, 3))
    oracle = RecurrentLearner(told, family, RL2Algorithm(1, 3), observe_task=True)
    sizes = [prepared(learner).trials.record.inputs.shape[3] for learner in (plain, oracle)]
    assert sizes == [2 + 2 + 2, 2 + 2 + 2 + 2]


def test_a_diverged_policy_has_no_return():
    family = Bandit(5, 5)
    policy = RecurrentPolicy(
        family.observation_space, family.action_space, torch.Generator().manual_seed(0), 4
    )
    learner = RecurrentLearner(policy, family)
    generator = torch.Generator().manual_seed(0)
    tasks = family.sample(3, generator)
    assert all(torch.isfinite(r).all() for r in learner.returns(tasks, 1, generator))
    with torch.no_grad():
        next(policy.parameters()).fill_(float("nan"))
    assert all(r.isnan().all() for r in learner.returns(tasks, 1, generator))


def test_weights_from_before_policies_had_units_keep_those_of_the_environment():
    family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=4)
    problem = ControlProblem(family, torch.Generator().manual_seed(0), PolicyGradientSettings(2))
    old, new = (RL2Algorithm(1, 4).build(problem) for _ in range(2))
    assert new.units is not None
    weights = {n: v for n, v in old.state_dict().items() if not n.startswith("policy.units.")}
    new.load_state_dict(weights)
    assert new.units is None
    generator = torch.Generator().manual_seed(1)
    record = new.play(family.sample(2, generator), 1, generator).record
    assert record.inputs[..., 2].abs().max() > 1.1  # the speed, which is not normalised
    again = RL2Algorithm(1, 4).build(problem)
    again.load_state_dict(new.state_dict())
    assert again.units is None
