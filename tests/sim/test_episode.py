"""Whole episodes: judged afterwards, they are those of worlds that are stepped one by one."""

import pytest
import torch
from metarl_envs import Bandit, TabularMDP, Walker2dVelocity
from metarl_envs.navigation import Navigation2D, Navigation2DCorner, Navigation2DSparse

from metarl.errors import SimulationError
from metarl.sim import GymTasks, TensorVectorEnv, Uniform, WorldNoise, episode, make_vec
from metarl.sim.episode import hold_last
from metarl.tasks.check_sampling import equal
from tests.sim.families import Drift
from tests.sim.gymnasium.environments import Slide
from tests.sim.test_vector_env import Spent

WORLDS = 7
FAMILIES = [
    Drift(), Spent(), Navigation2D(horizon=30), Navigation2DSparse(), Navigation2DCorner(),
    Bandit(), TabularMDP(), Walker2dVelocity(horizon=40),
]  # fmt: skip


def actor(env, seed=1):
    """Acts by what is seen: a wrong observation gives other actions."""
    generator = torch.Generator().manual_seed(seed)
    space = env.single_action_space
    factor = torch.randn(env.single_observation_space.shape[0], 6, generator=generator)

    def act(seen):
        numbers = 2 * torch.randn(len(seen), 6, generator=generator) + seen.nan_to_num() @ factor
        if not space.shape:
            return numbers[:, : int(space.n)].argmax(1)
        return numbers[:, : space.shape[0]]

    return act


def make(family, **settings):
    settings = {"device": "cpu", "autoreset": "disabled", "seed": 3, **settings}
    return make_vec(family, WORLDS, **settings)


def prepared(family):
    generator = torch.Generator().manual_seed(2)
    return WorldNoise(
        torch.rand(WORLDS, family.reset_noise, generator=generator),
        torch.rand(WORLDS, family.horizon, family.step_noise, generator=generator),
    )


@pytest.mark.parametrize("most", [1, 100, 2**20])
@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_an_episode_is_that_of_its_steps(family, follows, most, monkeypatch):
    monkeypatch.setattr(episode, "MOST_NUMBERS", most)
    env, twin = make(family), make(family)
    for each in (env, twin):
        each.follow(prepared(family) if follows else None)
    for _ in range(2):
        found, expected = env.episode(actor(env)), twin.run_step_by_step(actor(twin))
        here = ~expected.over()
        assert torch.equal(found.actions[here], expected.actions[here])
        for name in ("observations", "rewards", "terminated"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        for name in ("elapsed", "over", "generator"):
            assert torch.equal(env.state_dict()[name], twin.state_dict()[name]), name
        assert equal(env.state_dict()["state"], twin.state_dict()["state"])
    if isinstance(family, Drift | Walker2dVelocity):
        assert expected.terminated.any() and expected.over().any()


def test_an_oracle_is_told_the_task_throughout():
    env = make(Drift(), observe_task=True)
    seen = env.episode(actor(env)).observations
    speeds = env.get_tasks()["speed"].view(WORLDS, 1).expand(WORLDS, 7)
    assert torch.equal(seen[..., 2], speeds)


def test_an_observer_sees_every_step():
    env, told = make(Drift()), []
    env.observer = lambda who, reward: told.append(reward)
    rewards = env.episode(actor(env)).rewards
    assert told[0] is None and torch.equal(torch.stack(told[1:], 1), rewards)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(
    "family",
    [Drift(), GymTasks(Slide, {"speed": Uniform(-0.2, 0.2)}, horizon=6)],
    ids=lambda f: type(f).__name__,
)
def test_worlds_that_reset_themselves_play_one_episode_too(family, autoreset):
    env, twin = make(family, autoreset=autoreset), make(family)
    for each in (env, twin):
        each.follow(prepared(family))
        each.observer = lambda *_: None  # steps one by one
    push = torch.linspace(0, 2, WORLDS).unsqueeze(1)
    found, expected = (each.episode(lambda _: push) for each in (env, twin))
    assert expected.over().sum() > 0 and torch.equal(found.over(), expected.over())
    for name in ("observations", "rewards", "terminated"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    # All episodes are over: the next step starts others, in its way.
    _, reward, terminated, truncated, _ = env.step(push)
    assert (terminated | truncated).all() == (autoreset == "same_step")
    assert autoreset == "same_step" or not reward.any()
    assert not env.state_dict()["elapsed"].any()


class Broken(Drift):
    """Pays what is not a number in one step of the task of the highest speed."""

    def reward(self, before, actions, after, tasks):
        wrong = (after["steps"] == 3) & (tasks["speed"] == tasks["speed"].max())
        return super().reward(before, actions, after, tasks).masked_fill(wrong, torch.nan)


def test_a_wrong_value_is_told_with_its_world_and_step():
    for run in (TensorVectorEnv.episode, TensorVectorEnv.run_step_by_step):
        env = make(Broken())
        env.set_tasks({"speed": 0.1 * (torch.arange(WORLDS) == 4)})
        with pytest.raises(SimulationError, match=r"World 4 has the reward nan in step 2 .*0\.1"):
            run(env, lambda seen: torch.zeros(WORLDS, 1))


def test_actions_outside_the_space_are_told():
    env = make(Bandit(arms=5))
    with pytest.raises(SimulationError, match="World 0 has the action 5 in step 0"):
        env.episode(lambda seen: torch.full((WORLDS,), 5))


def test_what_is_held_repeats():
    values = torch.arange(8).view(2, 4)
    assert hold_last(values, torch.tensor([1, 9])).tolist() == [[0, 1, 1, 1], [4, 5, 6, 7]]
    wide = values.unsqueeze(2).expand(2, 4, 3)
    assert torch.equal(hold_last(wide, torch.tensor([1, 3]))[0, :, 2], torch.tensor([0, 1, 1, 1]))
