"""VariBAD: what trains the encoder, the statistics of its targets, and learning a hidden goal."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs import Bandit, Navigation2D, TabularMDP

from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials.belief_policy import as_numbers
from metarl.rl.trials.decoders import TaskDecoders
from metarl.rl.trials.varibad import VariBADAlgorithm, VariBADLearner
from metarl.sim import GymTasks, Uniform
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import concatenate_tasks, cut_tasks, map_tensors
from tests.rl.differences import check_gradient
from tests.sim.families import Drift

T, N, E = 3, 2, 3
FAMILIES = {"mdp": TabularMDP(states=3, actions=2, horizon=3), "early ends": Drift(horizon=4)}
ENCODER = ("policy.history.", "policy.posterior.")


def make(family, gradients=None, seed=1, hidden=(4,), policy=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    options = {"episodes": E, "units": 5, "latent": 2, "decoder": (4, 3), "entropy_weight": 0.1}
    gradients = gradients or PolicyGradientSettings(N, 0.9, 0.8, clip=0.2)
    problem = ControlProblem(
        family, generator, gradients, hidden, policy=policy or PolicySettings()
    )
    learner = VariBADAlgorithm(**{**options, **settings}).build(problem)
    with torch.no_grad():  # values and actions that depend on the belief
        for p in (*learner.policy.value.parameters(), *learner.policy.head.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return learner


def prepared(learner, seed=0, draws=None):
    """Stored trials; `draws` seeds the terms of the bound apart from the trials."""
    generator = torch.Generator().manual_seed(seed)
    tasks = learner.family.sample(T, generator)
    if draws is not None:
        own, further = learner.draw, torch.Generator().manual_seed(draws)
        learner.draw = lambda trials, total, generator: own(trials, total, further)
    inputs = learner.collect(tasks, generator, 0)
    learner.__dict__.pop("draw", None)
    return inputs


def double(value):
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, value)


def encoder(learner):
    return {n: p for n, p in learner.named_parameters() if n.startswith(ENCODER)}


def slopes(learner, loss):
    """The derivatives by name; None where the loss does not depend on a parameter."""
    named = dict(learner.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return dict(zip(named, grads, strict=True))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("mdp", {}), ("early ends", {"rl_reaches_encoder": True, "embedding": 3}),
     ("early ends", {"observation_weight": 0.5, "elbo_terms": 3, "decoded_steps": 4}),
     ("early ends", {"memory": "attention", "units": 4, "heads": 1, "blocks": 1})],
)  # fmt: skip
def test_the_gradient_on_stored_trials_is_that_of_finite_differences(name, settings):
    reaches = settings.pop("rl_reaches_encoder", False)
    learner = make(FAMILIES[name], rl_reaches_encoder=reaches, **settings)
    inputs = double(prepared(learner))
    learner.double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from where the trials were played, some ratios clipped
        for p in learner.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    if reaches:
        check_gradient(lambda: learner(inputs).losses.mean(), list(learner.parameters()), 1e-6)
        return
    # The ELBO trains the encoder and the decoders; PPO, which takes beliefs as given, the rest.
    parts = {**encoder(learner)}
    parts |= {n: p for n, p in learner.named_parameters() if n.startswith("decoders.")}
    check_gradient(lambda: learner.read(inputs).losses.mean(), list(parts.values()), 1e-6)
    rest = [p for n, p in learner.named_parameters() if n not in parts]
    check_gradient(lambda: learner(inputs).losses.mean(), rest, 1e-6)


@pytest.mark.parametrize("reaches", [False, True])
def test_the_gradient_of_ppo_reaches_the_encoder_only_if_asked(reaches):
    learner = make(FAMILIES["early ends"], rl_reaches_encoder=reaches)
    inputs = prepared(learner)
    whole = slopes(learner, learner(inputs).losses.sum())
    bound = slopes(learner, learner.read(inputs).losses.sum())
    assert learner.read(inputs).features.requires_grad == reaches
    names = encoder(learner)
    assert len(names) >= 6
    for name in names:
        assert bound[name].abs().sum() > 0, name
        assert torch.equal(whole[name], bound[name]) != reaches, name
    for name in whole:
        if name.startswith(("policy.head.", "policy.value.")):
            assert bound[name] is None and whole[name].abs().sum() > 0, name


def test_steps_after_the_end_of_a_trial_count_for_nothing():
    """Trials end at different times: what the padding holds changes neither loss nor derivative."""
    learner = make(FAMILIES["early ends"], observation_weight=0.5, rl_reaches_encoder=True)
    inputs = prepared(learner)
    mask, more = inputs.trials.mask, inputs.more
    assert 0 < mask.mean() < 1 and mask.sum(2).unique().numel() > 1
    generator = torch.Generator().manual_seed(3)
    record = inputs.trials.record
    noise = torch.randn(record.inputs.shape, generator=generator) * (1 - mask).unsqueeze(3)
    padding = (more.drawn.step_weights == 0).float()
    assert padding.sum() > 0
    names = ("before", "actions", "after", "rewards", "observations")
    moved = {
        n: v + torch.randn(v.shape, generator=generator) * padding.view(*padding.shape, *[1] * k)
        for n, v, k in ((n, getattr(more, n), getattr(more, n).dim() - 3) for n in names)
    }
    trials = inputs.trials._replace(record=record._replace(inputs=record.inputs + noise))
    other = replace(inputs, trials=trials, more=more._replace(**moved))
    params, results = list(learner.parameters()), []
    for given in (inputs, other):
        losses = learner(given).losses
        results.append((losses, *torch.autograd.grad(losses.sum(), params)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_transitions_are_those_of_the_trial():
    """The next observation at the end of an episode is the one before the reset."""
    family = Drift(horizon=4)
    learner = make(family, elbo_terms=None, decoded_steps=None, observation_weight=1.0)
    inputs = prepared(learner)
    more, trials = inputs.more, inputs.trials
    size = learner.policy.observation_size
    seen = trials.record.inputs[..., :size]
    assert torch.equal(more.before, seen)
    assert torch.equal(more.actions, trials.actions)
    within = (trials.mask[..., 1:] > 0) & (trials.record.inputs[..., 1:, -1] == 0)
    torch.testing.assert_close(more.after[..., :-1, :][within], seen[..., 1:, :][within])
    ends = (trials.mask[..., 1:] > 0) & ~within
    assert ends.any() and not torch.allclose(more.after[..., :-1, :][ends], seen[..., 1:, :][ends])


def test_targets_are_in_deviations_of_those_of_training():
    learner = make(FAMILIES["early ends"], observation_weight=1.0, decoded_steps=None)
    inputs = prepared(learner)
    mask = inputs.trials.mask.bool()
    first = inputs.more
    for values in (first.rewards[mask], *first.observations[mask].T):
        torch.testing.assert_close(values.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(values.std(correction=0), torch.tensor(1.0))
    assert not learner.reward_scale.started, "collect changes nothing"
    learner.after_update(learner(inputs).carry)
    rewards = inputs.trials.rewards[mask]
    torch.testing.assert_close(learner.reward_scale.mean[0].float(), rewards.mean())
    again = prepared(learner, seed=1)
    own = again.trials.mask.bool()
    expected = (again.trials.rewards[own] - rewards.mean()) / rewards.std(correction=0)
    torch.testing.assert_close(again.more.rewards[own], expected)
    assert "reward_scale.mean" in learner.state_dict()


def test_chunks_and_masks_of_tasks_change_no_loss():
    learner = make(FAMILIES["early ends"], observation_weight=0.5)
    inputs = prepared(learner)
    chunks = concatenate_tasks([learner(part).losses for part in cut_tasks(inputs, 2)])
    torch.testing.assert_close(learner(inputs).losses, chunks, rtol=1e-4, atol=1e-5)


def test_acting_records_the_belief_that_unrolling_computes():
    learner = make(FAMILIES["mdp"])
    tasks = learner.family.sample(T, torch.Generator().manual_seed(0))
    trials = learner.play(tasks, 2, torch.Generator().manual_seed(1))
    beliefs = learner.policy.beliefs(trials.record.inputs)
    torch.testing.assert_close(trials.record.belief.mean, beliefs.mean)
    torch.testing.assert_close(trials.record.belief.log_std, beliefs.log_std)


def test_policies_see_beliefs_in_units_of_training():
    """Shifted by the mean, and divided by deviations above 1."""
    learner = make(FAMILIES["mdp"])
    policy = learner.policy
    with torch.no_grad():
        policy.posterior.weight.mul_(20)
        policy.posterior.bias[policy.latent :] = -6
    inputs = prepared(learner)
    learner.after_update(learner(inputs).carry)
    network_inputs = inputs.trials.record.inputs
    numbers = as_numbers(policy.beliefs(network_inputs))[inputs.trials.mask > 0]
    seen = policy.unroll(network_inputs)[inputs.trials.mask > 0]
    spread = numbers.std(0, correction=0).clamp(min=1)
    assert (spread > 1).any()
    size = policy.observation_size
    expected = (numbers - numbers.mean(0)) / spread
    torch.testing.assert_close(seen[:, size:], expected, rtol=1e-4, atol=1e-4)
    assert "policy.scale.mean" in learner.state_dict()


class Looking(gymnasium.Env):
    """Sees an image; pays for an action that a hidden number chooses."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    wanted = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((8, 8, 1), np.uint8), {}

    def step(self, action):
        right = float(action == round(self.wanted))
        return np.full((8, 8, 1), 50 * action, np.uint8), right, False, False, {}


@pytest.mark.parametrize(
    "settings",
    [{}, {"observation_weight": 1.0, "layer_norm": True, "value_targets": "lambda"},
     {"memory": "attention", "units": 4, "heads": 2, "elbo_terms": 2, "decoded_steps": 2}],
    ids=["usual", "observations", "attention"],
)  # fmt: skip
def test_it_suits_any_family(settings):
    families = (
        Navigation2D(horizon=4), Bandit(3, 4), Drift(horizon=4),
        GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=4),
        GymTasks(Looking, {"wanted": Uniform(0, 1)}, horizon=3),
    )  # fmt: skip
    for family in families:
        learner = make(family, **{"episodes": 2, **settings})
        inputs = prepared(learner)
        result = learner(inputs)
        assert result.losses.isfinite().all(), family.name
        learner.after_update(result.carry)
        tasks = family.sample(2, torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        assert len(list(learner.returns(tasks, 1, generator))) == 2


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"latent": 0}, "latent"), ({"decoder": ()}, "decoder"), ({"decoder": (0,)}, "decoder"),
     ({"elbo_weight": 0.0}, "elbo_weight"), ({"kl_weight": -1.0}, "kl_weight"),
     ({"observation_weight": -0.1}, "observation_weight"), ({"elbo_terms": 0}, "elbo_terms"),
     ({"decoded_steps": 0}, "decoded_steps"), ({"episodes": 0}, "episodes=0"),
     ({"units": 0}, "units=0")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting, word):
    with pytest.raises(SettingsError, match=word):
        VariBADAlgorithm(**setting)


def test_decoders_that_do_not_suit_the_settings_are_refused():
    learner = make(FAMILIES["mdp"])
    other = replace(learner.settings, observation_weight=1.0)
    with pytest.raises(SettingsError, match="weight 1 and decoders without them"):
        VariBADLearner(learner.policy, learner.decoders, learner.family, other)


@pytest.mark.parametrize(
    ("widths", "word"),
    [({"latent": 0}, "latent"), ({"hidden": ()}, "hidden"), ({"hidden": (3, 0)}, "hidden")],
)
def test_decoders_of_no_width_are_refused(widths, word):
    space, generator = FAMILIES["mdp"].observation_space, torch.Generator()
    with pytest.raises(SettingsError, match=f"`{word}`"):
        TaskDecoders(space, 2, generator, **widths)


def test_a_network_of_a_file_is_refused():
    with pytest.raises(SettingsError, match=r"leave out --policy\.network, got net\.safetensors"):
        make(FAMILIES["mdp"], policy=PolicySettings(network="net.safetensors"))


@pytest.mark.slow
def test_the_belief_narrows_over_a_trial_with_a_hidden_goal():
    """After 40 iterations; the reward of any step depends on where the goal is."""
    family = Navigation2D(horizon=10)
    generator = torch.Generator().manual_seed(0)
    gradients = PolicyGradientSettings(1, 0.99, 0.95, clip=0.2)
    problem = ControlProblem(family, generator, gradients, (32,))
    learner = VariBADAlgorithm(2, 32, latent=3).build(problem)
    training = TrainingSettings(outer_lr=5e-3, max_grad_norm=1.0)
    update = ProximalSettings(5).build(learner, training)
    errors = []
    for i in range(40):
        inputs = learner.collect(family.sample(100, generator), generator, i)
        result = update(inputs, i)
        learner.after_update(result.carry)
        errors.append(float(result.metrics["meta/reward_error"].mean()))
    assert errors[-1] < 0.6 * errors[0]
    tasks = family.split("test").sample(200, generator)
    trials = learner.play(tasks, 2, generator)
    belief = trials.record.belief
    std = belief.log_std.exp()[:, 0]
    assert std[:, -1].mean() < 0.7 * std[:, 0].mean() and std[:, 10].mean() < std[:, 0].mean()
    # The mean at the end is of the goal: a linear map of it explains a part of the goals' variance.
    mean = torch.cat((belief.mean[:, 0, -1], torch.ones(200, 1)), 1)
    goal = tasks.values["goal"]
    fitted = mean @ torch.linalg.lstsq(mean, goal).solution
    assert (goal - fitted).var() < 0.8 * goal.var()
