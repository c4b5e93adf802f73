"""Families whose dynamics are MuJoCo's: models, fields and settings."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError
from metarl.sim import check_family
from metarl.sim.mujoco.physics import mj
from tests.sim.families import CART, Cart
from tests.sim.robots import ARM, Arms


def test_check_family_finds_nothing():
    check_family(Cart())


def test_a_model_is_a_file_or_a_text(tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    for family in (Cart(), Cart(model=str(path))):
        assert family.compiled.body_mass.tolist() == [0, 2]
        assert family.dt == pytest.approx(0.04)
    assert Cart(frame_skip=10).dt == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/no/cart.xml"}, "found no file '/no/cart.xml'"),
        ({"model": "<mujoco><geom/></mujoco>"}, "MJCF text does not compile: .*'geom'"),
        ({"model": CART.replace('size="0.1"', 'size="-1"')}, "does not compile: .*size 0 must be"),
        ({"integrator": "euler"}, "Unknown integrator 'euler'. Did you mean 'Euler'.*implicitfast"),
        ({"frame_skip": 0}, "frame_skip of at least 1, got 0 of Cart-v1"),
    ],
)
def test_models_that_cannot_be_used(settings, message):
    with pytest.raises(SettingsError, match=message):
        _ = Cart(**settings).compiled


def test_a_file_that_does_not_compile_is_named(tmp_path):
    path = tmp_path / "broken.xml"
    path.write_text("<mujoco>")
    with pytest.raises(SettingsError, match=r"MJCF file '.*broken.xml' does not compile"):
        _ = Cart(model=str(path)).compiled


def test_another_integrator_leaves_the_model_of_others_alone():
    model = Cart(integrator="implicitfast").compiled
    assert model.opt.integrator != Cart().compiled.opt.integrator
    assert Cart(integrator="Euler").compiled.opt.integrator == Cart().compiled.opt.integrator


def test_controls_are_clipped_where_the_model_has_limits():
    limited = Cart(model=CART.replace("gear", 'ctrllimited="true" ctrlrange="-0.5 2" gear'))
    actions = torch.tensor([[-9.0], [0.1], [9.0]])
    assert torch.equal(limited.controls(actions, {}), torch.tensor([[-0.5], [0.1], [2.0]]))
    assert limited.action_space.low == -0.5 and limited.action_space.high == 2
    assert torch.equal(Cart().controls(actions, {}), actions)
    assert Cart().action_space.high == np.inf


def test_defaults_of_fields():
    like = torch.zeros(1, dtype=torch.float64)
    family = Cart(model=CART.replace('gravity="0 0 0"', 'gravity="0 0 -3"'))
    assert family.default("opt.gravity", like).tolist() == [0, 0, -3]
    family.default("body_mass", like).zero_()
    assert family.default("body_mass", like).tolist() == [0, 2]
    assert family.default("body_mass", like.float()).dtype == torch.float32
    with pytest.raises(SettingsError, match=r"no field 'body_mas' .*Did you mean 'body_mass'"):
        family.default("body_mas", like)


def test_gymnasiums_models_leave_no_log_behind(tmp_path):
    code = "from metarl.sim import make_vec; make_vec('HalfCheetahVelocity-v1', 1, 'cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == done.stderr == ""
    assert os.listdir(tmp_path) == []


def test_a_file_that_changed_is_read_again(tmp_path, monkeypatch):
    part, path = tmp_path / "part.xml", tmp_path / "arm.xml"
    path.write_text(ARM.replace("</worldbody>", '<include file="part.xml"/></worldbody>'))
    stone = '<mujocoinclude><body name="stone"><geom size="0.1" mass="{}"/></body></mujocoinclude>'
    part.write_text(stone.format(1))
    assert Arms(model=str(path)).compiled.body("stone").mass == 1
    part.write_text(stone.format(20))
    family = Arms(model=path)
    assert family.compiled.body("stone").mass == 20
    assert Arms(model=path).compiled is family.compiled  # not compiled for each family
    monkeypatch.chdir(tmp_path)
    assert Arms(model="arm.xml").compiled.nbody == 4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "arm.xml").write_text(ARM)
    monkeypatch.chdir(tmp_path / "other")
    assert Arms(model="arm.xml").compiled.nbody == 3


def test_a_text_may_begin_with_the_mark_of_its_byte_order():
    assert Arms(model="\ufeff" + ARM).compiled.nu == 2


@pytest.mark.parametrize("model", [ARM.encode(), mj.MjSpec.from_string(ARM), None])
def test_models_that_are_no_text_are_refused(model):
    with pytest.raises(SettingsError, match="Expected the path of an MJCF file or its text"):
        Arms(model=model)
