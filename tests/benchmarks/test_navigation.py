"""The loop that control is measured against computes what MetaRL computes."""

import numpy as np
import pytest
import torch
from metarl_envs.navigation import Navigation2D

from benchmarks import navigation
from benchmarks import navigation_loop as loop
from benchmarks.parts import PARTS
from metarl.adaptation import MAML
from metarl.models.base import task_params
from metarl.rl.experience import estimate_advantages
from metarl.rl.fisher import flatten
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import make_vec
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.trees import map_tensors, take_tasks

T, N, H = 3, 8, 20
FAMILY = Navigation2D(horizon=H)
SETTINGS = PolicyGradientSettings(trajectories=N)


def build(steps=1, **settings):
    """MetaRL and the loop with one policy; in float64 where the tests compare derivatives."""
    policy = policy_for(FAMILY, torch.Generator().manual_seed(1), (10, 10), init_std=0.7)
    learner = PolicyLearner(MAML(policy, 0.3, steps), FAMILY, SETTINGS)
    settings = TrustRegionSettings(**settings)
    theirs = loop.NavigationLoop(loop.LoopPolicy(policy), SETTINGS, settings, 0.3, steps, T, H)
    return learner, settings.build(learner, TrainingSettings()), theirs


def doubled(learner, theirs):
    """Rollouts of both in float64, with the behaviour as it is there."""
    generator = torch.Generator().manual_seed(0)
    inputs = learner.collect(FAMILY.sample(T, generator), generator, 0)
    inputs = map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)
    learner.double()
    theirs.policy.double()
    adapted = map_tensors(torch.Tensor.detach, learner.adapted_distribution(inputs))
    last = inputs.experience[-1]
    log_probs = adapted.log_prob(last.rollouts.actions)
    last = last._replace(rollouts=last.rollouts._replace(behaviour=adapted), log_probs=log_probs)
    object.__setattr__(inputs, "experience", (*inputs.experience[:-1], last))
    return inputs, [[episodes(e, t) for e in inputs.experience] for t in range(T)]


def episodes(seen, task):
    """Ours of one task, in the loop's words."""
    r = take_tasks(seen, task, task + 1).rollouts
    fields = (r.observations, r.actions, r.rewards, r.mask, r.behaviour.mean)
    return loop.Episodes(
        *(f[0] for f in fields), r.behaviour.log_std.flatten(), seen.log_probs[task],
        seen.advantages[task],
    )  # fmt: skip


@pytest.fixture
def collected():
    """Episodes of the loop and of ours from the same random numbers, ending early in one task."""
    learner, _, theirs = build()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        noise = torch.stack([torch.randn(N, 2) for _ in range(H)], 1).unsqueeze(0)
        torch.manual_seed(3)
        goal = np.array([0.1, 0.05], np.float32)
        theirs.envs.call("set_task", goal)
        seen = loop.collect(theirs.envs, theirs.policy, H)
    drawn = draw_noise(learner.policy, FAMILY, 1, N, torch.Generator())._replace(actions=noise)
    env = make_vec(FAMILY, N, device="cpu", autoreset="disabled")
    tasks = {"goal": torch.from_numpy(goal).unsqueeze(0)}
    return seen, collect(env, learner.policy, task_params(learner.policy, 1), tasks, drawn)


def test_the_same_policy_gives_the_same_episodes(collected):
    theirs, ours = collected
    valid = ours.mask[0] > 0
    torch.testing.assert_close(theirs.mask, ours.mask[0])
    torch.testing.assert_close(theirs.rewards, ours.rewards[0])
    for name in ("observations", "actions"):
        torch.testing.assert_close(getattr(theirs, name)[valid], getattr(ours, name)[0][valid])


def test_they_give_the_same_advantages(collected):
    theirs, ours = collected
    ours.terminated[0, 2, 4] = True  # one that ends early, for any goal
    ours.mask[0, 2, 5:] = 0
    ours.rewards.mul_(ours.mask)
    theirs = theirs._replace(mask=ours.mask[0], rewards=ours.rewards[0])
    expected = estimate_advantages(ours, SETTINGS)
    found = loop.with_advantages(theirs, SETTINGS)
    torch.testing.assert_close(found.advantages, expected.advantages[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_and_the_fisher_product_are_ours(steps):
    learner, update, theirs = build(steps, damping=1e-3)
    inputs, batch = doubled(learner, theirs)
    update.gradient(inputs)
    expected = flatten([p.grad for p in learner.parameters()])
    loss, divergence = theirs.judge(batch)
    found = flatten(torch.autograd.grad(loss, theirs.params, retain_graph=True))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    product = theirs.hessian_product(divergence)
    torch.testing.assert_close(
        product(expected), update._fisher_product(inputs)(expected), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kept", [None, 2])
def test_an_outer_update_moves_both_alike(kept):
    learner, update, theirs = build(fisher_trajectories=kept, damping=0.1, max_kl=0.005)
    inputs, batch = doubled(learner, theirs)
    before = flatten([p.detach() for p in theirs.params])
    assert theirs.improve(batch)
    assert update(inputs, 0).metrics["meta/line_search/accepted"] == 1
    found, expected = (
        flatten([p.detach() for p in params]) for params in (theirs.params, learner.parameters())
    )
    assert (found - before).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_whole_iteration_of_the_loop_runs():
    _, _, theirs = build(max_kl=0.05)
    before = flatten([p.detach() for p in theirs.params])
    for _ in range(2):
        theirs()
    assert not torch.equal(flatten([p.detach() for p in theirs.params]), before)


def test_a_small_benchmark_prints_all_its_tables(monkeypatch, capsys):
    monkeypatch.setattr(navigation, "TASKS", (1, 2))
    monkeypatch.setattr(navigation, "STEPS", (1, 2))
    navigation.main(
        navigation.NavigationBenchmark(
            growth=True, tasks=2, trajectories=3, horizon=5, task_chunk_size=1, rounds=2,
            seconds=0, threads=torch.get_num_threads(),
        )
    )  # fmt: skip
    printed = capsys.readouterr().out
    for part, *_ in PARTS:
        assert printed.count(f"│ {part} ") == 2
    for words in ("2 tasks x 3 rollouts x 5 steps", "a meta-iteration", "more tasks", "more steps"):
        assert words in printed
