"""Returns and advantages against sums written out step by step."""

import pytest
import torch

from metarl.rl.returns import discounted_returns, gae, sums_to_end

TASKS, EPISODES, STEPS = 2, 6, 13


@pytest.fixture
def episodes(generator):
    """Random numbers, and episodes of every kind: full, terminated, cut short, of one step."""
    shape = (TASKS, EPISODES, STEPS)
    rewards, values, next_values = torch.randn(3, *shape, generator=generator, dtype=torch.double)
    lengths = torch.tensor([STEPS, STEPS, 7, 7, 1, 1]).expand(TASKS, -1)
    by_itself = torch.tensor([False, True, False, True, False, True])
    steps = torch.arange(STEPS)
    mask = (steps < lengths.unsqueeze(-1)).double()
    last = steps == lengths.unsqueeze(-1) - 1
    return {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "terminated": last & by_itself.view(1, -1, 1),
        "mask": mask,
    }


def direct_gae(episodes, gamma, lam):
    """A_t as the sum over all later steps of the episode, O(H^2)."""
    advantages = torch.zeros_like(episodes["rewards"])
    for task in range(TASKS):
        for n in range(EPISODES):
            e = {k: v[task, n].tolist() for k, v in episodes.items()}
            length = int(sum(e["mask"]))
            for t in range(length):
                for k in range(t, length):
                    after = 0.0 if e["terminated"][k] else e["next_values"][k]
                    delta = e["rewards"][k] + gamma * after - e["values"][k]
                    advantages[task, n, t] += (gamma * lam) ** (k - t) * delta
    return advantages


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.97, 1.0])
def test_gae_equals_the_direct_sum(episodes, gamma, lam):
    got = gae(**episodes, gamma=gamma, lam=lam)
    torch.testing.assert_close(got, direct_gae(episodes, gamma, lam), rtol=1e-12, atol=1e-12)


def test_a_truncated_episode_is_worth_its_final_observation_and_a_terminated_one_nothing(episodes):
    got = gae(**episodes, gamma=0.9, lam=0.5)
    delta = episodes["rewards"] - episodes["values"]
    for episode, length, terminated in ((2, 7, False), (3, 7, True), (4, 1, False), (5, 1, True)):
        at = (slice(None), episode, length - 1)
        after = 0 if terminated else 0.9 * episodes["next_values"][at]
        torch.testing.assert_close(got[at], delta[at] + after)


def test_with_lambda_1_advantages_are_returns_less_values(episodes):
    finite = episodes | {"next_values": episodes["next_values"].clone()}
    # V(s_{t+1}) within the episode, nothing after it
    finite["next_values"][..., :-1] = finite["values"][..., 1:] * finite["mask"][..., 1:]
    finite["next_values"][..., -1] = 0
    got = gae(**finite, gamma=0.9, lam=1.0)
    returns = discounted_returns(finite["rewards"], finite["mask"], 0.9)
    torch.testing.assert_close(got, (returns - finite["values"]) * finite["mask"])


def test_returns_equal_the_direct_sum(episodes):
    got = discounted_returns(episodes["rewards"], episodes["mask"], 0.9)
    zeros = torch.zeros_like(episodes["values"])
    expected = direct_gae(episodes | {"values": zeros, "next_values": zeros}, 0.9, 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("garbage", [1e9, float("inf"), float("nan")])
def test_what_stands_after_the_end_counts_for_nothing(episodes, garbage):
    dirty = dict(episodes)
    for name in ("rewards", "values", "next_values"):
        dirty[name] = torch.where(episodes["mask"] > 0, episodes[name], garbage)
    got = gae(**dirty, gamma=0.9, lam=0.9)
    torch.testing.assert_close(got, gae(**episodes, gamma=0.9, lam=0.9), rtol=0, atol=0)
    assert not got[episodes["mask"] == 0].any()
    returns = discounted_returns(dirty["rewards"], dirty["mask"], 0.9)
    expected = discounted_returns(episodes["rewards"], episodes["mask"], 0.9)
    torch.testing.assert_close(returns, expected, rtol=0, atol=0)


def test_what_a_terminated_step_leads_to_is_not_read(episodes):
    dirty = dict(episodes)
    dirty["next_values"] = torch.where(episodes["terminated"], torch.nan, episodes["next_values"])
    got = gae(**dirty, gamma=0.9, lam=0.9)
    torch.testing.assert_close(got, gae(**episodes, gamma=0.9, lam=0.9), rtol=0, atol=0)


def test_longer_padding_changes_nothing(episodes):
    longer = {n: torch.cat((v, torch.zeros_like(v)), -1) for n, v in episodes.items()}
    got = gae(**longer, gamma=0.9, lam=0.9)
    torch.testing.assert_close(got[..., :STEPS], gae(**episodes, gamma=0.9, lam=0.9))
    assert not got[..., STEPS:].any()


def test_the_order_of_episodes_and_tasks_does_not_matter(episodes, generator):
    order = torch.randperm(EPISODES, generator=generator)
    shuffled = {n: v[:, order].flip(0) for n, v in episodes.items()}
    got = gae(**shuffled, gamma=0.9, lam=0.9)
    expected = gae(**episodes, gamma=0.9, lam=0.9)
    torch.testing.assert_close(got, expected[:, order].flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("as_type", [torch.bool, torch.float32, torch.float64, torch.int64])
def test_masks_may_have_any_type(episodes, as_type):
    got = gae(**episodes | {"mask": episodes["mask"].to(as_type)}, gamma=0.9, lam=0.9)
    torch.testing.assert_close(got, gae(**episodes, gamma=0.9, lam=0.9), rtol=0, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 200])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_sums_to_end_follow_the_recursion(steps, decay, generator):
    values = torch.randn(3, steps, generator=generator, dtype=torch.double)
    y = sums_to_end(values, decay)
    later = torch.cat((y[:, 1:], torch.zeros(3, 1, dtype=torch.double)), 1)
    torch.testing.assert_close(y, values + decay * later)
