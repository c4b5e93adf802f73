"""Tasks that have changed since a run was trained are noticed."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML, GradientLearner
from metarl.models import MLP
from metarl.sim import Fact, GymTasks, Latency, Uniform
from metarl.training import learner_file
from metarl.training.other_worlds import warn_of_other_worlds
from tests.deploy.conftest import make_policy_learner, train
from tests.sim.gymnasium.environments import Slide


class Wider(Slide):
    """Its actions reach further."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)


def slides(env=Slide, horizon=6, fastest=0.2, **more):
    ranges = {"speed": Uniform(-0.2, fastest), **more}
    return GymTasks(env, ranges, horizon=horizon, name="Slides-v1")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (slides(horizon=9), r"other horizon, 9 \(in training 6\)\. What"),
        (slides(Wider), "since it was trained: other space of actions"),
        (Navigation2D(horizon=6), "other space of observations; other space of actions"),
        (
            slides(fastest=0.5),
            r"other tasks, 'speed ~ U\(-0\.2, 0\.5\).*training 'speed ~ U\(-0\.2, 0\.2\)",
        ),
        (slides(late=Latency(1)), "other tasks, .*late: actions late by 1 steps"),
    ],
)
def test_tasks_that_have_changed_since_training_warn(now, message, tmp_path):
    _, folder = train(make_policy_learner(slides()), slides(), tmp_path)
    checkpoint = folder / "checkpoints" / "step_000002"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_worlds(checkpoint, make_policy_learner(slides()))
        net = MLP((1, 1), torch.Generator())
        warn_of_other_worlds(checkpoint, GradientLearner(MAML(net)))  # other code refuses it
        warn_of_other_worlds(tmp_path / "none" / "step_000002", make_policy_learner(slides()))
    with pytest.warns(RuntimeWarning, match=message):
        warn_of_other_worlds(checkpoint, make_policy_learner(now))


def test_cards_of_other_versions_and_addresses_in_them_are_not_compared(tmp_path, monkeypatch):
    _, folder = train(make_policy_learner(slides()), slides(), tmp_path)
    checkpoint = folder / "checkpoints" / "step_000002"
    later = slides(fastest=0.5)
    with monkeypatch.context() as patch:
        patch.setattr("metarl.__version__", "9.9")
        warn_of_other_worlds(checkpoint, make_policy_learner(later))  # warnings are errors
    facts = (Fact("reward", "<function reward at 0x7fab>"), Fact("horizon", "6 steps"))
    card = replace(slides().card(), facts=facts)
    assert learner_file._facts(card) == {"reward": "<function reward>"}
