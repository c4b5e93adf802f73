"""Any family of control tasks by its name: of MetaRL, of an installed package, or your own.

    python experiments/custom.py --family my_tasks:pendulums            # tasks in my_tasks.py
    python experiments/custom.py --family my_tasks:pendulums --algorithm promp
    python experiments/custom.py --family my_tasks:pendulums --options workers=2
    python experiments/custom.py --family Navigation2D-v1 --training.iterations 20
    python experiments/custom.py --resume latest --trust                # after Ctrl-C or a crash
    tensorboard --logdir runs/custom
    metarl play runs/custom/maml/RUN --trust                            # before and after each step

`--trust` imports the module that the run names; for families with a name alone it is not needed.

`metarl list` lists the installed families; docs/families.md shows how to define one from a
gymnasium environment. Prints a table of returns on test tasks. The defaults are those for robots:
an iteration has 40 tasks of 20 trajectories, before and after adaptation, in 80 worlds at once.
"""

from metarl_experiments.robot_configs import robot_configs

from metarl.errors import SettingsError
from metarl.lab import Components, Experiment
from metarl.lab.robots import FamilySettings, build_family

CONFIGS = robot_configs("", film=0)


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    if not settings.family:
        raise SettingsError(
            "Expected a family of tasks, --family NAME or --family module:Name, got none; "
            "`metarl list` has all names."
        )
    return build_family(settings)


EXPERIMENT = Experiment("custom", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
