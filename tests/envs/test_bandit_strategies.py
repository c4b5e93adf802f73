"""Strategies for bandits against their definitions and against published returns."""

import pytest
import torch
from metarl_envs import Bandit, TabularMDP
from metarl_envs import bandit_strategies as s

from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.strategies import StrategyLearner

ARMS = 3
ONES = torch.ones(1)


def agent_input(action=0, reward=0.0, begun=1.0):
    return AgentInput(
        torch.ones(1, 1), torch.tensor([action]), reward * ONES, 0 * ONES, begun * ONES
    )


def counted(strategy, pulls):
    """The state after (arm, reward) pairs."""
    noise = torch.full((1, 2, ARMS), 0.5)
    state = strategy.act(
        strategy.begin({"probabilities": torch.zeros(1, ARMS)}), agent_input(begun=0.0), noise
    ).state
    for action, reward in pulls:
        state = strategy.act(state, agent_input(action, reward), noise).state
    return state


def mean_return(settings, horizon, tasks=4000, arms=5):
    family = Bandit(arms, horizon, part="test")
    generator = torch.Generator().manual_seed(0)
    learner = StrategyLearner(settings.agent(family), family)
    (returns,) = learner.returns(family.sample(tasks, generator), 0, generator)
    return returns.mean().item(), returns.std().item() / tasks**0.5


def test_pulls_and_what_they_paid_are_counted():
    pulls, paid = counted(s.RandomArm(ARMS), [(0, 1.0), (2, 0.0), (0, 0.0), (0, 1.0)])
    assert pulls.tolist() == [[3, 0, 1]] and paid.tolist() == [[2, 0, 0]]


def test_ucb1_takes_every_arm_once_and_then_the_highest_bound():
    strategy = s.UCB1(ARMS, width=1.0)
    pulls, paid = torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    expected = paid / pulls + (2 * torch.tensor(7.0).log() / pulls).sqrt()
    torch.testing.assert_close(strategy.scores(pulls, paid, torch.zeros(1, ARMS)), expected)
    unseen = strategy.scores(torch.tensor([[1.0, 0.0, 1.0]]), torch.zeros(1, 3), torch.zeros(1, 3))
    assert unseen.isinf().tolist() == [[False, True, False]]


def test_epsilon_greedy_takes_the_posterior_mean():
    pulls, paid = torch.tensor([[4.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    greedy = s.EpsilonGreedy(ARMS)
    means = greedy.scores(pulls, paid, torch.zeros(1, ARMS))
    torch.testing.assert_close(means, torch.tensor([[1 / 3, 1 / 2, 1 / 3]]))
    explores = s.EpsilonGreedy(ARMS, 0.2).scores(pulls, paid, torch.tensor([[0.1, 0.9, 0.9]]))
    assert (explores == explores[0, 0]).all()


def test_thompson_draws_from_the_posterior():
    draws = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, ARMS)
    pulls = torch.tensor([[10.0, 0.0, 3.0]]).expand(len(draws), -1)
    paid = torch.tensor([[7.0, 0.0, 0.0]]).expand(len(draws), -1)
    got = s.Thompson(ARMS).scores(pulls, paid, draws) / s.GRID
    alpha, beta = 1 + paid[0], 1 + (pulls - paid)[0]
    expected = torch.distributions.Beta(alpha, beta)
    torch.testing.assert_close(got.mean(0), expected.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(got.var(0), expected.variance, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("settings", "horizon", "published"),
    [(s.RandomArmAlgorithm(), 10, 5.0), (s.EpsilonGreedyAlgorithm(), 10, 6.6),
     (s.ThompsonAlgorithm(), 10, 5.7), (s.UCB1Algorithm(0.2), 100, 78.0)],
)  # fmt: skip
def test_returns_are_about_those_of_the_paper(settings, horizon, published):
    """Duan et al. 2016, table 1, k = 5."""
    mean, error = mean_return(settings, horizon)
    assert mean == pytest.approx(published, abs=4 * error + 0.06)


def test_ties_are_decided_by_chance():
    family = Bandit(arms=4, horizon=1)
    learner = StrategyLearner(s.EpsilonGreedy(4), family)
    generator = torch.Generator().manual_seed(0)
    actions = learner.play(family.sample(4000, generator), 1, generator).actions
    shares = actions.flatten().bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_trials_of_few_tasks_at_once_are_those_of_all():
    family, actions = Bandit(ARMS, 5), []
    for chunk in (None, 2):
        problem = ControlProblem(
            family, torch.Generator(), PolicyGradientSettings(3), task_chunk_size=chunk
        )
        learner = s.ThompsonAlgorithm().build(problem)
        generator = torch.Generator().manual_seed(0)
        actions.append(learner.play(family.sample(3, generator), 1, generator).actions)
        worlds = sorted(count for count, _ in learner.worlds._envs)
        assert worlds == ([9] if chunk is None else [3, 6])
    assert torch.equal(*actions)


def test_what_cannot_work_is_refused():
    with pytest.raises(SettingsError, match="width"):
        s.UCB1Algorithm(-1.0).agent(Bandit())
    with pytest.raises(SettingsError, match="epsilon"):
        s.EpsilonGreedyAlgorithm(1.5).agent(Bandit())
    with pytest.raises(SettingsError, match="bandits, got TabularMDP-v1"):
        s.ThompsonAlgorithm().agent(TabularMDP())
