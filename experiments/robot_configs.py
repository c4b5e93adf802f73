"""Configurations of the experiments on robots: all algorithms, from one of MAML-TRPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab.control_configs import control_configs, rl2_config, varibad_config
from metarl.lab.robots import FamilySettings
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings


def robot_configs(family: str, **changes: Any) -> dict[str, FamilySettings]:
    """Returns the configurations of all algorithms for families in which a robot runs.

    An iteration is 40 tasks of 20 trajectories, before and after adaptation. Where PPO is the outer
    update, the divergence of the policies is bounded: without a bound ProMP broke down once the
    policies had become nearly deterministic. The settings of RL^2 and VariBAD are not tuned for
    robots.

    Args:
        family: Name of the default family.
        **changes: Fields of MAML-TRPO's configuration that differ from these defaults.
    """
    fields: dict[str, Any] = {
        "learner": MAMLAlgorithm(0.1),
        "gradients": PolicyGradientSettings(gae_lambda=0.95),
        "update": TrustRegionSettings(fisher_trajectories=2, fisher_support=2),
        "training": TrainingSettings(
            iterations=200, meta_batch_size=40, cpu_chunk_size=4, threads=1, log_every=1,
            eval_every=20, eval_tasks=20, eval_steps=3, checkpoint_every=5,
        ),
        "init_std": 0.5,
        "film": 2,
    }  # fmt: skip
    maml = FamilySettings("maml", family=family, **(fields | changes))
    # As many environment steps: trials of 2 episodes, as MAML's rollouts before and after a step.
    rl2 = rl2_config(
        maml, 2, replace(maml.gradients, clip=0.2), replace(maml.training, outer_lr=1e-3),
        embedding=64,
    )  # fmt: skip
    return control_configs(maml, {"rl2": rl2, "varibad": varibad_config(rl2)}, max_kl=0.1)
