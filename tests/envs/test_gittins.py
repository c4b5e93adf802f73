"""Gittins' index against closed forms, and what pulling by it earns."""

import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.bandit_strategies import EpsilonGreedyAlgorithm
from metarl_envs.gittins import Gittins, GittinsAlgorithm, finite_indices
from metarl_envs.tabular_mdp import TabularMDP

from metarl.errors import SettingsError
from metarl.rl.trials.strategies import StrategyLearner

H = 6


def test_the_last_pull_is_worth_its_mean():
    table = finite_indices(H)[H - 1]
    for n in range(H):
        for s in range(n + 1):
            assert table[n, s] == pytest.approx((s + 1) / (n + 2), abs=0.003)


def test_two_pulls_are_worth_the_best_rate_of_stopping():
    """The larger of the mean p and of (p + p p') / (1 + p): a second pull only after a reward."""
    table = finite_indices(H)[H - 2]
    for n in range(H - 1):
        for s in range(n + 1):
            p, after = (s + 1) / (n + 2), (s + 2) / (n + 3)
            assert table[n, s] == pytest.approx((p + p * after) / (1 + p), abs=0.003)


def test_the_index_falls_with_fewer_pulls_left_and_rises_with_rewards():
    tables = finite_indices(20)
    assert all(tables[t][1, 1] >= tables[t + 1][1, 1] for t in range(1, 19))
    assert (tables[10][10, :11].diff() > 0).all()


def test_it_earns_more_than_the_greedy_strategy():
    family = Bandit(arms=5, horizon=30)
    tasks = family.sample(4000, torch.Generator().manual_seed(0))
    totals = []
    for algorithm in (GittinsAlgorithm(), EpsilonGreedyAlgorithm()):
        learner = StrategyLearner(algorithm.agent(family), family)
        (returns,) = learner.returns(tasks, 0, torch.Generator().manual_seed(1))
        totals.append(returns.mean().item())
    assert totals[0] > totals[1] + 0.3


def test_what_it_cannot_be_used_for_is_refused():
    with pytest.raises(SettingsError, match="family of Bernoulli bandits"):
        GittinsAlgorithm().agent(TabularMDP())
    strategy = Gittins(2, 3)
    with pytest.raises(SettingsError, match="one episode of 3 pulls"):
        strategy.scores(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 2), torch.zeros(1, 2))
