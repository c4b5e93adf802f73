import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import GymTasks, Uniform, VectorEnvTasks
from metarl.training import OuterLoop, TrainingSettings
from tests.sim.batched.simulators import Points, set_gains


class Reach(gymnasium.Env):
    """A point that reports in `info` whether it is near its goal."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    goal = 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.x += 0.3 * float(action[0])
        distance = abs(self.x - self.goal)
        seen = np.array([self.x], np.float32)
        return seen, -distance, False, False, {"is_success": distance < 0.1, "distance": distance}


class Successes(Points):
    """Reports successes as gymnasium does."""

    def step(self, actions):
        *result, info = super().step(actions)
        mask = np.ones(self.num_envs, bool)
        return (*result, {**info, "success": np.zeros(self.num_envs, bool), "_success": mask})


def reach(**options):
    return GymTasks(Reach, {"goal": Uniform(-1, 1)}, horizon=4, **options)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (reach, "is_success"),
        (lambda: VectorEnvTasks(Successes, set_gains, {"gain": Uniform(1, 2)}, 4), "success"),
        (lambda: reach(metrics={"is_success": "any"}), None),
        (lambda: reach(workers=1), None),  # which send numbers only
    ],
)
def test_a_training_says_which_successes_nobody_reads(make, name, tmp_path, capsys):
    family = make()
    policy = policy_for(family, torch.Generator().manual_seed(0), hidden=(4,))
    learner = PolicyLearner(MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=2))
    assert learner.notes() == []
    settings = TrainingSettings(iterations=1, meta_batch_size=2, eval_every=0)
    OuterLoop(learner, family, settings, tmp_path).run()
    note = f"reports '{name}' in `info`: metrics={{'{name}': \"any\"}}"
    shown = " ".join(capsys.readouterr().err.split())
    assert (note in shown) == ("reports" in shown) == (name is not None)
