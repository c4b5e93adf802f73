"""Factors on friction that change nothing are refused; MuJoCo's own contacts are the reference."""

import mujoco
import pytest

from metarl.errors import SettingsError
from metarl.sim import Friction, Mass, MujocoTasks, Ranges, Uniform
from metarl.sim.mujoco.physics import mj

SLED = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1" {floor}/>
    <body name="sled" pos="0 0 .09">
      <freejoint/>
      <geom name="sole" type="box" size=".1 .1 .1" {sole}/>
    </body>
  </worldbody>
  <actuator><adhesion name="push" body="sled" ctrlrange="0 1"/></actuator>
  {more}
</mujoco>"""


class Sleds(MujocoTasks):
    """A sled on a floor."""

    name, frame_skip, horizon = "Sleds-v1", 2, 5

    def reward(self, before, actions, after, tasks):
        return after["qpos"][:, 0].float()


def model(floor="", sole="", more=""):
    return SLED.format(floor=floor, sole=sole, more=more)


def contact_friction(text, factor):
    """The friction of the contacts in MuJoCo where that of the sole is multiplied."""
    compiled = mj.MjModel.from_xml_string(text)
    compiled.geom_friction[compiled.geom("sole").id] *= factor
    data = mujoco.MjData(compiled)
    mj.mj_forward(compiled, data)
    return [
        (c.friction[:5] * ([1] * (c.dim - 1) + [0] * (6 - c.dim))).tolist() for c in data.contact
    ]


CASES = {
    "the floor has more": ({}, (0.3, 0.9), False),
    "the floor has less": ({"floor": 'friction=".5"'}, (0.3, 0.9), True),
    "the factor exceeds it": ({}, (0.5, 2), True),
    "the floor has priority": ({"floor": 'priority="1"'}, (0.5, 2), False),
    "the sole has priority": ({"sole": 'priority="1"'}, (0.3, 0.9), True),
    "no friction": ({"floor": 'condim="1"', "sole": 'condim="1"'}, (0.5, 2), False),
    "the other masks": ({"floor": 'contype="2" conaffinity="2"'}, (0.5, 2), False),
    "a pair": ({"more": '<contact><pair geom1="floor" geom2="sole"/></contact>'}, (0.5, 2), False),
    "excluded": (
        {"more": '<contact><exclude body1="world" body2="sled"/></contact>'},
        (0.5, 2),
        False,
    ),
    "torsion": ({"sole": 'friction=".1 .1 .1" condim="4"'}, (0.5, 2), True),
    "no torsion": ({"sole": 'friction=".1 .1 .1"'}, (0.5, 2), False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_factor_on_friction_changes_a_contact_or_is_refused(case):
    parts, (low, high), changes = CASES[case]
    text = model(**parts)
    assert (contact_friction(text, low) != contact_friction(text, high)) == changes

    def build():
        return Sleds(model=text, parameters={"grip": Friction("sole", Uniform(low, high))})

    if changes:
        assert build().name == "Sleds-v1"
        return
    with pytest.raises(SettingsError, match=r"'grip' of Sleds-v1.* changes nothing"):
        build()


def test_factors_on_both_geoms_change_their_contact():
    ranges = Uniform(0.3, 0.9)
    both = {"sole": Friction("sole", ranges), "floor": Friction("floor", ranges)}
    assert Sleds(model=model(), parameters=both).name == "Sleds-v1"
    tests = Ranges(ranges, test=Uniform(0.9, 1.5))
    assert Sleds(model=model(), parameters={"sole": Friction("sole", tests)}).name == "Sleds-v1"


def test_other_friction_of_the_family_itself_is_not_judged():
    class Wet(Sleds):
        def model_fields(self, tasks):
            fields = super().model_fields(tasks)
            fields["geom_friction"][:, 0] = 0.1  # the floor
            return fields

    grip = {"grip": Friction("sole", Uniform(0.3, 0.9))}
    assert Wet(model=model(), parameters=grip).name == "Sleds-v1"


def test_the_mass_of_bodies_that_no_joint_moves_is_refused():
    stand = '<body name="stand" pos="3 0 1"><geom size=".1" mass="2"/></body></worldbody>'
    text = model().replace("</worldbody>", stand)
    with pytest.raises(SettingsError, match="fixed to the world"):
        Sleds(model=text, parameters={"load": Mass("stand", Uniform(0.5, 2))})
    Sleds(model=text, parameters={"load": Mass("stand sled", Uniform(0.5, 2))})
