"""Cart-poles whose masses, length and motor nobody observes: adapt in a few episodes.

    python experiments/cart_pole.py                             # MAML-TRPO
    python experiments/cart_pole.py --algorithm rl2             # a recurrent policy, 3 episodes
    python experiments/cart_pole.py --resume latest             # after Ctrl-C or a crash
    metarl adapt runs/cart_pole/maml/RUN --env CartPole-v1 --set length=0.9 --episodes 20

The motor of half of the tasks pushes the other way. What is trained here adapts to gymnasium's
cart-pole, see docs/deploy.md. Prints a table of returns on test tasks, of 200 at most.
"""

from dataclasses import replace

from metarl_envs.cart_pole import CartPole

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab import Components, Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import control_configs, rl2_config, varibad_config
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

TRAINING = TrainingSettings(
    iterations=150, meta_batch_size=20, cpu_chunk_size=4, threads=1, log_every=1, eval_every=25,
    eval_tasks=40, eval_steps=3, checkpoint_every=25,
)  # fmt: skip
MAML = ControlSettings(
    "maml", MAMLAlgorithm(0.5), PolicyGradientSettings(10, gae_lambda=0.95),
    TrustRegionSettings(max_kl=0.02, fisher_trajectories=2, fisher_support=2),
    TRAINING, hidden=(64, 64),
)  # fmt: skip
RL2 = rl2_config(
    MAML, 3, PolicyGradientSettings(1, 0.99, 0.95, clip=0.2),
    replace(TRAINING, iterations=200, meta_batch_size=100, cpu_chunk_size=None, outer_lr=3e-3,
            schedule="linear", max_grad_norm=1.0),
    embedding=64,
)  # fmt: skip
CONFIGS = control_configs(MAML, {"rl2": RL2, "varibad": varibad_config(RL2)})


def build(settings: ControlSettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_control(settings, CartPole())


EXPERIMENT = Experiment("cart_pole", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
