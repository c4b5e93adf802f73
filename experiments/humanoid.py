"""The humanoid (Rothfuss et al. 2019): run in a direction known only through the reward.

    python experiments/humanoid.py                                # MAML-TRPO
    python experiments/humanoid.py --options solver=Newton        # as on MuJoCo Warp
    python experiments/humanoid.py --options integrator=implicitfast  # quicker, other dynamics
    python experiments/humanoid.py --resume latest                # after Ctrl-C or a crash
    tensorboard --logdir runs/humanoid

Prints a table of returns on test tasks; an unknown `--family` lists all families. The
rest is as in `half_cheetah.py`.
"""

from metarl_experiments.robot_configs import robot_configs

from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("HumanoidDirection-v1", hidden=(128, 128), init_std=0.2)


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "Humanoid")


EXPERIMENT = Experiment("humanoid", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
