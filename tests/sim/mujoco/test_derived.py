"""Derived entries, mocap bodies and what families remember, on both engines."""

from dataclasses import dataclass

import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import SettingsError
from metarl.sim import check_family, check_vector_env, make_vec
from tests.sim.families import Cart

ARM = """
<mujoco>
  <option timestep="0.01" integrator="Euler"/>
  <worldbody>
    <body name="target" mocap="true" pos="0 0 0.5"><site name="aim" pos="0.1 0 0"/></body>
    <body name="upper">
      <joint name="swing" type="hinge" axis="0 1 0" damping="1"/>
      <geom name="bone" type="capsule" size="0.02" fromto="0 0 0 0.3 0 0" contype="0"
            conaffinity="0"/>
      <body name="tip" pos="0.3 0 0">
        <joint type="hinge" axis="0 1 0" damping="1"/>
        <geom type="sphere" size="0.05" pos="0.1 0 0" contype="0" conaffinity="0"/>
        <site name="end" pos="0.2 0 0"/>
      </body>
    </body>
  </worldbody>
  <equality><connect body1="target" body2="tip" anchor="0 0 0"/></equality>
  <actuator><motor joint="swing" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>
"""


@dataclass(frozen=True)
class Pulled(Cart):
    """An arm whose tip a mocap body pulls; it is seen where it is and where it was."""

    horizon: int = 20
    model: str = ARM

    name = "Pulled-v1"
    reset_noise = 2
    derived = {  # noqa: RUF012
        "ends": ("site_xpos", ("end", "aim")),
        "tip": ("xpos", ("tip",)),
        "turn": ("xmat", ("tip",)),
    }

    @property
    def observation_space(self):
        return spaces.Box(-np.inf, np.inf, (6,), np.float32)

    def model_fields(self, tasks):
        return {}

    def initial(self, noise, tasks):
        return noise - 0.5, torch.zeros_like(noise)

    def mocap(self, state, actions, tasks):
        move = torch.cat((actions, 0 * actions, actions), 1).unsqueeze(1) * 0.01
        return {"mocap_pos": state["mocap_pos"] + move, "mocap_quat": state["mocap_quat"]}

    def remember(self, before, after, tasks):
        return {"was": after["ends"][:, 0] if before is None else before["ends"][:, 0]}

    def observe(self, state, tasks):
        return torch.cat((state["ends"][:, 0], state["was"]), 1).float()

    def reward(self, before, actions, after, tasks):
        return -tasks["mass"] * (after["tip"] - after["mocap_pos"])[:, 0].norm(dim=1).float()

    def terminated(self, state, tasks):
        return state["qpos"][:, 0] > 9


def reference(state, actions, family):
    """What C MuJoCo gives for one world after each of the actions, [L, 4, 3]."""
    model = mujoco.MjModel.from_xml_string(ARM)
    data = mujoco.MjData(model)
    data.qpos[:], rows = state["qpos"][0], []
    for action in actions:
        data.mocap_pos[0] += action.numpy() * np.array([0.01, 0, 0.01])
        data.ctrl[:] = action
        mujoco.mj_step(model, data, nstep=family.frame_skip)
        mujoco.mj_kinematics(model, data)
        row = (
            data.site("end").xpos,
            data.site("aim").xpos,
            data.body("tip").xpos,
            data.mocap_pos[0],
        )
        rows.append(np.stack(row))
    return torch.from_numpy(np.stack(rows))


def check_like_c(engine, tolerance, own_tolerance):
    """Compares with C from the same start, and the derived entries with those of its positions."""
    family = Pulled()
    env = make_vec(family, 3, device="cpu", engine=engine, autoreset="disabled", seed=2)
    env.reset()
    start = env.snapshot(0)[0]
    actions = torch.rand(15, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, before = reference(start, actions.double(), family), start
    for action, there in zip(actions, expected, strict=True):
        env.step(action.expand(3, 1))
        state = env.snapshot(0)[0]
        found = torch.cat((state["ends"], state["tip"], state["mocap_pos"]), 1)[0]
        torch.testing.assert_close(found.double(), there, rtol=0, atol=tolerance)
        positions = {n: state[n].double() for n in ("qpos", "mocap_pos", "mocap_quat")}
        at_positions = family.completed(positions, env.get_tasks())
        for name in family.derived:
            torch.testing.assert_close(
                state[name].double(), at_positions[name], rtol=0, atol=own_tolerance
            )
        assert torch.equal(state["was"], before["ends"][:, 0])
        assert state["turn"].shape == (1, 1, 9)
        before = state


def test_the_contracts_are_kept():
    check_family(Pulled())
    for mode in ("same_step", "disabled"):
        check_vector_env(make_vec(Pulled(), 4, device="cpu", autoreset=mode))


def test_the_engine_gives_what_c_gives():
    check_like_c("mujoco", 1e-9, 1e-12)


@pytest.mark.slow
def test_warp_gives_what_c_gives():
    pytest.importorskip("mujoco_warp")
    check_like_c("warp", 5e-3, 1e-5)


def test_a_reset_of_some_worlds_leaves_the_others():
    env = make_vec(Pulled(), 4, device="cpu", autoreset="disabled")
    env.reset()
    for _ in range(3):
        env.step(torch.ones(4, 1))
    before = [env.snapshot(w)[0] for w in range(4)]
    env.reset(options={"reset_mask": torch.tensor([True, False, True, False]).numpy()})
    for world, old in enumerate(before):
        new = env.snapshot(world)[0]
        same = [torch.equal(new[name], old[name]) for name in ("ends", "was", "mocap_pos")]
        assert same == [world % 2 == 1] * 3


def test_a_saved_episode_goes_on_to_the_bit():
    first = make_vec(Pulled(), 3, device="cpu", seed=1, autoreset="disabled")
    first.reset()
    for _ in range(5):
        first.step(torch.ones(3, 1))
    second = make_vec(Pulled(), 3, device="cpu", autoreset="disabled")
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        one, two = (env.step(-torch.ones(3, 1))[:2] for env in (first, second))
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("xpoz", ("tip",)), "field of the derived entry 'a' 'xpoz'"),
        (("xpos", ("tipp",)), "no body 'tipp'. Did you mean 'tip'"),
        (("site_xpos", ()), "Expected names of a site for 'a', got none"),
    ],
)
def test_unknown_entries_are_refused(entry, said):
    @dataclass(frozen=True)
    class Other(Pulled):
        derived = {"a": entry}  # noqa: RUF012

    with pytest.raises(SettingsError, match=said):
        make_vec(Other(), 2, device="cpu")
