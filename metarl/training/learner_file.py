"""The description of a run's learner, `learner.json`: the run opens without its script.

It holds names and numbers only. Names are looked up among what MetaRL and installed packages have
registered; nothing in the file is executed. `metarl.deploy` opens it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import metarl
from metarl import ranks
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm
from metarl.adaptation.algorithms import GRADIENT_ALGORITHMS
from metarl.adaptation.learner import Learner
from metarl.errors import CheckpointError, short_repr
from metarl.models.described import UndescribedError, describe
from metarl.runs.networks import modules_of
from metarl.sim.card import Card
from metarl.sim.same_worlds import ADDRESS
from metarl.tasks.files import read_json, write_bytes
from metarl.training.data_ranges import DataRanges, check_ranges

LEARNER_FILE = "learner.json"
FORMAT_VERSION = 1
UNDESCRIBED = "undescribed"
REFUSED = "refused"


class LearnerFile:
    """The description of a learner in its run folder, and of the data that it is trained on.

    Args:
        folder: The run folder.
        learner: The learner.
        tasks: What it is trained on, whose `columns` and `target_columns` are the names of inputs
            and targets, and whose `scaling` standardised them, if it has any.
        resumed: The run folder that training is resumed from, whose data count as well.
    """

    def __init__(
        self, folder: Path, learner: Learner, tasks: Any = None, resumed: Path | None = None
    ) -> None:
        self._path = folder / LEARNER_FILE
        self._learner = learner
        self._ranges = DataRanges()
        earlier = (resumed or folder) / LEARNER_FILE
        if ranks.is_first():  # of a resumed run: the others begin with nothing, so it counts once
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                self._ranges = DataRanges.from_json(read_json(earlier)["data"])
        self._ranges.name(tasks)
        self._ranges.scale(getattr(tasks, "scaling", None))

    def see(self, inputs: Any) -> None:
        """Records the ranges of what one meta-iteration trains on.

        Args:
            inputs: What `Learner.collect` returned.
        """
        self._ranges.see(inputs, getattr(self._learner, "policy", None))

    def write(self) -> None:
        """Writes the file on the first rank; all ranks call it.

        Raises:
            CheckpointError: It cannot be written.
        """
        ranges = self._ranges
        if self._learner.collects_own:
            ranges = DataRanges.joined(ranks.from_all(ranges))
        if not ranks.is_first():
            return
        content = {
            "metarl": metarl.__version__,
            "learner": described_learner(self._learner),
            "data": ranges.to_json(),
        }
        data = {"format_version": FORMAT_VERSION, "sha256": checksum(content), **content}
        try:
            write_bytes(self._path, (json.dumps(data, indent=1) + "\n").encode())
        except OSError as error:
            raise CheckpointError(f"Cannot write {self._path}: {error}.") from error


def read_learner_file(folder: Path) -> dict[str, Any] | None:
    """Returns the content of a run's learner.json; None if the run has none.

    Raises:
        CheckpointError: The file is damaged, was altered, or a newer MetaRL wrote it.
    """
    path = folder / LEARNER_FILE
    try:
        content = read_json(path)
        version = content.pop("format_version")
        expected = content.pop("sha256")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}).") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {short_repr(version)}, written by MetaRL "
            f"{short_repr(content.get('metarl'))}; this MetaRL {metarl.__version__} reads "
            f"{FORMAT_VERSION}. Install a newer one: pip install -U metarl."
        )
    if checksum(content) != expected:
        raise CheckpointError(
            f"{path} was altered: its SHA-256 is not the one in it. Restore the file, or build the "
            "learner yourself: metarl.load(run, learner=...)."
        )
    try:
        if not isinstance(content["learner"], dict):
            raise ValueError(f"the learner is {short_repr(content['learner'])}")
        check_ranges(content["data"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not usable ({error!r}).") from error
    return content


def checksum(content: dict[str, Any]) -> str:
    """Returns the SHA-256 of JSON data in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def described_learner(learner: Learner) -> dict[str, Any]:
    """Returns a learner as JSON data.

    Parts that cannot be described are {"undescribed": the reason}; the user passes them to
    `metarl.load`. A learner that cannot be opened for use is {"refused": the reason}.
    """
    names = [cls.__name__ for cls in type(learner).__mro__]
    refused = refusal(learner)
    if refused is not None:
        return {REFUSED: refused}
    kind = next((name for name in names if name in KINDS), None)
    if kind is None or names[0] != kind:
        where = f"{type(learner).__module__}.{names[0]}"
        return {UNDESCRIBED: f"Learners of the class {where} are not described."}
    return {"kind": kind, **KINDS[kind](learner)}


def refusal(learner: Learner) -> str | None:
    """Returns why there is no adapter of a learner; None if that is not known before."""
    names = [cls.__name__ for cls in type(learner).__mro__]
    return next((NOT_DEPLOYED[name] for name in names if name in NOT_DEPLOYED), None)


def _gradient(learner: Any) -> dict[str, Any]:
    return {
        "algorithm": _part(lambda: described_algorithm(learner.adaptation)),
        "network": _part(lambda: describe(learner.model, _stored(learner))),
        "steps": learner.adaptation.steps,
    }


def _policy(learner: Any) -> dict[str, Any]:
    worlds = _worlds(learner)
    return {
        "algorithm": _part(lambda: described_algorithm(learner.adaptation)),
        "policy": _part(lambda: describe(learner.policy, _stored(learner))),
        "units": _units(learner.policy.units),
        "settings": describe(learner.settings),
        "steps": learner.adaptation.steps,
        **worlds,
    }


def _recurrent(learner: Any) -> dict[str, Any]:
    worlds = _worlds(learner)
    return {
        "policy": _part(lambda: describe(learner.policy, _stored(learner))),
        "options": describe(learner.settings),
        "settings": describe(learner.gradients),
        **worlds,
    }


def _inferring(learner: Any) -> dict[str, Any]:
    decoders = _part(lambda: describe(learner.decoders, _stored(learner)))
    return {**_recurrent(learner), "decoders": decoders}


def _supervised(learner: Any) -> dict[str, Any]:
    import metarl.learners.metric.algorithms  # noqa: F401 - registers what it is built of

    return {"object": _part(lambda: describe(learner, _stored(learner)))}


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
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
"""Class of a learner -> the function that describes it."""

NOT_DEPLOYED = {
    "StreamReader": "It reads whole streams of examples and their labels, and keeps nothing that "
    "further inputs could be predicted from; `metarl evaluate` runs it on streams, and `metarl "
    "export --with adaptation` writes a graph that reads one example after another.",
    "StrategyLearner": "A strategy plays by a fixed rule: nothing was trained, and nothing adapts; "
    "`metarl evaluate` plays it.",
    "PPOLearner": "PPO trains a new policy on each test task: no start was meta-trained that could "
    "adapt; `metarl evaluate` trains and measures it.",
}
"""Class of a learner -> why `metarl.load` has no adapter for it."""


def described_algorithm(adaptation: Adaptation) -> dict[str, Any]:
    """Returns the algorithm of an adaptation: its registered name and its options.

    Raises:
        UndescribedError: It was put together by hand, its class is not registered, or an option is
            a function of the user's.
    """
    options = adaptation.algorithm
    if not isinstance(options, GradientAlgorithm):
        raise UndescribedError(
            "The adaptation was put together by hand; algorithms such as MAML(...) are stored."
        )
    names = [n for n in GRADIENT_ALGORITHMS.names() if GRADIENT_ALGORITHMS.get(n) is type(options)]
    if not names:
        raise UndescribedError(
            f"{type(options).__name__} is not among the registered algorithms; "
            "`GRADIENT_ALGORITHMS.register` adds it."
        )
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {"name": names[0], "options": {n: describe(v) for n, v in values.items()}}


def _part(description: Callable[[], Any]) -> Any:
    try:
        return description()
    except UndescribedError as error:
        return {UNDESCRIBED: str(error)}


def _stored(learner: Learner) -> dict[int, str]:
    """Returns the names of the ordinary modules that a run stores in a file, by `id`."""
    named = dict(learner.named_modules())
    found: dict[int, str] = {}
    for name, net in modules_of(learner).items():
        found |= {id(net): name, id(named.get(name)): name}
    found.pop(id(None), None)
    return found


def _units(units: Any) -> dict[str, bool] | None:
    """Returns which maps a policy's units have, as the arguments of `units_for`."""
    if units is None:
        return None
    observations = units.observations
    return {
        "scale_actions": units.actions is not None,
        "normalize_observations": observations is not None and observations.learns,
        "scale_rewards": units.rewards is not None,
    }


def _worlds(learner: Any) -> dict[str, Any]:
    """Returns the spaces and the rate of the tasks of a control learner."""
    import metarl.sim.space_descriptions  # noqa: F401 - registers the spaces

    family = learner.family
    return {
        "family": {
            "name": family.name,
            "horizon": family.horizon,
            "step_seconds": family.step_seconds,
            "published_units": family.published_units,
            "facts": _facts(family.card()),
        },
        "observe_task": learner.worlds.observe_task,
        "observation_space": _part(lambda: describe(family.observation_space)),
        "action_space": _part(lambda: describe(family.action_space)),
    }


def _facts(card: Card) -> dict[str, str]:
    """Returns the facts of a card, without those that `_worlds` stores by themselves."""
    stored = ("horizon", "observation", "action")
    return {f.what: ADDRESS.sub("", f.value) for f in card.facts if f.what not in stored}
