"""Factors on the fields of a MuJoCo model, by the names of its parts."""

import re

import pytest
import torch

from metarl.errors import SettingsError
from metarl.sim import (
    Armature,
    Choice,
    Damping,
    Friction,
    Gain,
    JointFriction,
    Mass,
    Ranges,
    Stiffness,
    Uniform,
    make_vec,
)
from metarl.sim.mujoco.physics import compile_model, mj
from tests.sim.robots import ARM, Arms

FACTOR = 1.75  # exact in float32


def changed(text, attribute, pattern):
    """The text with an attribute of the elements of a pattern multiplied by the factor."""

    def scale(match):
        numbers = " ".join(repr(FACTOR * float(n)) for n in match[2].split())
        return f'{match[1]}{attribute}="{numbers}"'

    return re.sub(rf'({pattern}[^>]*? ){attribute}="([^"]*)"', scale, text)


def moved(family, factor=None, steps=40):
    """The positions of a world after some steps of the same actions."""
    env = make_vec(family, 2, device="cpu", autoreset="disabled")
    if factor is not None:
        env.set_tasks({n: torch.full_like(v, factor) for n, v in env.get_tasks().items()})
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        env.step(2 * torch.rand(2, 2, generator=generator) - 1)
    return env.snapshot(0)[0]["qpos"]


@pytest.mark.parametrize(
    ("change", "attribute", "pattern"),
    [
        (Mass("upper fore", Uniform(0.5, 2)), "mass", "<geom name"),
        (Mass("*", Uniform(0.5, 2)), "mass", "<geom name"),
        (Damping("elbow", Uniform(0.5, 2)), "damping", '<joint name="elbow"'),
        (JointFriction("elbow", Uniform(0.5, 2)), "frictionloss", '<joint name="elbow"'),
        (Armature("elbow", Uniform(0.5, 2)), "armature", '<joint name="elbow"'),
        (Stiffness("elbow", Uniform(0.5, 2)), "stiffness", '<joint name="elbow"'),
        (Gain("turn", Uniform(0.5, 2)), "gear", '<motor name="turn"'),
        (Gain("bend", Uniform(0.5, 2)), "kp", '<position name="bend"'),
    ],
    ids=lambda value: getattr(value, "word", ""),
)
def test_a_changed_model_moves_as_one_that_is_written_so(change, attribute, pattern):
    text = changed(ARM, attribute, pattern)
    assert text != ARM
    plain = Arms(parameters={"nothing": Uniform(0, 1)})
    written = moved(Arms(model=text, parameters={"nothing": Uniform(0, 1)}))
    found = moved(Arms(parameters={"change": change}), FACTOR)
    torch.testing.assert_close(found, written, rtol=0, atol=1e-9)
    assert (found - moved(plain)).abs().max() > 1e-4


def test_friction_is_that_of_the_named_geoms():
    family = Arms(parameters={"grip": Friction("fore_geom", Uniform(0.5, 2))})
    fields = family.model_fields({"grip": torch.tensor([2.0])})
    plain = family.default("geom_friction", torch.zeros(1).double())
    found = fields["geom_friction"][0] / plain
    assert [found[i].tolist() for i in range(3)] == [[1] * 3, [1] * 3, [2] * 3]


def test_each_part_may_have_a_factor_of_its_own():
    family = Arms(parameters={"mass": Mass("*", Uniform(0.5, 2), each=True)})
    tasks = family.sample(5, torch.Generator().manual_seed(0)).values
    assert tasks["mass"].shape == (5, 2) and len(tasks["mass"].unique()) == 10
    assert family.task_vector(tasks).shape == (5, 2)
    masses = family.model_fields(tasks)["body_mass"]
    plain = family.default("body_mass", masses)
    torch.testing.assert_close(masses[:, 1:], plain[1:] * tasks["mass"].double())


def test_factors_on_the_same_numbers_multiply():
    family = Arms(
        parameters={"all": Mass("*", Uniform(0.5, 2)), "load": Mass("fore", Uniform(1, 3))}
    )
    two, three = torch.tensor([2.0]), torch.tensor([3.0])
    masses = family.model_fields({"all": two, "load": three})["body_mass"]
    ratio = masses[0, 1:] / family.default("body_mass", masses)[1:]
    assert ratio.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Mass("fort", Uniform(1, 2)), "Did you mean 'fore'"),
        (Mass("leg_*", Uniform(1, 2)), "It has world, upper, fore"),
        (Mass("world", Uniform(1, 2)), "changes nothing"),
        (Damping("shoulder", Uniform(1, 2)), "changes nothing"),
        (Gain("turn elbow", Uniform(1, 2)), "no actuator 'elbow'"),
    ],
)
def test_names_that_mean_nothing_are_refused(change, text):
    with pytest.raises(SettingsError, match=text):
        Arms(parameters={"change": change})


def test_muscles_have_no_gain():
    muscle = ARM.replace(
        '<motor name="turn" joint="shoulder" gear="3"', '<muscle name="turn" joint="elbow"'
    )
    with pytest.raises(SettingsError, match="not proportional"):
        Arms(model=muscle, parameters={"gain": Gain("turn", Uniform(1, 2))})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mass("", Uniform(1, 2)), lambda: Mass(3, Uniform(1, 2)),
        lambda: Mass("fore", 2.0), lambda: Mass("fore", Choice(1.0, 2.0)),
        lambda: Mass("fore", Uniform(-1, 2)),
        lambda: Damping("*", Ranges(Uniform(1, 2), test=Uniform(-2, 1))),
    ],
)  # fmt: skip
def test_arguments_that_are_no_factor_are_refused(make):
    with pytest.raises(SettingsError, match="Expected"):
        make()
    Gain("*", Uniform(-1, 1))  # the way that a motor turns


def test_a_name_with_the_signs_of_a_pattern_means_itself():
    text = ARM.replace('body name="fore"', 'body name="fore[1]"')
    family = Arms(model=text, parameters={"mass": Mass("fore[1]", Uniform(1, 2))})
    model = compile_model(text)
    assert family.parameters["mass"].parts(model) == [
        mj.mj_name2id(model, mj.mjtObj.mjOBJ_BODY, "fore[1]")
    ]


@pytest.mark.parametrize(
    ("change", "attribute", "coefficients"),
    [
        (Damping("elbow", Uniform(0.5, 2)), "damping", "0.05 0.4 0.3"),
        (Damping("elbow", Uniform(0.5, 2)), "damping", "0 0.4"),
        (Stiffness("elbow", Uniform(0.5, 2)), "stiffness", "0.2 1 3"),
    ],
)
def test_all_coefficients_of_a_polynomial_are_scaled(change, attribute, coefficients):
    text = re.sub(rf'{attribute}="[^"]*"', f'{attribute}="{coefficients}"', ARM)
    written = changed(text, attribute, '<joint name="elbow"')
    found = moved(Arms(model=text, parameters={"change": change}), FACTOR)
    expected = moved(Arms(model=written, parameters={"nothing": Uniform(0, 1)}))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (
        found - moved(Arms(model=text, parameters={"nothing": Uniform(0, 1)}))
    ).abs().max() > 1e-4


def test_actuators_with_several_controls():
    text = ARM.replace('<position name="bend" joint="elbow" kp="2" ctrlrange="-1 1"/>', "").replace(
        '<motor name="turn"', '<pid name="bend" joint="elbow" kp="2" kv="0.1"/><motor name="turn"'
    )
    family = Arms(model=text, parameters={"gain": Gain("turn", Uniform(0.5, 2))})
    assert family.action_space.shape == (3,)  # a position, a velocity, and the motor's force
    assert "controls of bend, turn" in str(family.card())
    with pytest.raises(SettingsError, match="not proportional"):
        Arms(model=text, parameters={"gain": Gain("bend", Uniform(0.5, 2))})


def test_friction_of_geoms_that_never_collide_is_refused():
    shown = ARM.replace(
        '<geom name="fore_geom"', '<geom contype="0" conaffinity="0" name="fore_geom"'
    )
    with pytest.raises(SettingsError, match="contype and conaffinity 0"):
        Arms(model=shown, parameters={"grip": Friction("fore_geom", Uniform(0.5, 2))})
    Arms(model=shown, parameters={"grip": Friction("*", Uniform(0.5, 2))})
