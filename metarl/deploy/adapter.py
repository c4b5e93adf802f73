"""The interface of adapters, which adapt a trained learner to a new task."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
from torch import Tensor

import metarl
from metarl.errors import CheckpointError, SettingsError, ShapeError
from metarl.ranges import user_path
from metarl.tasks.files import check_regular, result_path

ADAPTED_VERSION = "1"
RULE = "update rule/"
"""Before the names of the tensors of an update rule's state, in files of adapted weights."""
RECURRENT = "A recurrent policy adapts by its memory; it has no such weights."


@dataclass(frozen=True)
class AdaptationReport:
    """What an adaptation did.

    Attributes:
        steps: Adaptation steps taken.
        examples: Examples, or environment steps, that it used.
        episodes: Episodes, or parts of episodes, that it used; 0 for supervised tasks.
        loss_before: Loss on these data before the adaptation; None for learners without a loss.
        loss_after: Loss on these data after the adaptation.
        effective: Effective sample size of data that another policy collected, in environment
            steps; None where the policy itself collected them.
        seconds: Time that the computation took, in seconds.
    """

    steps: int
    examples: int
    episodes: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    effective: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Origin:
    """Where the weights of an adapter come from.

    Attributes:
        path: The checkpoint, or "" for a learner of this process.
        iteration: Its meta-iteration.
        ranges: The ranges of the training data, from learner.json.
    """

    path: str
    iteration: int
    ranges: dict[str, Any]


class Adapter(ABC):
    """Interface of a trained learner that adapts to the user's task; `metarl.load` returns one.

    Supervised learners have `adapt(support)` and `predict(inputs)`. Policies have `act`, `observe`,
    `adapt` and `run`. For both, `reset` returns to the trained start, and `save` writes the adapted
    weights.

    Attributes:
        origin: Where the weights come from.
    """

    origin: Origin
    _policy_weights: Any = (
        None  # an `AdaptedPolicy`, which knows what `save` writes besides the weights
    )

    @abstractmethod
    def reset(self) -> None:
        """Returns to the trained start, and discards the adaptation."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns the adapted weights by name, detached, without a task dimension."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Loads adapted weights that `state` returned."""

    def adapt(self, *data: Any, **options: Any) -> Any:
        """Adapts to data of a task; see `SupervisedAdapter` and `ControlAdapter`."""
        self._refuse("adapt", data, options)

    def predict(self, inputs: Any, *, mask: Any = None) -> Any:
        """Predicts targets of the task; see `SupervisedAdapter`."""
        del mask
        self._refuse("predict", inputs)

    def act(self, observation: Any) -> Any:
        """Returns an action for an observation; see `ControlAdapter`."""
        self._refuse("act", observation)

    def save(self, path: Path | str) -> None:
        """Writes the adapted weights as a safetensors file.

        Raises:
            CheckpointError: The file cannot be written.
        """
        path = user_path(path)
        note = {
            "format_version": ADAPTED_VERSION, "metarl": metarl.__version__,
            "adapted_from": json.dumps([self.origin.path, self.origin.iteration]),
            **self.notes(),
        }  # fmt: skip
        kept = {**self.state(), **{RULE + n: t for n, t in self.rule_state().items()}}
        tensors = {n: t.detach().cpu().clone().contiguous() for n, t in kept.items()}
        with result_path(path, "adapted weights") as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata=note))

    def restore(self, path: Path | str) -> None:
        """Loads adapted weights that `save` wrote.

        Raises:
            CheckpointError: The file cannot be read, is of a newer version, or of another learner.
        """
        path = user_path(path, "adapted")
        try:
            check_regular(path)
            with safetensors.safe_open(str(path), "pt") as file:
                note = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except Exception as error:  # the reader raises anything for damaged bytes
            raise CheckpointError(f"Cannot read the adapted weights {path}: {error}.") from error
        if "format_version" not in note:
            raise CheckpointError(
                f"Expected adapted weights, which `save` wrote, in {path}; it holds other tensors."
            )
        if note["format_version"] != ADAPTED_VERSION:
            raise CheckpointError(
                f"Expected adapted weights of format version {ADAPTED_VERSION} in {path}, got "
                f"{note['format_version']} of MetaRL {note.get('metarl')}; install a newer one."
            )
        self.check_notes(note)
        rule = {n.removeprefix(RULE): t for n, t in tensors.items() if n.startswith(RULE)}
        self.load_state({n: t for n, t in tensors.items() if not n.startswith(RULE)})
        try:
            self.load_notes(note)
        except ValueError as error:
            raise CheckpointError(f"The notes of {path} are damaged: {error}.") from error
        if rule:  # earlier versions did not write it
            self.load_rule_state(rule)

    def notes(self) -> dict[str, str]:
        """Returns the texts, by name, that `save` writes in addition to the weights."""
        return {} if self._policy_weights is None else self._policy_weights.notes()

    def check_notes(self, notes: dict[str, str]) -> None:
        """Raises CheckpointError if weights with these notes would mean something else here."""
        if self._policy_weights is not None:
            self._policy_weights.check_notes(notes)

    def load_notes(self, notes: dict[str, str]) -> None:
        """Loads what `notes` returned; raises ValueError if it is damaged."""
        if self._policy_weights is not None:
            self._policy_weights.load_notes(notes)

    def rule_state(self) -> dict[str, Tensor]:
        """Returns the state of the update rule after the steps so far, such as moments, by name."""
        return {} if self._policy_weights is None else self._policy_weights.rule_state

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        """Loads what `rule_state` returned; raises CheckpointError if another rule returned it."""
        self._check_state(state, self.rule_state())
        if self._policy_weights is not None:
            self._policy_weights.rule_state = state

    def _check_state(self, state: dict[str, Tensor], like: dict[str, Tensor]) -> None:
        """Raises CheckpointError unless weights have the names and shapes of this learner."""
        shapes, expected = ({n: tuple(t.shape) for n, t in s.items()} for s in (state, like))
        if shapes != expected:
            other = sorted(set(shapes.items()) ^ set(expected.items()))[:3]
            raise CheckpointError(
                "Expected the adapted weights, and the state of the update rule, of this learner; "
                f"these differ: {other}."
            )

    def _refuse(self, method: str, *arguments: Any) -> NoReturn:
        del arguments
        raise SettingsError(
            f"A {type(self).__name__} has no `{method}`: `adapt` and `predict` are for supervised "
            "tasks; `act`, `observe` and `run` for control tasks."
        )


def expect(condition: bool, message: str) -> None:
    """Raises ShapeError with a message unless a condition holds."""
    if not condition:
        raise ShapeError(message)
