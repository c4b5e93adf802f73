"""The cart-pole of tensors steps as gymnasium's does."""

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.cart_pole import CartPole

from metarl.sim import check_family, make_vec

TASKS = {
    "usual": {"length": 0.5, "pole_mass": 0.1, "cart_mass": 1.0, "force": 10.0},
    "long and mirrored": {"length": 1.4, "pole_mass": 0.4, "cart_mass": 2.0, "force": -6.0},
}


def gymnasium_cart(task):
    env = gymnasium.make("CartPole-v1").unwrapped
    env.length, env.masspole, env.masscart = task["length"], task["pole_mass"], task["cart_mass"]
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length
    env.force_mag = task["force"]
    return env


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_it_steps_as_gymnasiums(task):
    family, env = CartPole(), gymnasium_cart(task)
    tasks = {n: torch.tensor([v]) for n, v in task.items()}
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.reset(seed=int(rng.integers(1000)))
        state = {"state": torch.from_numpy(env.state.astype(np.float32)).unsqueeze(0)}
        for _ in range(60):
            action = int(rng.integers(2))
            before = state
            state = family.step(state, torch.tensor([action]), tasks, torch.empty(1, 0))
            expected, reward, terminated, _, _ = env.step(action)
            np.testing.assert_allclose(family.observe(state, tasks)[0], expected, atol=2e-5)
            given = family.reward(before, torch.tensor([action]), state, tasks)
            assert float(given) == reward
            near = min(abs(abs(expected[0]) - family.far), abs(abs(expected[2]) - family.steepest))
            assert bool(family.terminated(state, tasks)) == terminated or near < 1e-4
            if terminated:
                break


def test_its_spaces_and_its_rate_are_gymnasiums():
    family, env = CartPole(), gymnasium.make("CartPole-v1").unwrapped
    np.testing.assert_allclose(family.observation_space.high, env.observation_space.high)
    assert family.action_space == env.action_space and family.step_seconds == env.tau
    starts = np.stack([env.reset(seed=s)[0] for s in range(200)])
    noise = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    own = family.reset({}, noise)["state"]
    assert abs(starts).max() <= 0.05 and own.abs().max() <= 0.05
    assert abs(starts.std() - own.numpy().std()) < 0.002


def test_the_motor_pushes_the_other_way_in_half_of_the_tasks():
    force = CartPole().sample(1000, torch.Generator().manual_seed(0)).values["force"]
    assert 0.45 < float((force < 0).float().mean()) < 0.55
    plain = CartPole(mirrored=False).sample(1000, torch.Generator().manual_seed(0)).values
    assert torch.equal(force.abs(), plain["force"]) and plain["force"].min() > 0


def test_it_is_a_family():
    check_family(CartPole(horizon=20))
    env = make_vec(CartPole(), 3, "cpu")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 4)
