"""2D navigation (Finn et al. 2017, section 5.3): walk to a goal known only through the reward.

    python experiments/navigation2d.py                          # MAML-TRPO
    python experiments/navigation2d.py --algorithm mamlplusplus # an unknown name lists them all
    python experiments/navigation2d.py --algorithm rl2          # a recurrent policy, 4 episodes
    python experiments/navigation2d.py --algorithm varibad      # a belief about the goal, likewise
    python experiments/navigation2d.py --training.seed 1
    python experiments/navigation2d.py --resume latest          # after Ctrl-C or a crash
    tensorboard --logdir runs/navigation2d
    metarl play runs/navigation2d/maml/RUN                      # paths before and after each step

Prints a table of returns on test goals and in the paper's protocol (40 goals; the rate halved
after the first step, or kept), and writes `adaptation.png` and `paths.png` into the run folder.
Two to three minutes on one core.
"""

from dataclasses import replace

from metarl_envs.navigation import Navigation2D
from metarl_envs.paths import navigation_picture
from metarl_envs.protocols import icml_navigation

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab import Components, Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import control_configs, rl2_config, varibad_config
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

TRAINING = TrainingSettings(
    iterations=100, meta_batch_size=20, cpu_chunk_size=4, threads=1, log_every=1, eval_every=20,
    eval_tasks=40, eval_steps=3, checkpoint_every=20,
)  # fmt: skip
MAML = ControlSettings(
    "maml", MAMLAlgorithm(0.1), PolicyGradientSettings(gae_lambda=0.95),
    TrustRegionSettings(max_kl=0.02, fisher_trajectories=2, fisher_support=2),
    TRAINING, init_std=0.5,
)  # fmt: skip
RL2 = rl2_config(
    MAML, 4, PolicyGradientSettings(1, 0.99, 0.95, clip=0.2),
    replace(TRAINING, iterations=300, meta_batch_size=100, cpu_chunk_size=None, outer_lr=3e-3,
            schedule="linear", max_grad_norm=1.0),
)  # fmt: skip
CONFIGS = control_configs(MAML, {"rl2": RL2, "varibad": varibad_config(RL2)})


def build(settings: ControlSettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_control(settings, Navigation2D(), icml_navigation(), navigation_picture)


EXPERIMENT = Experiment("navigation2d", CONFIGS, build, minutes={"maml": 2})

if __name__ == "__main__":
    EXPERIMENT.run()
