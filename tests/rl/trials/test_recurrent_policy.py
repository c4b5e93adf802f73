"""The recurrent policy against torch's GRU and against the formula, and what its state keeps."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs import Bandit, Navigation2D, TabularMDP

from metarl.errors import SettingsError
from metarl.rl.trials.history import MemorySettings
from metarl.rl.trials.play import AgentInput, draw_trial_noise, play
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.sim import TorchVectorEnv
from tests.sim.families import Drift

T, N, E = 3, 2, 3
FAMILIES = {
    "bandit": Bandit(arms=3, horizon=6),
    "mdp": TabularMDP(horizon=4),
    "navigation": Navigation2D(horizon=5),
    "early ends": Drift(),
}


MEMORIES = {
    "gru": MemorySettings(),
    "normalised gru": MemorySettings(layer_norm=True),
    "attention": MemorySettings("attention", heads=1, steps=18),
}


def policy_of(family, seed=1, units=7, embedding=0, memory=None):
    generator = torch.Generator().manual_seed(seed)
    policy = RecurrentPolicy(
        family.observation_space, family.action_space, generator, units, embedding, hidden=(5,),
        memory=memory,
    )  # fmt: skip
    with torch.no_grad():  # an untrained head is nearly blind to the state
        for p in policy.head.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=generator))
    return policy


def played(family, policy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tasks = family.sample(T, generator).values
    noise = draw_trial_noise(policy, family, T, N, E, generator)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    return play(env, policy, tasks, noise)


def agent_input(policy_family, **changes):
    number = isinstance(policy_family.action_space, spaces.Discrete)
    action = torch.tensor([2, 0]) if number else torch.tensor([[0.5], [-1.0]])
    base = AgentInput(
        torch.tensor([[0.1, 0.2], [0.3, 0.4]])[:, : policy_family.observation_space.shape[0]],
        action, torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.ones(2),
    )  # fmt: skip
    return base._replace(**changes)


def test_the_inputs_are_observation_action_reward_and_end():
    """Numbered actions are told once more with what they gave."""
    bandit, drift = FAMILIES["bandit"], FAMILIES["early ends"]
    rows = policy_of(bandit).encode(agent_input(bandit))
    assert torch.allclose(
        rows, torch.tensor([[0.1, 0, 0, 1, 3, 0, 0, 3, 0], [0.3, 1, 0, 0, 4, 4, 0, 0, 1]])
    )
    none = policy_of(bandit).encode(agent_input(bandit, begun=torch.zeros(2)))
    assert (none[:, 1:4] == 0).all()  # no action yet is another thing than action 0
    rows = policy_of(drift).encode(agent_input(drift))
    assert torch.allclose(rows, torch.tensor([[0.1, 0.2, 0.5, 3, 0], [0.3, 0.4, -1.0, 4, 1]]))


def test_a_step_is_that_of_the_formula():
    """Cho et al. 2014 as torch has it: the reset gate after the product."""
    family = FAMILIES["bandit"]
    policy = policy_of(family).double()
    with torch.no_grad():
        for p in policy.gru.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).double())
    seen = agent_input(family)
    state = torch.randn(2, 7, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    seen = AgentInput(*(v if v.dtype == torch.int64 else v.double() for v in seen))
    new = policy.act(state, seen, torch.zeros(2)).state.detach().numpy()
    w, u, b, c = (p.detach().numpy() for p in policy.gru.parameters())
    x, h = policy.encode(seen).numpy(), state.numpy()
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    (xr, xz, xn), (hr, hz, hn) = np.split(x @ w.T + b, 3, 1), np.split(h @ u.T + c, 3, 1)
    z = sigmoid(xz + hz)
    expected = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
    np.testing.assert_allclose(new, expected, rtol=1e-12)


@pytest.mark.parametrize("embedding", [0, 6])
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", FAMILIES)
def test_looking_back_gives_what_was_there_when_it_acted(name, memory, embedding):
    """Whole sequences against the steps of the trials, some of which end early."""
    policy = policy_of(FAMILIES[name], embedding=embedding, memory=MEMORIES[memory])
    trials = played(FAMILIES[name], policy)
    seen = trials.record
    again = policy.distribution(policy.unroll(seen.inputs))
    now, then = again.log_prob(trials.actions), seen.behaviour.log_prob(trials.actions)
    alive = trials.mask > 0
    torch.testing.assert_close(now[alive], then[alive], rtol=1e-4, atol=1e-5)
    assert then[alive].std() > 0.01
    zero = torch.zeros_like(again.kl(seen.behaviour)[alive])
    torch.testing.assert_close(again.kl(seen.behaviour)[alive], zero, rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", ["gru", "attention"])
def test_the_state_is_reset_between_trials_and_only_there(memory):
    family = FAMILIES["mdp"]
    policy = policy_of(family, memory=MEMORIES[memory])
    first = played(family, policy)
    second = played(family, policy)  # a trial later: nothing is left of the one before
    assert torch.equal(first.actions, second.actions)
    inputs = first.record.inputs
    states = policy.unroll(inputs)
    changed = inputs.clone()
    reward = family.observation_space.shape[0] + family.actions
    changed[0, 0, 1, reward] += 1.0  # that of the very first step of one trial
    moved = policy.unroll(changed) - states
    assert (moved[0, 0, 1:].abs().amax(1) > 1e-7).all()  # felt through every later episode
    assert (moved[0, 0, 0] == 0).all()
    moved[0, 0] = 0
    assert (moved == 0).all()  # and in no other trial


def test_the_next_reward_is_not_told():
    """Rewards from a step on, changed: what is done up to and at that step stays the same."""
    family = FAMILIES["bandit"]
    policy = policy_of(family)
    generator = torch.Generator().manual_seed(0)
    tasks = family.sample(T, generator).values
    noise = draw_trial_noise(policy, family, T, N, E, generator)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    trials = play(env, policy, tasks, noise)
    episode, step = 1, 2
    noise.steps[:, :, episode, step] = 1 - noise.steps[:, :, episode, step]
    other = play(env, policy, tasks, noise)
    at = episode * family.horizon + step
    assert not torch.equal(trials.rewards[..., at], other.rewards[..., at])
    log_probs = [t.record.behaviour.logits for t in (trials, other)]
    assert torch.equal(log_probs[0][:, :, : at + 1], log_probs[1][:, :, : at + 1])
    differs = (trials.rewards != other.rewards)[..., at]
    assert (log_probs[0] != log_probs[1])[:, :, at + 1][differs].any(1).all()


def test_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    first, second = (policy_of(FAMILIES["bandit"], seed=4).state_dict() for _ in range(2))
    assert all(torch.equal(p, second[n]) for n, p in first.items())
    assert torch.equal(before, torch.get_rng_state())
    hidden = first["history.gru.weight_hh_l0"][:7]
    torch.testing.assert_close(hidden @ hidden.T, torch.eye(7))


@pytest.mark.parametrize("embedding", [0, 6])
def test_weights_of_earlier_checkpoints_are_loaded(embedding):
    """They had no `history.` before the names of its parts."""
    family = FAMILIES["bandit"]
    policy, other = (policy_of(family, seed, embedding=embedding) for seed in (1, 2))
    old = {name.replace("history.", ""): w for name, w in policy.state_dict().items()}
    assert {"gru.weight_ih_l0", "value.weight"} <= set(old)
    other.load_state_dict(old)
    assert all(torch.equal(p, policy.state_dict()[n]) for n, p in other.state_dict().items())
    learner = torch.nn.ModuleDict({"policy": other})  # as a part of a learner
    learner.load_state_dict({f"policy.{name}": w for name, w in old.items()})
    with pytest.raises(RuntimeError, match=r"Missing key.*history\.attention"):
        policy_of(family, memory=MEMORIES["attention"]).load_state_dict(old)


def test_separate_values_share_nothing_with_the_policy():
    family = FAMILIES["bandit"]
    spaces = family.observation_space, family.action_space
    policy = RecurrentPolicy(*spaces, torch.Generator().manual_seed(0), 4, separate_values=True)
    inputs = played(family, policy).record.inputs
    with torch.no_grad():
        policy.critic.value.weight.normal_(generator=torch.Generator().manual_seed(1))
    values = policy.predicted(inputs, policy.unroll(inputs))
    assert values.shape == inputs.shape[:3] and values.std() > 0.01
    values.sum().backward()
    touched = {n for n, p in policy.named_parameters() if p.grad is not None}
    assert touched == {n for n, _ in policy.named_parameters() if n.startswith("critic.")}


def test_what_it_cannot_be_built_for_is_refused(generator):
    box = spaces.Box(0, 1, (2,), np.float32)
    with pytest.raises(SettingsError, match="at least 1 recurrent unit"):
        RecurrentPolicy(box, spaces.Discrete(2), generator, units=0)
    with pytest.raises(SettingsError, match="an embedding of at least 0, got 1 and -1"):
        RecurrentPolicy(box, spaces.Discrete(2), generator, units=1, embedding=-1)
    with pytest.raises(SettingsError, match="observations is Text"):
        RecurrentPolicy(spaces.Text(3), spaces.Discrete(2), generator)
    with pytest.raises(SettingsError, match="Expected actions"):
        RecurrentPolicy(box, spaces.Sequence(box), generator)
