"""2D navigation: rewards computed again as the authors' code does, task ranges, ends."""

import math

import numpy as np
import pytest
import torch
from metarl_envs import Navigation2D, Navigation2DCorner, Navigation2DSparse

from metarl.errors import SettingsError
from metarl.sim import make_vec
from metarl.tasks.base import SPLITS

WORLDS = 64
TASKS = 20_000


def play(family, size=1.0, spread=0.3, seed=0):
    """Positions before and after, clipped actions, goals and what each step gave, in numpy."""
    env = make_vec(family, WORLDS, device="cpu", autoreset="disabled", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    goal = env.get_tasks()["goal"].double().numpy()
    before = env.reset()[0].double().numpy()
    going = np.full(WORLDS, True)
    for _ in range(family.horizon):
        # Towards the goal and away from the way there, so that all that may happen does.
        aim = torch.from_numpy(goal - before) + spread * torch.randn(WORLDS, 2, generator=generator)
        actions = (size * aim).float()
        seen, reward, terminated, truncated, _ = env.step(actions)
        after = seen.double().numpy()
        moves = actions.clamp(-1, 1).double().numpy()
        yield [v[going] for v in (before, moves, after, goal, reward, terminated.numpy())]
        before, going = after, ~terminated.numpy()
    env.check()
    assert truncated.all()


def sample(family, seed=0):
    return family.sample(TASKS, torch.Generator().manual_seed(seed)).values["goal"].double()


def kolmogorov_smirnov(values, low, high):
    share = ((values.flatten() - low) / (high - low)).sort().values
    ranks = torch.arange(len(share) + 1, dtype=torch.double) / len(share)
    return (torch.maximum(ranks[1:] - share, share - ranks[:-1]).max() * len(share) ** 0.5).item()


UNLIKELY = 1.95  # exceeded with probability 0.001 by uniform draws


def close(computed, expected):
    np.testing.assert_allclose(computed.numpy(), expected, rtol=1e-4, atol=2e-6)


def test_navigation_as_its_authors_compute_it():
    ended = 0
    for before, actions, after, goal, reward, terminated in play(Navigation2D(), 3.0):
        close(torch.from_numpy(after), before + 0.1 * actions)
        x, y = (after - goal).T
        close(reward, -((x**2 + y**2) ** 0.5))
        assert np.array_equal(terminated, (abs(x) < 0.01) & (abs(y) < 0.01))
        ended += int(terminated.sum())
    assert 0 < ended < WORLDS


def test_standing_still_and_walking_straight_give_what_is_known():
    goals = torch.from_numpy(np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))).float()
    env = make_vec(Navigation2D(), 40, device="cpu", autoreset="disabled")
    env.set_tasks({"goal": goals})
    returns = []
    for greedy in (False, True):
        seen, _ = env.reset()
        total, going = torch.zeros(40), torch.ones(40)
        for _ in range(100):
            aim = (goals - seen) * 10 if greedy else torch.zeros(40, 2)
            seen, reward, terminated, *_ = env.step(aim)
            total += reward * going
            going *= ~terminated
        returns.append(total.mean().item())
    # The 40 goals of the ICML figures: MAML's own value before adapting is -40.4. Walking straight
    # is the best there is: the rests of |g| after 1 to 5 steps of 0.1 along each axis.
    rest = sum((goals.abs() - 0.1 * k).clamp(min=0).norm(dim=1) for k in range(1, 6))
    assert returns[0] == pytest.approx(-40.08, abs=0.01)
    assert returns[1] == pytest.approx(-rest.mean().item(), abs=1e-4)
    assert returns[1] == pytest.approx(-0.544, abs=0.001)


def test_sparse_rewards_as_their_authors_compute_them():
    inside = 0
    for before, actions, after, goal, reward, terminated in play(Navigation2DSparse(), 5.0):
        close(torch.from_numpy(after), before + 0.1 * actions)
        dense = -np.linalg.norm(after - goal, axis=1)
        near = dense >= -0.2
        clear = abs(dense + 0.2) > 1e-6  # at the very edge rounding decides
        close(reward[clear], np.where(near, 1 + dense, 0)[clear])
        inside += int(near.sum())
        assert not terminated.any()
    assert 0 < inside < 20 * WORLDS


def test_dense_rewards_of_the_sparse_family():
    dense, sparse = Navigation2DSparse(dense=True), Navigation2DSparse()
    for _, _, after, goal, reward, _ in play(dense, 5.0):
        close(reward, -np.linalg.norm(after - goal, axis=1))
    assert torch.equal(sample(dense), sample(sparse))
    assert "sparse" in str(sparse.card()) and "dense rewards" in str(dense.card())


def test_corner_rewards_as_their_authors_compute_them():
    corners = np.array([[-2, -2], [2, -2], [-2, 2], [2, 2]])
    kinds = set()
    for before, actions, after, goal, reward, terminated in play(Navigation2DCorner(), 0.6, 4.0):
        close(torch.from_numpy(after), before + 0.2 * actions)
        to_goal = np.linalg.norm(after - goal, axis=1)
        nearest = np.linalg.norm(after[:, None] - corners, axis=2).min(1)
        far = np.linalg.norm(after, ord=1, axis=1) >= 0.5
        right = to_goal <= nearest + 1e-9
        progress = np.linalg.norm(before - goal, axis=1) - to_goal
        close(reward, np.where(far & right, progress, 0))
        kinds |= set(zip(far.tolist(), right.tolist(), strict=True))
        assert not terminated.any()
    assert len(kinds) == 4


def test_goals_of_each_split_are_uniform_over_the_whole_range():
    for seed, part in enumerate(SPLITS):
        goals = sample(Navigation2D(part=part), seed)
        for column in goals.T:
            assert -0.5 <= column.min() < column.max() <= 0.5
            assert kolmogorov_smirnov(column, -0.5, 0.5) < UNLIKELY
        assert torch.corrcoef(goals.T)[0, 1].abs() < 4 / TASKS**0.5
        goals = sample(Navigation2DSparse(part=part), seed)
        torch.testing.assert_close(goals.norm(dim=1), torch.ones(TASKS).double())
        assert kolmogorov_smirnov(torch.atan2(goals[:, 1], goals[:, 0]), 0, math.pi) < UNLIKELY


def test_splits_share_no_goal():
    def cells(part):
        goals = sample(Navigation2D(part=part), SPLITS.index(part))
        return set(((goals[:, 0] + 0.5) * 3 * 1024).floor().long().tolist())

    train, validation, test = map(cells, SPLITS)
    assert len(train) == 1024
    assert not (train & validation or train & test or validation & test)


def test_all_corners_are_as_likely_and_starts_uniform():
    goals, counts = sample(Navigation2DCorner()).unique(dim=0, return_counts=True)
    assert sorted(map(tuple, goals.tolist())) == [(-2, -2), (-2, 2), (2, -2), (2, 2)]
    assert (counts - TASKS / 4).abs().max() < 4 * (TASKS * 3 / 16) ** 0.5
    starts = make_vec(Navigation2DCorner(), TASKS, device="cpu").reset()[0].double()
    assert kolmogorov_smirnov(starts, -0.2, 0.2) < UNLIKELY
    assert not Navigation2DCorner().card().disjoint


@pytest.mark.parametrize("kind", [Navigation2D, Navigation2DSparse, Navigation2DCorner])
def test_bad_settings(kind):
    with pytest.raises(SettingsError, match="Did you mean 'train'"):
        kind(part="trian")
    with pytest.raises(SettingsError, match="at least 1 task, got 0"):
        kind().sample(0, torch.Generator())
