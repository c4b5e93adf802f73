"""The hopper (Rothfuss et al. 2019): another body, ground, load or strength in each task.

    python experiments/hopper.py                                  # MAML-TRPO, other bodies
    python experiments/hopper.py --family HopperSlope-v1          # adapt to going uphill
    python experiments/hopper.py --options integrator=implicitfast  # quicker, other dynamics
    python experiments/hopper.py --resume latest                  # after Ctrl-C or a crash
    tensorboard --logdir runs/hopper

Prints a table of returns on test tasks; an unknown `--family` lists all families. The
rest is as in `half_cheetah.py`.
"""

from metarl_experiments.robot_configs import robot_configs

from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("HopperRandomParameters-v1")


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "Hopper")


EXPERIMENT = Experiment("hopper", CONFIGS, build, minutes={"maml": 110})

if __name__ == "__main__":
    EXPERIMENT.run()
