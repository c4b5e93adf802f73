"""Meta-World's ML1 (Yu et al. 2019): reach, push and pick-place with a goal that is not observed.

    python experiments/meta_world.py                                 # MAML-TRPO on reach
    python experiments/meta_world.py --algorithm promp
    python experiments/meta_world.py --algorithm rl2
    python experiments/meta_world.py --family MetaWorldPush-v1       # or MetaWorldPickPlace-v1
    python experiments/meta_world.py --hidden 512 512        # the size of the published MAML
    python -m metarl_envs.metaworld_protocol latest     # judges the latest run in Meta-World itself

Needs Meta-World, whose models it uses: pip install --no-deps 'metaworld>=3.1,<3.2'. The worlds run
on MuJoCo's batch engine. Training takes 2 million environment steps, those of adaptation
included: 20 iterations of 10 tasks, with 10 episodes of 500 steps before and after adaptation.
"""

from dataclasses import replace

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab import Components, Experiment
from metarl.lab.control_configs import control_configs, rl2_config, varibad_config
from metarl.lab.robots import FamilySettings, build_family
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.training import TrainingSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.trust_region import TrustRegionSettings

MAML = FamilySettings(
    "maml",
    family="MetaWorldReach-v1",
    learner=MAMLAlgorithm(0.1),
    gradients=PolicyGradientSettings(trajectories=10, discount=0.99, gae_lambda=1.0),
    update=TrustRegionSettings(fisher_trajectories=2, fisher_support=2),
    training=TrainingSettings(
        iterations=20, meta_batch_size=10, cpu_chunk_size=5, threads=1, log_every=1, eval_every=10,
        eval_tasks=10, eval_steps=1, checkpoint_every=5,
    ),
    hidden=(128, 128),
    policy=PolicySettings(activation="tanh"),
    test_tasks=50,
    test_steps=1,
)  # fmt: skip

# A trial of 10 episodes and 20 trials per iteration: as many steps as MAML's iterations. The
# evaluation adds an 11th episode, after 10 of adaptation.
RL2 = replace(
    rl2_config(
        MAML, 10,
        PolicyGradientSettings(trajectories=2, gae_lambda=0.95, clip=0.2),
        replace(MAML.training, outer_lr=5e-4, cpu_chunk_size=10),
        ProximalSettings(epochs=10, minibatches=10), embedding=64,
    ),
    test_steps=10,
)  # fmt: skip

CONFIGS = control_configs(MAML, {"rl2": RL2, "varibad": varibad_config(RL2)}, max_kl=0.1)


def build(settings: FamilySettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_family(settings, "MetaWorld")


EXPERIMENT = Experiment("meta_world", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
