"""The enumeration itself: against backward induction, simulation and definitions."""

import pytest
import torch
from torch.func import grad, jacrev

from metarl.errors import SettingsError, ShapeError
from metarl.rl.exact import TabularProblem, hessian, meta_gradient, relative_error
from metarl.trees import take_tasks


@pytest.mark.parametrize("name", ["problem", "discounted"])
def test_the_enumerated_return_is_that_of_backward_induction(name, table, request):
    problem = request.getfixturevalue(name)
    seen = problem.trajectories(table)
    torch.testing.assert_close(seen.probabilities.sum(1), torch.ones(3, dtype=torch.double))
    mean = (seen.probabilities * seen.returns[..., 0]).sum(1)
    torch.testing.assert_close(mean, problem.expected_return(table))
    assert seen.log_prob.shape == (3, 6**4, 4)


@pytest.mark.parametrize("name", ["problem", "discounted"])
def test_advantages_are_what_an_action_adds_to_the_mean(name, table, request):
    problem = request.getfixturevalue(name)
    seen = problem.trajectories(table)
    # Given state and action, the mean of what follows, less the mean given the state alone.
    states, actions = problem._visits
    for t in range(4):
        for s in range(3):
            at_state = seen.probabilities * (states[:, t] == s)
            value = (at_state * seen.returns[..., t]).sum(1) / at_state.sum(1)
            for a in range(2):
                taken = at_state * (actions[:, t] == a)
                q = (taken * seen.returns[..., t]).sum(1) / taken.sum(1)
                n = int(((states[:, t] == s) & (actions[:, t] == a)).nonzero()[0])
                torch.testing.assert_close(seen.advantages[:, n, t], q - value)


def test_a_simulated_task_returns_what_the_enumeration_says(problem, table, generator):
    # Drawn step by step: shares no code with the enumeration.
    policy = table["logits"][0].softmax(-1)
    count = 200_000
    state = torch.multinomial(problem.start[0], count, True, generator=generator)
    total = torch.zeros(count, dtype=torch.double)
    for _ in range(problem.horizon):
        action = torch.multinomial(policy[state], 1, generator=generator).squeeze(1)
        total += problem.rewards[0][state, action]
        chances = problem.transitions[0][state, action]
        state = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    exact = problem.expected_return(table)[0]
    assert (total.mean() - exact).abs() < 4 * total.std() / count**0.5


def test_the_hessian_is_that_of_each_task(problem, table):
    got = hessian(problem.exact_loss, table)
    one = take_tasks(problem, 1, 2)

    def loss(logits):
        return -one.expected_return({"logits": logits.view(1, 3, 2)}).sum()

    expected = jacrev(grad(loss))(table["logits"][1].flatten())
    torch.testing.assert_close(got[1], expected)


def test_the_relative_error_is_that_of_each_task():
    exact = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    got = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(relative_error(got, exact), torch.tensor([0.0, 1.0]))


def test_sampled_trajectories_come_as_often_as_they_are_likely(problem, table, generator):
    loss = problem.support_loss("logprob", samples=100_000, generator=generator)
    exact = problem.support_loss("logprob")(table, 0)
    assert (relative_error(loss(table, 0)[:, None], exact[:, None]) < 0.05).all()
    assert (loss(table, 0) != loss(table, 1)).all(), "each step draws again"


def test_too_many_trajectories_are_refused(generator):
    with pytest.raises(SettingsError, match="too many to enumerate"):
        TabularProblem.random(generator, states=10, actions=5, horizon=10)


def _problem(**changes):
    start = torch.full((1, 3), 1 / 3).double()
    transitions = torch.full((1, 3, 2, 3), 1 / 3).double()
    rewards = torch.arange(6.0).double().view(1, 3, 2)
    given = {"start": start, "transitions": transitions, "rewards": rewards, "horizon": 2}
    return TabularProblem(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start": torch.ones(1, 3).double()}, SettingsError, "`start`.*sums of 3 to 3"),
        ({"transitions": torch.rand(1, 3, 2, 3).double() * 0.1}, SettingsError, "`transitions`"),
        (
            {"start": torch.tensor([[-1.0, 1.0, 1.0]]).double()},
            SettingsError,
            "a lowest number of -1",
        ),
        ({"rewards": torch.zeros(1, 3, 1).double()}, ShapeError, r"rewards \[1, 3, 1\]"),
        ({"rewards": torch.zeros(3, 2).double()}, ShapeError, r"\[3, 2\].*T = 1"),
        ({"rewards": torch.zeros(2, 3, 2).double()}, ShapeError, r"rewards \[2, 3, 2\]"),
        ({"rewards": torch.zeros(1, 3, 2)}, ShapeError, "float32"),
        (
            {
                "start": torch.tensor([[1, 0, 0]]),
                "transitions": torch.eye(3).long()[None, :, None].expand(1, 3, 2, 3),
                "rewards": torch.zeros(1, 3, 2).long(),
            },
            ShapeError,
            "of one type of floats, got.*int64",
        ),
        ({"horizon": 0}, SettingsError, "horizon"),
        ({"discount": 1.5}, SettingsError, "discount"),
    ],
)
def test_problems_that_are_none_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        _problem(**changes)


def test_logits_and_estimates_of_another_kind_are_refused():
    problem = _problem()
    for logits in (torch.zeros(1, 1, 2).double(), torch.zeros(1, 3, 2)):
        with pytest.raises(ShapeError, match=r"Expected logits \[1, 3, 2\] in torch.float64"):
            meta_gradient(problem, problem.exact_loss, {"logits": logits}, lr=0.5)
    with pytest.raises(SettingsError, match="advantages"):
        problem.support_loss("dice", estimate="advantage")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="`generator` for `samples`"):
        problem.support_loss("dice", samples=3)
    with pytest.raises(SettingsError, match="`samples` of at least 1, got 0"):
        problem.support_loss("dice", samples=0, generator=torch.Generator())
