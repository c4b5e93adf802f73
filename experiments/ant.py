"""The ant (Finn et al. 2017, section 5.3): run at a speed, in a direction, or to a goal.

    python experiments/ant.py                                     # MAML-TRPO, U(0, 3) m/s
    python experiments/ant.py --family AntGoal-v1                 # goals in a disc
    python experiments/ant.py --family AntLeg-v1                  # a leg fails
    python experiments/ant.py --family AntDirectionRllab-v1       # as in MAML's paper
    python experiments/ant.py --options integrator=implicitfast   # quicker, other dynamics
    python experiments/ant.py --resume latest                     # after Ctrl-C or a crash
    tensorboard --logdir runs/ant

Prints a table of returns on test tasks; an unknown `--family` lists all families. The
rest is as in `half_cheetah.py`.
"""

from metarl_envs.protocols import icml_robots
from metarl_experiments.robot_configs import robot_configs

from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("AntVelocity-v1")


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "Ant", icml_robots)


EXPERIMENT = Experiment("ant", CONFIGS, build, minutes={"maml": 230})

if __name__ == "__main__":
    EXPERIMENT.run()
