"""What rollouts are measured against gives the same episodes as ours."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.plain_navigation import PlainNavigation2D
from metarl.sim import make_vec


@pytest.mark.filterwarnings("ignore:.*A Box observation space .*imum value is -?infinity")
def test_it_is_an_environment_of_gymnasium():
    check_env(PlainNavigation2D(), skip_render_check=True)


def test_the_same_actions_give_the_same_rewards_and_ends():
    worlds = 16
    ours = make_vec("Navigation2D-v1", worlds, device="cpu", seed=1)
    goals = ours.get_tasks()["goal"].numpy()
    plain = SyncVectorEnv(
        [lambda g=g: PlainNavigation2D(g) for g in goals], autoreset_mode=AutoresetMode.SAME_STEP
    )
    observation, _ = ours.reset()
    seen, _ = plain.reset()
    generator = torch.Generator().manual_seed(0)
    ends = []
    for _ in range(100):
        np.testing.assert_allclose(observation.numpy(), seen, atol=1e-6)
        noise = torch.randn(worlds, 2, generator=generator)
        actions = 8 * (torch.from_numpy(goals) - observation) + noise
        observation, reward, terminated, truncated, _ = ours.step(actions)
        seen, plain_reward, plain_terminated, plain_truncated, _ = plain.step(actions.numpy())
        np.testing.assert_allclose(reward.numpy(), plain_reward, atol=1e-6)
        assert np.array_equal(terminated.numpy(), plain_terminated)
        assert np.array_equal(truncated.numpy(), plain_truncated)
        ends.append((plain_terminated.any(), plain_truncated.any()))
    assert np.any(ends, axis=0).all()  # both kinds of ends were met
    plain.close()
