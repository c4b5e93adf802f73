"""Strategies for tabular MDPs: planning against enumeration, and what is learned in a trial."""

import itertools

import pytest
import torch
from metarl_envs import Bandit, TabularMDP
from metarl_envs import mdp_strategies as s

from metarl.errors import SettingsError
from metarl.rl.trials.strategies import StrategyLearner

SMALL = TabularMDP(states=2, actions=2, horizon=2)


def tables(family, count, seed=0):
    values = family.sample(count, torch.Generator().manual_seed(seed)).values
    return values["transitions"], values["rewards"]


def episodes(settings, family, count, number, seed=0):
    """Mean return of each episode of a trial, and the largest standard error."""
    generator = torch.Generator().manual_seed(seed)
    learner = StrategyLearner(settings.agent(family), family)
    rows = torch.stack(
        list(learner.returns(family.sample(count, generator), number - 1, generator))
    )
    return rows.mean(1), rows.std(1).max() / count**0.5


def test_value_iteration_finds_the_best_of_all_plans():
    transitions, rewards = tables(SMALL, 20)
    best = s.best_values(transitions, rewards, 2)[:, 0, 0].amax(1)
    every = []
    for first, *then in itertools.product((0, 1), repeat=3):  # an action, and one per next state
        following = torch.stack([rewards[:, n, a] for n, a in enumerate(then)], 1)
        every.append(rewards[:, 0, first] + (transitions[:, 0, first] * following).sum(1))
    torch.testing.assert_close(best, torch.stack(every).amax(0))


def test_the_oracle_gains_what_value_iteration_says():
    family = TabularMDP()
    transitions, rewards = tables(family, 1000)
    expected = s.best_values(transitions, rewards, 10)[:, 0, 0].amax(1).mean()
    means, error = episodes(s.OptimalAlgorithm(), family, 1000, 2)
    assert (means - expected).abs().max() < 4 * error


def test_what_was_seen_and_paid_is_counted():
    agent = s.Greedy(SMALL)
    learner = StrategyLearner(agent, SMALL)
    generator = torch.Generator().manual_seed(0)
    kept = []
    plan = agent.plan

    def watched(memory):
        kept.append(memory)
        return plan(memory)

    agent.plan = watched
    trials = learner.play(SMALL.sample(3, generator), 3, generator)
    actions = trials.actions[:, 0]
    last = kept[-1]  # at the start of the third episode, with two of two steps behind it
    assert len(kept) == 3
    assert last.tried.sum((1, 2)).tolist() == [4.0] * 3
    assert last.seen.sum((1, 2, 3)).tolist() == [2.0] * 3  # where an episode ends up is not seen
    torch.testing.assert_close(last.paid.sum((1, 2)), trials.rewards[:, 0, :4].sum(1))
    first = torch.nn.functional.one_hot(actions[:, [0, 2]], 2).sum(1).float()
    assert (last.tried[:, 0] >= first).all()  # both episodes start in state 0


def test_planning_by_what_was_seen_gains_and_random_does_not():
    """Duan et al. 2016, table 2, n = 10: 100.1 at random, about 135 to 150 for planners."""
    family = TabularMDP(part="test")
    means, error = episodes(s.RandomPlayerAlgorithm(), family, 1000, 3)
    assert (means - 10).abs().max() < 4 * error
    means, _ = episodes(s.GreedyAlgorithm(), family, 1000, 10)
    assert means[0] == pytest.approx(10, abs=1) and means[9] > 17
    assert 145 < means.sum() < 160


def test_other_families_are_refused():
    with pytest.raises(SettingsError, match="Expected a TabularMDP, got Bandit-v1"):
        s.GreedyAlgorithm().agent(Bandit())
