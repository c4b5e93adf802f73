"""Configurations of the gradient algorithms that an experiment does not list itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from metarl.adaptation.algorithms import GRADIENT_ALGORITHMS

S = TypeVar("S")


def with_registered(configs: Mapping[str, S], base: str = "maml") -> dict[str, S]:
    """Adds a configuration for every registered gradient algorithm that has none.

    It is that of `base` with the options of the algorithm; options that both have are those of
    `base` (the inner rate, the steps).

    Args:
        configs: Configurations by algorithm: frozen dataclasses with the fields `algorithm`,
            `learner` and `training`.
        base: Name of the configuration to start from.
    """
    complete = dict(configs)
    for name in GRADIENT_ALGORITHMS.names():
        if name not in complete:
            complete[name] = _derived(configs[base], name)
    return complete


def _derived(base: Any, name: str) -> Any:
    algorithm = GRADIENT_ALGORITHMS.get(name)
    training = base.training
    if not algorithm.meta_trains:
        training = replace(training, iterations=0)
    learner = algorithm(**shared_options(base.learner, algorithm))
    return replace(base, algorithm=name, learner=learner, training=training)


def shared_options(learner: Any, algorithm: type[Any]) -> dict[str, Any]:
    """Returns the options of a learner's algorithm that another algorithm has too."""
    names = {f.name for f in fields(algorithm)} & {f.name for f in fields(learner)}
    return {name: getattr(learner, name) for name in names}
