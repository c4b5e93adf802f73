"""URDF as MJCF: the same motion, actuators, free bases, floors, meshes and errors."""

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError
from metarl.sim import Uniform, check_family, from_urdf, make_vec
from metarl.sim.mujoco.physics import compile_model, mj
from tests.sim.robots import Arms

MJCF = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01"/>
  <worldbody><body name="arm"><inertial pos="0.1 0 0" mass="2" diaginertia="0.01 0.02 0.02"/>
    <joint name="turn" type="hinge" axis="0 1 0" range="-1 2" damping="0.3"/>
    <body name="hand" pos="0.2 0 0"><inertial pos="0 0 0" mass="0.5" diaginertia="1e-3 1e-3 1e-3"/>
      <joint name="push" type="slide" axis="1 0 0" range="0 0.1"/></body></body></worldbody>
  <actuator><motor name="turn" joint="turn" gear="4" ctrlrange="-1 1"/>
    <motor name="push" joint="push" gear="2" ctrlrange="-1 1"/></actuator>
</mujoco>"""
URDF = """
<robot name="arm">
  <link name="base"/>
  <link name="arm"><inertial><origin xyz="0.1 0 0"/><mass value="2"/>
    <inertia ixx="0.01" iyy="0.02" izz="0.02" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="hand"><inertial><mass value="0.5"/>
    <inertia ixx="1e-3" iyy="1e-3" izz="1e-3" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="turn" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 1 0"/>
    <limit lower="-1" upper="2" effort="9" velocity="9"/><dynamics damping="0.3"/></joint>
  <joint name="push" type="prismatic"><parent link="arm"/><child link="hand"/>
    <origin xyz="0.2 0 0"/><axis xyz="1 0 0"/><limit lower="0" upper="0.1" effort="9" velocity="9"/>
  </joint>
</robot>"""
LONE = """
<robot name="box">
  <link name="body"><inertial><mass value="1"/>
    <inertia ixx="0.1" iyy="0.1" izz="0.1" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><sphere radius="0.1"/></geometry></collision></link>
  <link name="wheel"><inertial><mass value="1"/>
    <inertia ixx="0.1" iyy="0.1" izz="0.1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="spin" type="continuous"><parent link="body"/><child link="wheel"/><axis xyz="1 0 0"/>
  </joint>
</robot>"""
MOTORS = {"turn": 4.0, "push": 2.0}
TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def family(model):
    return Arms(model=model, parameters={"angle": Uniform(-1, 1)})


def test_a_urdf_moves_as_the_same_mjcf():
    states = []
    for model in (MJCF, from_urdf(URDF, motors=MOTORS, timestep=0.01)):
        env = make_vec(family(model), 3, device="cpu", autoreset="disabled")
        env.reset(seed=0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            env.step(2 * torch.rand(3, 2, generator=generator) - 1)
        states.append(env.snapshot(1)[0])
    torch.testing.assert_close(*states)
    assert states[0]["qpos"].abs().max() > 0.05
    check_family(family(from_urdf(URDF, motors=MOTORS)))


def test_servos_hold_positions_within_the_limits():
    model = from_urdf(URDF, servos={"turn": 300.0}, motors={"push": 1.0})
    arms = family(model)
    assert arms.action_space.low.tolist() == [-1, -1]
    names = [arms.compiled.actuator(i).name for i in range(2)]
    turn = names.index("turn")
    assert arms.action_space.high[turn] == 2
    env = make_vec(arms.with_settings(horizon=400), 1, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    action = torch.zeros(1, 2)
    action[0, turn] = 0.7
    for _ in range(400):
        env.step(action)
    assert abs(env.snapshot(0)[0]["qpos"][0, 0] - 0.7) < 0.05


def test_a_floating_base_falls_onto_the_floor():
    model = compile_model(from_urdf(LONE, motors={"spin": 1.0}, floating=True, floor=True))
    assert (model.nq, model.nu) == (8, 1)
    data = mj.MjData(model)
    data.qpos[2] = 0.5
    mj.mj_step(model, data, 2000)
    assert data.qpos[2] == pytest.approx(0.1, abs=0.01)


def test_meshes_are_found_beside_the_file(tmp_path):
    (tmp_path / "hand.obj").write_text(TETRAHEDRON, encoding="utf-8")
    mesh = '<collision><geometry><mesh filename="hand.obj"/></geometry></collision>'
    path = tmp_path / "arm.urdf"
    head, _, tail = URDF.rpartition("</link>")
    path.write_text(f"{head}{mesh}</link>{tail}", encoding="utf-8")
    model = compile_model(from_urdf(str(path), motors=MOTORS))
    assert (model.nmesh, model.nq) == (1, 2)
    assert np.isfinite(model.geom_size).all()


@pytest.mark.parametrize(
    ("urdf", "options", "text"),
    [
        (URDF, {"motors": {"tun": 1.0}}, "Did you mean 'turn'"),
        (URDF, {"motors": {"turn": 0.0}}, "turn"),
        (LONE, {"servos": {"spin": 1.0}}, "no limits"),
        (URDF, {"floating": True, "motors": MOTORS}, "'base' has no mass"),
        ("<robot><joint/></robot>", {}, "does not compile"),
        ("missing.urdf", {}, "no file"),
        (URDF, {"timestep": 0.0}, "timestep"),
        (URDF.replace("</robot>", '<xacro:leg n="1"/></robot>'), {}, "'<xacro:leg', a macro"),
    ],
)
def test_what_cannot_be_read_is_refused(urdf, options, text):
    with pytest.raises(SettingsError, match=text):
        from_urdf(urdf, **options)


def test_macros_in_a_comment_and_the_name_space_of_xacro_are_no_macros(tmp_path):
    text = URDF.replace("<robot ", '<robot xmlns:xacro="http://wiki.ros.org/xacro" ')
    text = text.replace("</robot>", '<!-- from <xacro:leg\nn="1"/> --></robot>')
    assert text.count("xacro") == 3
    path = tmp_path / "arm.urdf"
    path.write_text(text, encoding="utf-8")
    assert compile_model(from_urdf(path, motors=MOTORS)).nu == 2


@pytest.mark.parametrize("uri", ["package://my_arm/meshes/hand.obj", "file://{}/meshes/hand.obj"])
@pytest.mark.parametrize("package", ["my_arm", "my_arm-1.2"])
def test_meshes_of_a_package_are_found_above_the_file(tmp_path, uri, package):
    root = tmp_path / package
    for folder in ("meshes", "urdf"):
        (root / folder).mkdir(parents=True)
    (root / "meshes" / "hand.obj").write_text(TETRAHEDRON, encoding="utf-8")
    mesh = f'<collision><geometry><mesh filename="{uri.format(root)}"/></geometry></collision>'
    path = root / "urdf" / "arm.urdf"
    head, _, tail = URDF.rpartition("</link>")
    path.write_text(f"{head}{mesh}</link>{tail}", encoding="utf-8")
    assert compile_model(from_urdf(path, motors=MOTORS)).nmesh == 1
    (root / "meshes" / "hand.obj").unlink()
    with pytest.raises(SettingsError, match=r"hand\.obj"):
        from_urdf(path, motors=MOTORS)


def test_actuators_are_given_by_the_names_of_joints():
    with pytest.raises(SettingsError, match="Expected `motors` to map names of joints"):
        from_urdf(URDF, motors=["turn"])
