"""Bernoulli bandits."""

import pytest
import torch
from metarl_envs import Bandit

from metarl.errors import SettingsError
from metarl.sim import make_vec
from metarl.tasks.base import SPLITS
from tests.envs.test_navigation import UNLIKELY, kolmogorov_smirnov

TASKS = 20_000


def sample(bandit, seed=0):
    tasks = bandit.sample(TASKS, torch.Generator().manual_seed(seed))
    return tasks.values["probabilities"].double()


def test_an_arm_pays_one_with_its_probability():
    pulls, worlds = 400, 50
    bandit = Bandit(arms=3, horizon=pulls)
    env = make_vec(bandit, worlds, device="cpu", autoreset="disabled")
    env.reset()
    arms = torch.arange(worlds) % 3
    paid = torch.stack([env.step(arms)[1] for _ in range(pulls)])
    assert set(paid.unique().tolist()) == {0.0, 1.0}
    p = env.get_tasks()["probabilities"].gather(1, arms.unsqueeze(1))[:, 0]
    error = (paid.mean(0) - p) / (p * (1 - p) / pulls).sqrt().clamp(min=1e-3)
    assert error.abs().max() < 4
    assert error.std() == pytest.approx(1, abs=0.4)
    follows = (paid[1:] - p) * (paid[:-1] - p)  # pulls do not depend on each other
    assert follows.mean().abs() < 4 * 0.25 / (pulls * worlds) ** 0.5


def test_a_probability_of_zero_or_one_is_certain():
    env = make_vec(Bandit(arms=2), 1000, device="cpu", autoreset="disabled")
    env.set_tasks({"probabilities": torch.tensor([0.0, 1.0]).repeat(1000, 1)})
    env.reset()
    assert (env.step(torch.zeros(1000, dtype=torch.int64))[1] == 0).all()
    assert (env.step(torch.ones(1000, dtype=torch.int64))[1] == 1).all()


def test_probabilities_are_uniform_and_the_splits_apart():
    seen = []
    for seed, part in enumerate(SPLITS):
        p = sample(Bandit(part=part), seed)
        assert p.shape == (TASKS, 5)
        for arm in p.T:
            assert kolmogorov_smirnov(arm, 0, 1) < UNLIKELY
        assert (torch.corrcoef(p.T) - torch.eye(5)).abs().max() < 4.5 / TASKS**0.5
        seen.append(set((p[:, 0] * 3 * 1024).floor().long().tolist()))
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_sizes_are_arguments():
    env = make_vec(Bandit(arms=50, horizon=10), 4, device="cpu")
    assert env.single_action_space.n == 50
    assert torch.equal(env.reset()[0], torch.ones(4, 1))
    truncated = [env.step(torch.zeros(4, dtype=torch.int64))[3].all().item() for _ in range(10)]
    assert truncated == [False] * 9 + [True]
    with pytest.raises(SettingsError, match="at least 2 arms, got 1"):
        Bandit(arms=1)
