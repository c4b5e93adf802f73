"""The algorithms of `metarl list` as their experiments build them, made small for several ranks.

A case is "EXPERIMENT:ALGORITHM".
"""

import dataclasses
from dataclasses import replace

from metarl.lab.installed import EXPERIMENTS
from metarl.training.loop import OuterLoop
from metarl.training.trust_region import TrustRegionSettings

EVERY = ("navigation2d", "sine", "omniglot", "mann")
"""Experiments of which every algorithm is a case."""
WITHIN_TRIALS = {
    "bandit": ("rl2", "random-arm", "ucb1", "greedy", "thompson", "gittins"),
    "tabular_mdp": ("rl2", "random-player", "greedy", "optimal"),
}
SMALL = {"hidden": (4,), "filters": 4, "test_tasks": 2}
TRAINING = {
    "meta_batch_size": 4, "log_every": 1, "eval_every": 0, "checkpoint_every": 2, "threads": 1,
    "workers": 1, "rank_timeout": 120.0, "device": "cpu",
}  # fmt: skip


def cases():
    """The names of all cases."""
    chosen = {name: EXPERIMENTS.get(name).configs for name in EVERY} | WITHIN_TRIALS
    return [f"{name}:{a}" for name, algorithms in chosen.items() for a in algorithms]


def with_fields(settings, **values):
    """Changes those fields that the settings have."""
    names = {field.name for field in dataclasses.fields(settings)}
    return replace(settings, **{n: value for n, value in values.items() if n in names})


def reduced(settings, iterations):
    """The settings of an experiment, made small."""
    trained = settings.training.iterations > 0
    training = replace(settings.training, **TRAINING, iterations=iterations if trained else 0)
    if training.optimizer != "sgd":  # Adam makes steps of this length of gradients near zero
        training = replace(training, outer_lr=min(training.outer_lr, 1e-3))
    small = with_fields(settings, training=training, **SMALL)
    learner = getattr(small, "learner", None)
    if getattr(learner, "bfloat16", False):  # it rounds to 1/256
        small = replace(small, learner=replace(learner, bfloat16=False))
    elif getattr(getattr(learner, "embedding", None), "bfloat16", False):
        exact = replace(learner.embedding, bfloat16=False)
        small = replace(small, learner=replace(learner, embedding=exact))
    if hasattr(small, "gradients"):
        small = replace(small, gradients=replace(small.gradients, trajectories=2))
    if hasattr(small, "tasks"):
        small = replace(small, tasks=with_fields(small.tasks, train_way=5, queries=2))
    if getattr(getattr(small, "update", None), "minibatches", 1) > 1:  # ranks share each of them
        small = replace(small, update=replace(small.update, minibatches=2))
    if isinstance(getattr(small, "update", None), TrustRegionSettings):
        # With little damping, the order of sums changes a step of few rollouts by a tenth.
        small = replace(small, update=replace(small.update, damping=1.0))
    return small


def experiment_loop(case, folder, resume=None, iterations=2):
    """Returns the outer loop of a case."""
    name, _, algorithm = case.partition(":")
    experiment = EXPERIMENTS.get(name)
    settings = reduced(experiment.configs[algorithm], iterations)
    parts = experiment.build(settings)
    return OuterLoop(
        parts.learner, parts.tasks, settings.training, folder, update=parts.update, resume=resume
    )
