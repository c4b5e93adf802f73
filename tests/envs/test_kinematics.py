"""The centre of mass from positions and velocities, against MuJoCo's own."""

import mujoco
import numpy as np
import pytest
import torch
from metarl_envs.kinematics import Skeleton, rotation, skeleton
from metarl_envs.models import gymnasium_model, own_model

from metarl.sim.mujoco.physics import compile_model

ARM = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="base" pos="1 2 3" euler="0.3 0.2 0.1">
      <joint type="slide" axis="1 1 0" ref="0.4"/>
      <geom type="box" size=".1 .2 .3"/>
      <body pos=".1 .2 .3" euler="0.5 -0.2 0.9">
        <joint axis="0 1 2" pos=".1 0 -.2" ref="0.7"/>
        <joint axis="1 0 0" pos="0 .3 0"/>
        <geom type="box" size=".3 .2 .1" pos=".1 .1 .2"/>
        <body pos="0 0 1" euler="1 1 1"><geom size=".2" pos=".3 0 0"/></body>
        <body pos="0 1 0" euler="1 0 1"><joint axis="0 0 1"/><geom size=".2" pos=".3 0 0"/></body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
MODELS = {
    "half_cheetah": own_model("half_cheetah.xml"),
    "ant": gymnasium_model("ant.xml"),
    "humanoid": gymnasium_model("humanoid.xml"),
    "walker2d": gymnasium_model("walker2d_v5.xml"),
    "arm": ARM,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_centre_of_mass_and_its_velocity_are_mujocos(model):
    compiled = compile_model(model)
    data = mujoco.MjData(compiled)
    random = np.random.default_rng(0)
    qpos = compiled.qpos0 + random.normal(size=(5, compiled.nq))
    qvel = random.normal(size=(5, compiled.nv))
    positions, speeds = torch.from_numpy(qpos), torch.from_numpy(qvel)
    own = skeleton(model, positions)
    centres, velocities = own.motion(positions, speeds)
    for world in range(5):
        data.qpos[:], data.qvel[:] = qpos[world], qvel[world]
        mujoco.mj_forward(compiled, data)
        mujoco.mj_subtreeVel(compiled, data)
        np.testing.assert_allclose(centres[world], data.subtree_com[0], atol=1e-12)
        np.testing.assert_allclose(velocities[world], data.subtree_linvel[0], atol=1e-12)
    assert torch.equal(own.centre(positions), centres)
    coarse = skeleton(model, positions.float()).centre(positions.float())
    torch.testing.assert_close(coarse, centres.float(), rtol=1e-5, atol=1e-5)


def test_rotations_are_those_of_mujoco():
    quaternion, matrix = np.array([0.3, -0.9, 0.2, 0.7]), np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion / np.linalg.norm(quaternion))
    own = rotation(torch.from_numpy(quaternion)[None])[0]
    np.testing.assert_allclose(own.flatten(), matrix, atol=1e-15)


def test_only_roots_may_slide():
    sliding = ARM.replace('<joint axis="0 0 1"/>', '<joint axis="0 0 1" type="slide"/>')
    with pytest.raises(AssertionError, match="only the root"):
        Skeleton(compile_model(sliding), torch.empty(0))
