"""The walker in the plane (Rothfuss et al. 2019): a speed, a direction, another body or ground.

    python experiments/walker2d.py                                # MAML-TRPO, U(0, 10) m/s
    python experiments/walker2d.py --family Walker2dRandomParameters-v1  # other bodies
    python experiments/walker2d.py --family Walker2dSlope-v1      # adapt to going uphill
    python experiments/walker2d.py --options integrator=implicitfast  # quicker, other dynamics
    python experiments/walker2d.py --resume latest                # after Ctrl-C or a crash
    tensorboard --logdir runs/walker2d

Prints a table of returns on test tasks; an unknown `--family` lists all families. The
rest is as in `half_cheetah.py`.
"""

from metarl_experiments.robot_configs import robot_configs

from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("Walker2dVelocity-v1")


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "Walker2d")


EXPERIMENT = Experiment("walker2d", CONFIGS, build, minutes={"maml": 140})

if __name__ == "__main__":
    EXPERIMENT.run()
