"""2D navigation (Finn et al. 2017, section 5.3): walk to a goal that only the reward tells.

    python experiments/navigation2d.py                          # MAML-TRPO
    python experiments/navigation2d.py --algorithm promp
    python experiments/navigation2d.py --training.seed 1
    python experiments/navigation2d.py --resume latest          # after a stop of any kind
    tensorboard --logdir runs/navigation2d

Ends with a table of returns on test goals and in the paper's protocol (40 goals; the rate halved
after the first step), with `adaptation.png` and `paths.png` in the run folder.
"""

from dataclasses import replace

from metarl_envs.navigation import Navigation2D
from metarl_envs.protocols import icml_navigation

from metarl.adaptation import settings as learners
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import Experiment, Parts, TrainingSettings
from metarl.training.control import ControlSettings, build_control
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.trust_region import TrustRegionSettings

TRAINING = TrainingSettings(
    iterations=200, meta_batch_size=20, task_chunk_size=4, threads=1, log_every=1, eval_every=20,
    eval_tasks=40, eval_steps=3, checkpoint_every=20,
)  # fmt: skip
TRPO = TrustRegionSettings(fisher_trajectories=5)
MAML = ControlSettings("maml", learners.MAMLSettings(0.5), update=TRPO, training=TRAINING)
CONFIGS = {
    "maml": MAML,
    "fomaml": replace(
        MAML, algorithm="fomaml", learner=learners.MAMLSettings(0.5, first_order=True)
    ),
    "promp": replace(
        MAML, algorithm="promp", gradients=PolicyGradientSettings(clip=0.3, inner_kl=5e-4),
        update=ProximalSettings(),
    ),
    "metasgd": replace(
        MAML, algorithm="metasgd", learner=learners.MetaSGDSettings(low=0.1, high=0.5)
    ),
    "reptile": replace(
        MAML, algorithm="reptile", learner=learners.ReptileSettings(0.01, 3, batch_size=None),
        update=GradientUpdateSettings(), training=replace(TRAINING, optimizer="sgd", outer_lr=0.3),
    ),
    "lstm": replace(
        MAML, algorithm="lstm", learner=learners.LSTMMetaLearnerSettings(1),
        update=GradientUpdateSettings(),
    ),
    "learned-optimizer": replace(
        MAML, algorithm="learned-optimizer", learner=learners.LearnedOptimizerSettings(1, 1),
        update=GradientUpdateSettings(),
    ),
    "pretrained": replace(
        MAML, algorithm="pretrained", learner=learners.PretrainedSettings(0.5)
    ),
    "oracle": replace(
        MAML, algorithm="oracle", learner=learners.PretrainedSettings(0.5), observe_task=True
    ),
}  # fmt: skip


def build(settings: ControlSettings) -> Parts:
    """Builds what the settings describe."""
    return build_control(settings, Navigation2D(), [icml_navigation()])


EXPERIMENT = Experiment("navigation2d", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
