"""The benchmark of RL^2: it runs, and its loop plays as many steps."""

import torch

from benchmarks.rl2 import Playing, RL2Benchmark, family_of, main
from metarl.rl.trials.recurrent_learner import RecurrentLearner
from metarl.rl.trials.recurrent_policy import RecurrentPolicy


def test_it_prints_steps_per_second(capsys):
    main(
        RL2Benchmark(
            where="mdp", steps=3, episodes=2, tasks=2, units=4, epochs=1, rounds=2, seconds=0.0
        )
    )
    printed = capsys.readouterr().out
    assert "2 trials of 2 x 3 steps" in printed
    for name in ("loop, trials", "MetaRL, trials", "MetaRL, iteration"):
        assert f"{name}: " in printed


def test_the_loop_plays_one_task_after_the_other(generator, monkeypatch):
    family = family_of(RL2Benchmark(steps=3))
    policy = RecurrentPolicy(family.observation_space, family.action_space, generator, 4)
    learner = RecurrentLearner(policy, family)
    played = []
    whole = learner.play
    monkeypatch.setattr(
        learner, "play", lambda *a: played.append(whole(*a).mask.sum().item()) or None
    )
    for together in (True, False):
        Playing(learner, 5, together)()
    assert played == [15.0] + [3.0] * 5
    assert torch.is_grad_enabled()
