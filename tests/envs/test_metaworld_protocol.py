"""Meta-World's benchmarks and protocol: goals and numbers are those of Meta-World itself."""

from functools import partial
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs import MetaWorldReach, Navigation2D
from metarl_envs.metaworld import benchmark
from metarl_envs.metaworld_package import is_installed, package
from metarl_envs.metaworld_protocol import JUDGED, judge, original

from metarl.adaptation import MAML
from metarl.errors import SettingsError
from metarl.models.base import task_params
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl.experience import estimate_advantages
from metarl.rl.problem import ControlProblem
from metarl.rl.rollouts import Rollouts, draw_noise
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.sim import check_family

pytestmark = pytest.mark.skipif(not is_installed(), reason="Meta-World is not installed")

STEPS = 20


def learner_of(family):
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (16,))
    return PolicyLearner(
        MAML(policy, inner_lr=20.0), family, PolicyGradientSettings(trajectories=3)
    )


class OneWorld:
    """A learner of gradients as an agent of Meta-World's evaluation, in one world."""

    def __init__(self, learner, noise):
        self.learner, self.noise = learner, noise

    def init(self):
        self.params, self.taken = task_params(self.learner.policy, 1), []

    def _distribution(self, observations):
        seen = torch.from_numpy(observations).float().view(1, 1, 1, -1)
        return self.learner.policy.distribution(self.params, seen)

    def adapt_action(self, observations):
        episode, step = divmod(len(self.taken), STEPS)
        draw = self.noise.actions[:, episode : episode + 1, step : step + 1]
        return self._distribution(observations).sample(draw)[0, 0].detach().numpy(), {}

    def step(self, timestep):
        values = (timestep.observation, timestep.action, timestep.reward)
        self.taken.append([torch.from_numpy(np.asarray(v)).float() for v in values])

    def adapt(self):
        seen, actions, rewards = (torch.stack(v, 1) for v in zip(*self.taken, strict=True))
        shape = (1, -1, STEPS)
        seen, actions, rewards = seen.view(*shape, 39), actions.view(*shape, 4), rewards.view(shape)
        ones = torch.ones_like(rewards)
        with torch.no_grad():
            behaviour = self.learner.policy.distribution(self.params, seen)
        rollouts = Rollouts(seen, actions, rewards, ones, ones < 0, seen[:, :, -1], behaviour)
        batch = estimate_advantages(rollouts, self.learner.settings)
        path = self.learner._inner_loop(
            lambda params, _: self.learner._inner_loss(params, batch), None, 1, 1, first_order=True
        )
        self.params = list(path)[-1].params

    def eval_action(self, observations):
        return self._distribution(observations).mean[0, 0].detach().numpy()

    def reset(self, mask):
        del mask


@pytest.mark.slow
def test_it_agrees_with_metaworlds_own_evaluation_of_one_goal():
    family = MetaWorldReach(horizon=STEPS)
    learner = learner_of(family)
    own, tasks = original(family.split("test"), 1)
    generator = torch.Generator().manual_seed(1)
    measured = judge(learner, own, tasks, generator)
    noise = draw_noise(learner.policy, own, 1, 10, torch.Generator().manual_seed(1))
    make = partial(
        package()._init_each_env, env_cls=type(own.probe), tasks=[own.pools["test"][0]], seed=1,
        max_episode_steps=STEPS, task_select="pseudorandom",
    )  # fmt: skip
    envs = gymnasium.vector.SyncVectorEnv(
        [make], autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
    )
    evaluation = package("metaworld.evaluation").metalearning_evaluation
    success, mean_return, _ = evaluation(OneWorld(learner, noise), envs, num_evals=1)
    assert success == measured["success"].mean()
    assert measured["return"].mean() == pytest.approx(mean_return, rel=1e-4)
    with torch.no_grad():  # the adaptation changes what is judged
        for parameter in learner.policy.parameters():
            parameter.zero_()
    assert judge(learner, own, tasks, generator)["return"].mean() != pytest.approx(
        mean_return, 1e-3
    )


@pytest.mark.slow
def test_both_places_give_the_same_numbers():
    family = MetaWorldReach(horizon=STEPS)
    learner, goals = learner_of(family), 2
    numbers = []
    for where, tasks in (
        (family.split("test"), family.split("test").tasks_at(torch.arange(goals))),
        original(family.split("test"), goals),
    ):
        numbers.append(judge(learner, where, tasks, torch.Generator().manual_seed(2)))
    assert numbers[0]["return"].shape == (goals, JUDGED)
    torch.testing.assert_close(numbers[0], numbers[1], rtol=1e-4, atol=1e-4)


def test_a_recurrent_learner_is_judged_after_ten_episodes():
    family = MetaWorldReach(horizon=4)
    gradients = PolicyGradientSettings(trajectories=1, clip=0.2)
    problem = ControlProblem(family, torch.Generator().manual_seed(0), gradients, hidden=())
    learner = RL2Algorithm(units=8).build(problem)
    tasks = family.tasks_at(torch.arange(2))
    measured = judge(learner, family, tasks, torch.Generator().manual_seed(0), 1)
    assert measured["return"].shape == measured["success"].shape == (2, JUDGED)
    assert (measured["return"] > 0).all()


def test_other_learners_are_refused():
    family = Navigation2D(horizon=4)
    other = SimpleNamespace(worlds=SimpleNamespace(observe_task=False))
    tasks = family.sample(2, torch.Generator())
    with pytest.raises(SettingsError, match="Expected a PolicyLearner with a Gaussian policy"):
        judge(other, family, tasks, torch.Generator())


@pytest.mark.slow
def test_a_benchmark_of_many_environments_is_a_family():
    family = benchmark("ML10", seed=1, horizon=8)
    assert {p: len(t) for p, t in family.pools.items()} == {
        "train": 500, "validation": 500, "test": 250,
    }  # fmt: skip
    assert family.card().disjoint
    learner = learner_of(family)
    tasks = family.sample(2, torch.Generator().manual_seed(0))
    *_, measured = learner.measures(tasks, 1, torch.Generator().manual_seed(0))
    assert measured["return"].isfinite().all() and (measured["success"] <= 1).all()


@pytest.mark.slow
def test_ml1_keeps_the_contract_of_families():
    check_family(benchmark("push-v3", seed=1, horizon=30))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reach-v3", "ML10"])
def test_goals_are_those_that_metaworld_draws(name, monkeypatch):
    family = benchmark(name, seed=1)
    base = package("metaworld.sawyer_xyz_env").SawyerMocapBase
    monkeypatch.setattr(base, "reset_mocap_welds", type(family.probe).reset_mocap_welds)
    theirs = getattr(package(), name)(seed=1) if name == "ML10" else package().ML1(name, seed=1)
    assert list(family.pools["train"]) == theirs.train_tasks
    assert list(family.pools["test"]) == theirs.test_tasks
