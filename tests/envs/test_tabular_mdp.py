"""Random tabular MDPs."""

import pytest
import torch
from metarl_envs import TabularMDP

from metarl.errors import SettingsError
from metarl.sim import make_vec
from metarl.tasks.base import SPLITS

TASKS = 2000


def sample(mdp, count=TASKS, seed=0):
    values = mdp.sample(count, torch.Generator().manual_seed(seed)).values
    return values["transitions"].double(), values["rewards"].double()


def test_tasks_follow_the_papers_laws():
    transitions, rewards = sample(TabularMDP())
    assert transitions.shape == (TASKS, 10, 5, 10)
    assert rewards.shape == (TASKS, 10, 5)
    assert (transitions >= 0).all()
    torch.testing.assert_close(transitions.sum(3), torch.ones_like(rewards), rtol=0, atol=1e-6)
    # Dir(1, ..., 1) over S states: mean 1/S, variance (S - 1) / (S^2 (S + 1)), and its largest
    # share is (1 + 1/2 + ... + 1/S) / S on average.
    assert transitions.mean((0, 1, 2)).sub(0.1).abs().max() < 0.001
    assert transitions.var().item() == pytest.approx(9 / 1100, rel=0.01)
    largest = sum(1 / k for k in range(1, 11)) / 10
    assert transitions.amax(3).mean().item() == pytest.approx(largest, rel=0.01)
    assert rewards.mean().item() == pytest.approx(1, abs=4 / (TASKS * 50) ** 0.5)
    assert rewards.std().item() == pytest.approx(1, rel=0.02)
    first = rewards[:, 0, 0]  # drawn apart, to deal it to the splits
    assert first.mean().item() == pytest.approx(1, abs=4 / TASKS**0.5)
    assert first.std().item() == pytest.approx(1, rel=0.07)


def test_splits_share_no_first_mean_reward():
    seen = []
    for seed, part in enumerate(SPLITS):
        first = sample(TabularMDP(states=2, actions=2, part=part), TASKS, seed)[1][:, 0, 0]
        share = torch.special.ndtr(first - 1)
        seen.append(set((share * 3 * 1024).floor().long().tolist()))
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_states_and_rewards_follow_the_tables():
    worlds = 40_000
    mdp = TabularMDP(states=4, actions=3, horizon=3)
    transitions, rewards = mdp.sample(1, torch.Generator().manual_seed(3)).values.values()
    env = make_vec(mdp, worlds, device="cpu", autoreset="disabled")
    env.set_tasks(
        {"transitions": transitions.expand(worlds, -1, -1, -1),
         "rewards": rewards.expand(worlds, -1, -1)}
    )  # fmt: skip
    seen, _ = env.reset()
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        state = seen.argmax(1)
        assert (seen.sum(1) == 1).all() and set(seen.unique().tolist()) == {0.0, 1.0}
        assert step > 0 or (state == 0).all()
        action = torch.randint(3, (worlds,), generator=generator)
        seen, reward, terminated, truncated, _ = env.step(action)
        assert not terminated.any() and truncated.all() == (step == 2)
        for s in state.unique():
            for a in range(3):
                chosen = (state == s) & (action == a)
                count = int(chosen.sum())
                share = torch.bincount(seen[chosen].argmax(1), minlength=4) / count
                p = transitions[0, s, a]
                assert ((share - p) / (p * (1 - p) / count).sqrt()).abs().max() < 4.5
                got = reward[chosen]
                assert got.mean().item() == pytest.approx(
                    rewards[0, s, a].item(), abs=4.5 / count**0.5
                )
                assert got.std().item() == pytest.approx(1, abs=4 / count**0.5)
        surprise = reward - rewards[0, state, action]
        for following in range(4):  # the next state says nothing of the reward
            its = surprise[seen[:, following] == 1]
            assert its.mean().abs() < 4.5 / len(its) ** 0.5


def test_certain_transitions_are_taken():
    mdp = TabularMDP(states=3, actions=2)
    env = make_vec(mdp, 500, device="cpu", autoreset="disabled")
    following = torch.tensor([[1, 2], [2, 0], [0, 1]])
    table = torch.nn.functional.one_hot(following, 3).float()
    means = torch.arange(6.0).view(3, 2)
    env.set_tasks({"transitions": table.repeat(500, 1, 1, 1), "rewards": means.repeat(500, 1, 1)})
    seen, _ = env.reset()
    state = torch.zeros(500, dtype=torch.int64)
    for step in range(10):
        action = torch.arange(500) // (step + 1) % 2
        state = following[state, action]
        seen, *_ = env.step(action)
        assert torch.equal(seen.argmax(1), state)


def test_an_oracle_is_told_both_tables():
    mdp = TabularMDP()
    tasks = mdp.sample(3, torch.Generator().manual_seed(0)).values
    told = mdp.task_vector(tasks)
    assert told.shape == (3, 550)
    assert torch.equal(told[:, :500].view(3, 10, 5, 10), tasks["transitions"])
    assert torch.equal(told[:, 500:].view(3, 10, 5), tasks["rewards"])


def test_bad_settings():
    with pytest.raises(SettingsError, match="1 state and 2 actions, got 0 and 5"):
        TabularMDP(states=0)
    with pytest.raises(SettingsError, match="got 10 and 1"):
        TabularMDP(actions=1)
