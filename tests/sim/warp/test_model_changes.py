"""Changed models, late actions and noisy sensors: Warp moves as MuJoCo's own engine does."""

import pytest

from metarl.sim import (
    Armature,
    Damping,
    Gain,
    JointFriction,
    Latency,
    LogUniform,
    Mass,
    SensorNoise,
    Stiffness,
    Uniform,
)
from tests.sim.robots import Arms
from tests.sim.warp.test_engine import both, errors

CHANGES = {
    "masses": Mass("*", LogUniform(0.5, 2), each=True),
    "damping": Damping("elbow", Uniform(0.5, 2)),
    "friction": JointFriction("elbow", Uniform(0.5, 2)),
    "armature": Armature("elbow", Uniform(0.5, 2)),
    "spring": Stiffness("elbow", Uniform(0.5, 2)),
    "gain": Gain("*", Uniform(0.5, 2)),
    "late": Latency(0, 3),
    "noise": SensorNoise(0, 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_every_change_moves_the_arm_as_on_the_cpu(warp_device, autoreset):
    warp, own = both(Arms(parameters=CHANGES), 16, warp_device, autoreset=autoreset)
    assert errors(warp, own, 7).max() < 1e-3
