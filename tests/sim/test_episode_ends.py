"""Worlds that are over stay as they ended and earn nothing, however they ended, in every engine."""

from dataclasses import dataclass

import pytest
import torch

from metarl.sim import GymTasks, Uniform, check_family, check_vector_env, make_vec
from metarl.sim.vector_env import TensorVectorEnv
from metarl.tasks.check_sampling import equal
from tests.sim.families import Cart, Drift
from tests.sim.gymnasium.environments import Slide
from tests.sim.warp.devices import prepare_warp

WORLDS = 6


@dataclass(frozen=True)
class Endless(Drift):
    """Never terminates."""

    name = "Endless-v1"

    def terminated(self, state, tasks):
        return torch.zeros(len(state["place"]), dtype=torch.bool)


@dataclass(frozen=True)
class Framed(Endless):
    """Is cut off where it leaves the frame of a camera; terminates further out."""

    name = "Framed-v1"

    def terminated(self, state, tasks):
        return state["place"].abs() > 2

    def truncated(self, state, tasks):
        return state["place"].abs() > 1


class FramedSlide(Slide):
    """A Slide whose end is a truncation."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, False, terminated, info


FAMILIES = {
    "torch": Drift(), "torch, endless": Endless(), "torch, cut": Framed(), "mujoco": Cart(),
    "gymnasium": GymTasks(Slide, {"speed": Uniform(-0.2, 0.2)}, horizon=6),
    "gymnasium, cut": GymTasks(FramedSlide, {"speed": Uniform(-0.2, 0.2)}, horizon=6),
}  # fmt: skip


def make(name, **settings):
    if name == "warp":
        prepare_warp("cpu")
        name, settings = "mujoco", {"engine": "warp", **settings}
    env = make_vec(FAMILIES[name], WORLDS, **{"device": "cpu", "autoreset": "disabled", **settings})
    env.reset(seed=0)
    return env


def push(scale=1.0):
    return scale * torch.linspace(0, 1, WORLDS).unsqueeze(1)


@pytest.mark.parametrize("name", [*FAMILIES, "warp"])
def test_what_is_over_stays_as_it_ended_and_earns_nothing(name):
    env = make(name)
    over = torch.zeros(WORLDS, dtype=torch.bool)
    last = None
    for step in range(1, 13):
        kept = [env.snapshot(world)[0] for world in over.nonzero().flatten().tolist()]
        observation, reward, terminated, truncated, _ = env.step(push())
        now = [env.snapshot(world)[0] for world in over.nonzero().flatten().tolist()]
        if name not in ("gymnasium", "gymnasium, cut"):  # their reward is of the last step: 0
            assert equal(kept, now)
        if last is not None:
            assert torch.equal(observation[over], last[0][over])
            assert (reward[over] == 0).all()
            assert torch.equal(terminated[over], last[1][over])
        last, over = (observation, terminated), terminated | truncated
        if step == 3:
            assert not over.all()
        assert step < 6 or over.all()
    # One is started again; the others are not.
    started = torch.arange(WORLDS) == 2
    observation, _ = env.reset(options={"reset_mask": started})
    assert torch.equal(observation[~started], last[0][~started])
    assert not torch.equal(observation[2], last[0][2])
    observation, reward, *_ = env.step(push())
    assert (reward[~started] == 0).all() and reward[2] != 0
    assert torch.equal(observation[~started], last[0][~started])


@pytest.mark.parametrize("name", ["torch, cut", "gymnasium, cut"])
def test_a_truncation_by_the_family_is_no_termination(name):
    env = make(name)
    ends = [env.step(push(2.0))[2:4] for _ in range(5)]
    terminated, truncated = (torch.stack(rows) for rows in zip(*ends, strict=True))
    assert not terminated.any()
    assert truncated[-1].any() and not truncated[-1].all()  # before the horizon
    assert torch.equal(truncated, truncated.cummax(0).values)


@pytest.mark.parametrize("name", ["torch, cut", "gymnasium, cut"])
def test_autoreset_starts_worlds_that_the_family_cut_off(name):
    env = make(name, autoreset="same_step")
    for _ in range(20):
        observation, _, terminated, truncated, info = env.step(push(2.0))
        done = terminated | truncated
        assert torch.equal(info["_final_obs"], done)
        assert torch.equal(observation[~done], info["final_obs"][~done])
        assert (observation[done, 1] == 0).all()  # the number of steps
        assert not terminated.any()


@pytest.mark.parametrize("name", ["torch, cut", "gymnasium, cut"])
@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_the_contracts_are_kept(name, autoreset):
    check_family(FAMILIES[name])
    check_vector_env(make(name, autoreset=autoreset))


def test_an_episode_is_that_of_its_steps():
    env, twin = make("torch, cut"), make("torch, cut")
    found, expected = env.episode(lambda _: push(2.0)), twin.run_step_by_step(lambda _: push(2.0))
    for name in ("observations", "rewards", "terminated", "truncated"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.truncated is not None and found.truncated.any()
    # What the worlds do after they were cut off is not counted: none terminates.
    assert not found.terminated.any()
    assert equal(env.state_dict()["state"], twin.state_dict()["state"])
    assert env.snapshot(WORLDS - 1)[0]["steps"] < 6  # as it was when the world was cut off
    for name in ("elapsed", "over", "cut", "seen"):
        assert torch.equal(env.state_dict()[name], twin.state_dict()[name]), name
    after = env.step(push())
    assert torch.equal(after[0], found.observations[:, -1]) and (after[1] == 0).all()


def test_a_saved_state_keeps_how_worlds_ended():
    env, other = make("torch, cut"), make("torch, cut")
    for _ in range(4):
        env.step(push(2.0))
    values = env.state_dict()
    assert values["cut"].any()
    other.load_state_dict(values)
    first, second = (e.step(push()) for e in (env, other))
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))
    del values["cut"]  # a state of MetaRL 0.1
    TensorVectorEnv.load_state_dict(other, values)
    assert not other.state_dict()["cut"].any()
