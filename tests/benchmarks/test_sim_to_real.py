"""The robots of the benchmark of transfers are what it says they are."""

from functools import partial

import numpy as np
import pytest

from benchmarks.sim_to_real import GYMNASIUM, MUJOCO, MuJoCoCart, Target, adapted, robot
from tests.deploy.conftest import make_policy_learner, train


@pytest.mark.parametrize("target", [*GYMNASIUM, *MUJOCO], ids=lambda t: t.name)
def test_robots_step_and_fall(target):
    env = robot(target)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,) and np.abs(observation).max() < 0.1
    fell = False
    for _ in range(200):
        observation, reward, fell, _, _ = env.step(1)
        assert reward == 1.0
        if fell:
            break
    assert fell  # pushed to one side all the time
    env.close()


def test_mujocos_pendulum_is_in_the_order_and_on_the_side_of_training():
    env = MuJoCoCart(Target("plain", gain=9.0))
    env.reset(seed=0)
    for _ in range(3):
        right, *_ = env.step(1)
    assert right[1] > 0 and right[3] < 0  # the cart goes right, the pole falls left
    mirrored = MuJoCoCart(Target("mirrored", gain=-9.0))
    mirrored.reset(seed=0)
    for _ in range(3):
        left, *_ = mirrored.step(1)
    assert left[1] < 0 and left[3] > 0
    late = MuJoCoCart(Target("late", latency=1))
    start, _ = late.reset(seed=0)
    first, *_ = late.step(1)
    assert first[1] < 0.1  # no force yet
    assert np.isfinite(start).all()


def test_a_run_is_adapted(tmp_path):
    from metarl_envs.cart_pole import CartPole

    family = CartPole(horizon=5)
    _, folder = train(make_policy_learner(family), family, tmp_path)
    rows, steps, seconds = adapted(str(folder), partial(robot, GYMNASIUM[0]))
    assert list(rows) == ["unadapted", *(f"adapted, {n} episodes" for n in (1, 5, 20))]
    assert seconds == pytest.approx(0.02 * steps)
