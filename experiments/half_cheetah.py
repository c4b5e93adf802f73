"""The half cheetah (Finn et al. 2017, section 5.3): run at a speed or in a direction.

    python experiments/half_cheetah.py                          # MAML-TRPO, velocities of U(0, 2)
    python experiments/half_cheetah.py --options fastest=3      # of U(0, 3), as ProMP and PEARL
    python experiments/half_cheetah.py --family HalfCheetahDirection-v1
    python experiments/half_cheetah.py --family HalfCheetahSlope-v1     # adapt to going uphill
    python experiments/half_cheetah.py --family HalfCheetahVelocityRllab-v1 --horizon 200  # MAML's
    python experiments/half_cheetah.py --algorithm promp        # an unknown name lists them all
    python experiments/half_cheetah.py --resume latest          # after Ctrl-C or a crash
    tensorboard --logdir runs/half_cheetah
    metarl play runs/half_cheetah/maml/RUN                      # returns before and after each step

Prints a table of returns on test tasks; an unknown `--family` lists all families. MuJoCo takes most
of the time and uses all CPUs: an iteration has 160 000 environment steps, 2.2 hours of the robot's
time.
"""

from metarl_envs.protocols import icml_robots
from metarl_experiments.robot_configs import robot_configs

from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("HalfCheetahVelocity-v1", horizon=100)


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "HalfCheetah", icml_robots)


EXPERIMENT = Experiment("half_cheetah", CONFIGS, build, minutes={"maml": 29})

if __name__ == "__main__":
    EXPERIMENT.run()
