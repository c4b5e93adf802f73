"""The half cheetah (Finn et al. 2017, section 5.3): run as fast, or in the direction, that pays.

    python experiments/half_cheetah.py                          # MAML-TRPO, velocities of U(0, 2)
    python experiments/half_cheetah.py --fastest 3              # of U(0, 3), as ProMP and PEARL
    python experiments/half_cheetah.py --task direction         # forwards or backwards
    python experiments/half_cheetah.py --algorithm promp        # an unknown name lists them all
    python experiments/half_cheetah.py --resume latest          # after a stop of any kind
    tensorboard --logdir runs/half_cheetah
    metarl play runs/half_cheetah/maml/RUN                      # returns before and after each step

Ends with a table of returns on test tasks. MuJoCo's steps take nearly all of the time and use all
CPUs: an iteration is 160 000 steps of the robot, 2.2 hours of its time.
"""

from dataclasses import dataclass
from typing import Literal

from metarl_envs.half_cheetah import HalfCheetahDirection, HalfCheetahVelocity

from metarl.adaptation import settings as learners
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import Experiment, Parts, TrainingSettings
from metarl.training.control import ControlSettings, build_control, control_configs
from metarl.training.trust_region import TrustRegionSettings


@dataclass(frozen=True)
class HalfCheetahSettings(ControlSettings):
    """An experiment on the half cheetah; `--algorithm` chooses the defaults of all the rest."""

    task: Literal["velocity", "direction"] = "velocity"
    """What tells tasks apart."""
    fastest: float = 2.0
    """The greatest velocity of a task, m/s, above 0."""
    horizon: int = 100
    """Steps of an episode, 0.05 s each."""


MAML = HalfCheetahSettings(
    "maml", learners.MAMLSettings(0.1), PolicyGradientSettings(gae_lambda=0.95),
    TrustRegionSettings(fisher_trajectories=2),
    TrainingSettings(
        iterations=200, meta_batch_size=40, task_chunk_size=4, threads=1, log_every=1,
        eval_every=20, eval_tasks=20, eval_steps=3, checkpoint_every=5,
    ),
    init_std=0.5,
)  # fmt: skip
CONFIGS = control_configs(MAML)


def build(settings: ControlSettings) -> Parts:
    """Builds what the settings describe."""
    assert isinstance(settings, HalfCheetahSettings)
    if settings.task == "direction":
        return build_control(settings, HalfCheetahDirection(settings.horizon))
    return build_control(settings, HalfCheetahVelocity(settings.fastest, settings.horizon))


EXPERIMENT = Experiment("half_cheetah", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
