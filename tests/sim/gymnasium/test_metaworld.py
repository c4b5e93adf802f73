"""Meta-World's ML1 as a family, where the package is installed beside this MuJoCo."""

from itertools import islice

import pytest
import torch

from metarl.adaptation import MAML
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import GymTaskPool, check_family, check_vector_env, make_vec

mujoco = pytest.importorskip("mujoco")


@pytest.fixture
def reach(monkeypatch):
    """ML1's reach; Meta-World 3.1 asks for MuJoCo 3.3.0, MetaRL for 3.17 or later."""
    reason = "Meta-World is not installed: pip install --no-deps metaworld, and scipy"
    metaworld = pytest.importorskip("metaworld", reason=reason)

    def reset_mocap_welds(self):
        # Its own gives 11 numbers; MuJoCo has 12 since 3.17, 0 for welds with a pose.
        welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5, 0]

    base = "metaworld.sawyer_xyz_env.SawyerMocapBase"
    monkeypatch.setattr(f"{base}.reset_mocap_welds", reset_mocap_welds)
    ml1 = metaworld.ML1("reach-v3", seed=1)
    pools = {
        "train": ml1.train_tasks[:40],
        "validation": ml1.train_tasks[40:],
        "test": ml1.test_tasks,
    }
    return GymTaskPool(ml1.train_classes["reach-v3"], pools, horizon=30)


@pytest.mark.slow
def test_reach_keeps_the_contracts_and_is_adapted_to(reach):
    check_family(reach)
    check_vector_env(make_vec(reach, 2, device="cpu"))
    generator = torch.Generator().manual_seed(0)
    spaces = (reach.observation_space, reach.action_space)
    learner = PolicyLearner(
        MAML(policy_for(spaces, generator, (32,)), inner_lr=0.1), reach,
        PolicyGradientSettings(trajectories=4),
    )  # fmt: skip
    tasks = reach.split("test").sample(3, generator)
    before, after = islice(learner.returns(tasks, 1, generator), 2)
    assert before.shape == after.shape == (3,)
    assert before.isfinite().all() and not torch.equal(before, after)
