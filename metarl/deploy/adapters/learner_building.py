"""Builds the learner of a run from its description, without the script that made it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import nn

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithms import GRADIENT_ALGORITHMS
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.learner import Learner
from metarl.deploy.adapters.recorded_family import RecordedFamily
from metarl.errors import CheckpointError, MetarlError, SettingsError, short_repr
from metarl.models.described import NO_NETWORKS, UndescribedError, rebuilt
from metarl.models.modules import as_adaptable
from metarl.ranges import COUNT, POSITIVE, check_int, check_number
from metarl.training.learner_file import REFUSED, UNDESCRIBED


class Source(NamedTuple):
    """Where parts of a learner come from.

    Attributes:
        generator: Of initial weights, which are replaced.
        modules: The ordinary modules of the run, by name, or why they are not stored.
    """

    generator: torch.Generator
    modules: Mapping[str, nn.Module | str]

    def rebuilt(self, data: Any) -> Any:
        """Returns the value of described data."""
        return rebuilt(data, self.generator, self.modules)


def build_learner(
    data: dict[str, Any],
    network: nn.Module | None = None,
    modules: Mapping[str, nn.Module | str] = NO_NETWORKS,
) -> Learner:
    """Builds a learner; its weights are to be loaded.

    Args:
        data: What `described_learner` returned.
        network: The network or policy, for a run that could not describe it.
        modules: The ordinary modules that the run stores, by name.

    Raises:
        SettingsError: A part is not described and has to be handed in, or such learners cannot be
            loaded.
        CheckpointError: The data are damaged, or name what this version does not know.
    """
    if REFUSED in data:
        raise SettingsError(f"There is nothing to load of this run's learner. {data[REFUSED]}")
    if UNDESCRIBED in data:
        raise _missing("learner", data)
    build = BUILDERS.get(str(data.get("kind")))
    if build is None:
        raise CheckpointError(
            f"The run describes a learner of the kind {short_repr(data.get('kind'))}, which this "
            "MetaRL does not know; install a newer one."
        )
    # What is drawn from it is replaced by the weights of the checkpoint.
    generator = torch.Generator().manual_seed(0)
    try:
        return build(data, network, Source(generator, modules))
    except MetarlError:
        raise
    except Exception as error:  # layers of impossible sizes raise anything
        raise CheckpointError(
            "The learner cannot be built from its description, which is damaged or does not suit "
            f"the network that was handed in: {type(error).__name__}: "
            f"{short_repr(str(error), 300)}."
        ) from error


def _gradient(data: dict[str, Any], network: nn.Module | None, source: Source) -> Learner:
    model = network if network is not None else _part(data, "network", source)
    return GradientLearner(_adaptation(data, model, source))


def _policy(data: dict[str, Any], network: nn.Module | None, source: Source) -> Learner:
    from metarl.rl.policies import Policy, policy_for
    from metarl.rl.policy_learner import PolicyLearner
    from metarl.rl.units import units_for

    family = _family(data, source)
    if network is None:
        policy = _part(data, "policy", source)
    elif isinstance(network, Policy):
        policy = network
    else:
        spaces = (family.observation_space, family.action_space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of actions without bounds: training has said it
            policy = policy_for(spaces, torch.Generator(), network=network)
        policy.units = None
    if not isinstance(network, Policy) and data["units"] is not None:
        units = source.rebuilt({"mapping": data["units"]})
        policy.units = units_for(family.observation_space, family.action_space, **units)
    _try_policy(policy, family)
    settings = source.rebuilt(data["settings"])
    return PolicyLearner(_adaptation(data, policy, source), family, settings)


def _try_policy(policy: Any, family: RecordedFamily) -> None:
    """Computes one distribution; raises what torch does if policy and spaces do not fit."""
    observation = torch.zeros(1, 1, family.observation_space.shape[0])
    with torch.no_grad():
        policy.distribution({n: p.unsqueeze(0) for n, p in policy.named_parameters()}, observation)
    expected = tuple(family.action_space.shape or ())
    if policy.action_shape != expected:
        raise ValueError(f"actions of shape {policy.action_shape} in a space of {expected}")


def _recurrent(data: dict[str, Any], network: nn.Module | None, source: Source) -> Learner:
    from metarl.rl.trials.recurrent_learner import RecurrentLearner

    return RecurrentLearner(*_parts_of_trials(data, network, source))


def _inferring(data: dict[str, Any], network: nn.Module | None, source: Source) -> Learner:
    from metarl.rl.trials.varibad import VariBADLearner

    policy, *rest = _parts_of_trials(data, network, source)
    return VariBADLearner(policy, _part(data, "decoders", source), *rest)


def _parts_of_trials(data: dict[str, Any], network: Any, source: Source) -> tuple[Any, ...]:
    """Returns the policy, the family, the options and the settings of a learner on trials."""
    policy = network if network is not None else _part(data, "policy", source)
    options, settings = (source.rebuilt(data[name]) for name in ("options", "settings"))
    return policy, _family(data, source), options, settings


def _supervised(data: dict[str, Any], network: nn.Module | None, source: Source) -> Learner:
    import metarl.learners.metric.algorithms
    import metarl.learners.metric.classifier  # noqa: F401 - both register what is built

    if network is not None:
        raise SettingsError(
            "Expected a whole learner for a metric or memory learner: metarl.load(run, learner="
            "Prototypical(net))."
        )
    return _part(data, "object", source)


BUILDERS = {
    "GradientLearner": _gradient,
    "PolicyLearner": _policy,
    "RecurrentLearner": _recurrent,
    "VariBADLearner": _inferring,
    "MetricLearner": _supervised,
    "EpisodeReader": _supervised,
    "MetaNetwork": _supervised,
    "FeatureClassifier": _supervised,
    "ZeroShotPrototypes": _supervised,
}
"""Kind of a described learner -> the function that builds it."""


def _adaptation(data: dict[str, Any], network: Any, source: Source) -> Adaptation:
    algorithm = data["algorithm"]
    if UNDESCRIBED in algorithm:
        raise _missing("algorithm", algorithm)
    options = {n: source.rebuilt(v) for n, v in algorithm["options"].items()}
    made = GRADIENT_ALGORITHMS.get(algorithm["name"])(**options)
    return made.clipped_adaptation(as_adaptable(network), source.generator)


def _family(data: dict[str, Any], source: Source) -> RecordedFamily:
    if data.get("observe_task"):
        raise SettingsError(
            "The run trained an oracle, which observes the task: there is nothing to adapt. Choose "
            "a run of another algorithm."
        )
    observation, action = (
        _part(data, name, source) for name in ("observation_space", "action_space")
    )
    is_vector = isinstance(observation, spaces.Box) and len(observation.shape) == 1
    if isinstance(action, spaces.Box):
        is_vector = is_vector and len(action.shape) == 1
    elif not isinstance(action, spaces.Discrete):
        is_vector = False
    if not is_vector:
        raise ValueError(f"the spaces are {short_repr(observation)} and {short_repr(action)}")
    family = data["family"]
    check_int("horizon", family["horizon"], COUNT)
    if family["step_seconds"] is not None:
        check_number("step_seconds", family["step_seconds"], POSITIVE)
    if not isinstance(family["name"], str):
        raise TypeError(f"the name of the family is {short_repr(family['name'])}")
    return RecordedFamily(
        family["name"], family["horizon"], observation, action, family["step_seconds"],
        family["published_units"],
    )  # fmt: skip


def _part(data: dict[str, Any], name: str, source: Source) -> Any:
    import metarl.learners
    import metarl.rl.trials.recurrent_policy
    import metarl.rl.trials.varibad
    import metarl.sim.space_descriptions  # noqa: F401 - all register what is described

    part = data[name]
    if isinstance(part, dict) and UNDESCRIBED in part:
        raise _missing("learner" if name == "object" else name, part)
    try:
        return source.rebuilt(part)
    except UndescribedError as error:
        raise _missing(
            "learner" if name == "object" else name, {UNDESCRIBED: str(error)}
        ) from error


def _missing(name: str, part: dict[str, Any]) -> SettingsError:
    wanted = "network=net" if name in ("network", "policy") else "learner=learner"
    return SettingsError(
        f"The run does not hold its {name}: {short_repr(part[UNDESCRIBED], 400)} Build it as in "
        f"training and hand it in: metarl.load(run, {wanted}); its weights are loaded."
    )
