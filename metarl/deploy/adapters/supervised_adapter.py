"""Adapts a supervised learner to the user's examples, and predicts."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.adaptation.adapted_state import adapted_state
from metarl.adaptation.learner import Adapted, SupervisedLearner
from metarl.adaptation.loss_function import ignored_label
from metarl.deploy.adapter import AdaptationReport, Adapter, Origin
from metarl.deploy.adapters.descriptions import description_info, no_examples, numbered_labels
from metarl.deploy.adapters.inputs import (
    as_inputs,
    as_mask,
    check_columns,
    column_names,
    warn_of_ranges,
)
from metarl.deploy.adapters.standardised import advice, restored, scaling_of
from metarl.deploy.adapters.targets import class_targets, labels_of, target_array, value_targets
from metarl.deploy.arrays import as_array
from metarl.errors import NonFiniteError, SettingsError, ShapeError, short_repr
from metarl.learners.metric.zero_shot import DESCRIPTIONS
from metarl.models.base import Model, task_params, task_rows
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import parameter_type
from metarl.tasks.losses import task_loss
from metarl.trees import map_tensors, tensors_of

LABELS = "labels"
"""Name of the note in a file of adapted weights that holds the labels of the task."""
COLUMNS = "columns"
"""Name of the note that holds the columns of the support set, if it was a table."""


class SupervisedAdapter(Adapter):
    """Adapts a learner to a few examples of one task or of several tasks, and predicts.

    Args:
        learner: The trained learner.
        origin: Where it comes from, and the ranges of its training data.
        seed: Seed of the random numbers of the adaptation.
        standardise: Takes inputs and targets, and predicts values, in the units of the table. They
            are standardised by the means and deviations of training, as by
            `GroupedExamples(standardise=True)`. Losses are those of the standardised values.

    Attributes:
        learner: The learner.
        classes: The labels of each task, in the order of the outputs; None for regression.

    Raises:
        SettingsError: The run has no means and deviations to standardise by.
    """

    def __init__(
        self, learner: SupervisedLearner, origin: Origin, seed: int = 0, standardise: bool = False
    ) -> None:
        self.learner = learner
        self.origin = origin
        self.classes: list[np.ndarray] | None = None
        self._seed = seed
        self._scaling = scaling_of(origin.ranges) if standardise else None
        self._many = False
        self._way: int | None = None
        self._shape: dict[str, list[int]] = {}
        self._columns: list[str] | None = None
        self._adapted: Any = None

    @property
    def standardises(self) -> bool:
        """Whether examples come in the units of the table, and are standardised."""
        return self._scaling is not None

    @property
    def steps(self) -> int:
        """Adaptation steps of `adapt` by default: those of training, at least 1."""
        adaptation = getattr(self.learner, "adaptation", None)
        return 1 if adaptation is None else max(1, adaptation.steps)

    def adapt(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        support: Any = None,
        targets: Any = None,
        *,
        steps: int | None = None,
        mask: Any = None,
        descriptions: Any = None,
        described: Any = None,
    ) -> AdaptationReport:
        """Adapts from the trained start.

        Args:
            support: Inputs of one task, [N, *input], or of T tasks, [T, N, *input]: arrays,
                tensors, images, or rows of a table (a data frame, a mapping of columns, a table of
                Arrow), whose columns are found by name. Bytes of images are scaled to 0..1 if
                training inputs were in 0..1.
                With `targets` None: `Examples`, or a pair of inputs and targets.
            targets: Values, or labels of any kind, [N] or [T, N]; columns of tables by their names.
            steps: Adaptation steps; None: as in training. Learners without a gradient ignore it.
            mask: True for the real elements of padded sequences, [N, L] or [T, N, L]; None: all.
            descriptions: For `ZeroShotPrototypes`: numbers that describe each class, [way, D] or
                [T, way, D]. Labels are then the indices of the descriptions, and there may be no
                examples at all.
            described: Which classes have a description, [way] or [T, way]; None: all.

        Returns:
            A report, whose losses are those of the support set.

        Raises:
            ShapeError: The examples do not have the shape of training.
            TaskError: There are more classes than outputs.
            SettingsError: Descriptions are missing, or the learner takes none.
            NonFiniteError: The adaptation diverged, and the adapter is reset. After other errors,
                it keeps the previous task.
        """
        started = time.perf_counter()
        steps = self.steps if steps is None else check_int("steps", steps, NOT_NEGATIVE)
        with self._task_kept():
            info, many = description_info(self.learner, descriptions, described)
            self._way = info[DESCRIPTIONS].shape[1] if info else None
            if info and support is None:
                examples, self._many = no_examples(info, self.origin.ranges), many
                self._number_classes(len(examples.targets))
            else:
                examples = self._examples(support, targets, mask)
            generator = torch.Generator().manual_seed(self._seed)
            tasks = TaskBatch(examples, examples, info)
            before = after = None
            for after in self.learner.adapt_to(tasks, steps, generator):
                before = after if before is None else before
            self._check_finite(after)
            self._adapted = after
        losses = [self._loss(adapted, examples) for adapted in (before, after)]
        count = examples.targets.shape[0] * examples.targets.shape[1]
        seconds = time.perf_counter() - started
        return AdaptationReport(
            steps, count, loss_before=losses[0], loss_after=losses[1], seconds=seconds
        )

    def predict(self, inputs: Any, *, mask: Any = None) -> np.ndarray:
        """Predicts targets of the task, or tasks, that `adapt` was given.

        Args:
            inputs: As those of `adapt`.
            mask: As that of `adapt`.

        Returns:
            Values [N, *target], or labels [N] in the form of those given; with T tasks, [T, N, *].
            With a loss of the user's whose outputs are no logits of classes: the outputs.

        Raises:
            SettingsError: `adapt` was not called yet.
            ShapeError: The inputs do not have the shape of training, or are of other tasks.
            NonFiniteError: Scores of classes are NaN.
        """
        outputs = self.outputs(inputs, mask=mask)
        if self.classes is None or not isinstance(outputs, np.ndarray):
            return outputs
        tasks = outputs if self._many else outputs[None]
        if np.isnan(tasks).any():
            raise NonFiniteError(
                "Expected scores of the classes, some are NaN. Are the inputs on the scale of "
                "training?"
            )
        rows = [
            names[scores[..., : len(names)].argmax(-1)]
            for names, scores in zip(self.classes, tasks, strict=True)
        ]
        return np.stack(rows) if self._many else rows[0]

    def outputs(self, inputs: Any, *, mask: Any = None) -> Any:
        """Returns the outputs of the network, such as logits [N, classes]; see `predict`."""
        if self._adapted is None:
            raise SettingsError("Expected a task to predict for: call `adapt(support)` first.")
        check_columns(inputs, self._columns)
        tensor, many = self._inputs(inputs, "inputs")
        tasks = self._num_tasks
        if many != self._many or len(tensor) != tasks:
            raise ShapeError(
                f"Expected inputs of the {tasks} task(s) that were adapted to, got {len(tensor)}."
            )
        own = as_mask(mask, tensor, many, self.origin.ranges)
        found = self.learner.predict(self._adapted, tensor, mask=own)
        if self._scaling is not None:
            found = restored(found, self._scaling, self.origin.ranges["target_shape"])
        chosen = found if self._many else map_tensors(lambda t: t[0], found)
        return as_array(chosen, "outputs") if isinstance(chosen, Tensor) else chosen

    def reset(self) -> None:
        self._adapted, self.classes, self._many, self._columns = None, None, False, None

    def state(self) -> dict[str, Tensor]:
        """Returns the adapted weights of a gradient learner for `load_state_dict` of the network.

        Raises:
            SettingsError: Nothing was adapted, it was to many tasks, or the learner adapts without
                changing weights.
        """
        if not isinstance(self._adapted, Adapted) or self._many:
            raise SettingsError(
                "Expected a learner of one task with adapted weights: adapt to one task; metric "
                "and memory learners change none, keep their support set instead."
            )
        return adapted_state(self._network, self._adapted, 0)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over adapted weights of one task.

        Raises:
            CheckpointError: They are of another network.
            SettingsError: The network normalises batches.
        """
        self._check_state(state, dict(self._network.state_dict()))
        self._prepare()
        if getattr(self._network, "normalises_batches", False):
            raise SettingsError(
                "The network normalises batches by its support set, which the weights do not hold: "
                "call `adapt(support)` again."
            )
        theta = task_params(self._network, 1)
        self.reset()
        params = {n: state[n].to(p).unsqueeze(0) for n, p in theta.items()}
        self._adapted = Adapted(params, torch.empty(1, 0))

    def notes(self) -> dict[str, str]:
        """Returns the columns of the inputs, and the labels, which predictions are given in.

        Warns of labels that are neither names nor numbers: they are not stored.
        """
        notes = {} if self._columns is None else {COLUMNS: json.dumps(self._columns)}
        if self.classes is None:
            return notes
        if self.classes[0].dtype.kind not in "biufU":
            warnings.warn(
                f"The labels, of the type {self.classes[0].dtype}, are not stored with the "
                "weights: predictions with them will be the outputs. Adapt with names or numbers "
                "as labels to keep them.",
                stacklevel=3,
            )
            return notes
        return {**notes, LABELS: json.dumps(self.classes[0].tolist())}

    def load_notes(self, notes: dict[str, str]) -> None:
        if COLUMNS in notes:
            self._columns = [str(name) for name in json.loads(notes[COLUMNS])]
        if LABELS in notes:
            labels = np.array(json.loads(notes[LABELS]))
            if labels.ndim != 1 or labels.dtype.kind not in "biufU" or not labels.size:
                raise ValueError(f"{LABELS} {short_repr(notes[LABELS])}")
            self.classes = [labels]

    # Internals

    @contextmanager
    def _task_kept(self) -> Iterator[None]:
        """Keeps the task before with its labels, if the block is refused or interrupted."""
        before = dict(vars(self))
        try:
            yield
        except NonFiniteError:
            self.reset()
            raise
        except BaseException:
            vars(self).update(before)
            raise

    @property
    def _network(self) -> Any:
        return getattr(self.learner, "model")  # noqa: B009 - of gradient learners

    @property
    def _own_loss(self) -> Any:
        return getattr(self.learner, "loss", task_loss)

    @property
    def _num_tasks(self) -> int:
        value = self._adapted.params if isinstance(self._adapted, Adapted) else self._adapted
        return len(tensors_of(value)[0])

    def _examples(self, support: Any, targets: Any, mask: Any) -> Examples:
        """Returns checked support sets of the task or tasks."""
        weights, self._shape = None, {}
        if isinstance(support, Examples) and targets is None:
            weights, mask = support.weights, support.mask if mask is None else mask
            self._shape = {"input_shape": list(support.inputs.shape[2:])}
        if targets is None:
            if not (isinstance(support, Sequence | Examples) and len(support) in (2, 4)):
                raise ShapeError(
                    "Expected inputs and targets, adapter.adapt(inputs, targets), or a pair of "
                    f"them; got a {type(support).__name__}."
                )
            support, targets = support[0], support[1]
        inputs, many = self._inputs(support, "support inputs")
        self._shape = {"input_shape": list(inputs.shape[2:])}
        if "columns" not in self.origin.ranges:  # those of training are known otherwise
            self._columns = column_names(support)
        values = target_array(targets, support, self.origin.ranges)
        values = values if many else values[None]
        if values.shape[:2] != inputs.shape[:2]:
            raise ShapeError(
                f"Expected as many targets as inputs, {list(inputs.shape[:2])}, got "
                f"{list(values.shape[:2])}."
            )
        self._many = many
        own = as_mask(mask, inputs, many, self.origin.ranges, weights)
        return Examples(inputs, self._targets(values, inputs, own), weights, own)

    def _prepare(self) -> None:
        """Lets a module run once, which shows whether it normalises batches."""
        ranges = self.origin.ranges
        if "input_shape" not in ranges or not isinstance(self._network, Model):
            return
        dtype = getattr(torch, str(ranges.get("input_type", "float32")))
        shape = (1, 4, *ranges["input_shape"])
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self._network.prepare((drawn if dtype.is_floating_point else drawn > 0).to(dtype))

    def _check_finite(self, adapted: Any) -> None:
        """Raises NonFiniteError if the parameters of a task are not finite."""
        if not isinstance(adapted, Adapted):
            return
        rows = [task_rows(p.isfinite()).all(1) for p in adapted.params.values()]
        broken = (~torch.stack(rows).all(0)).nonzero().flatten().tolist() if rows else []
        if broken:
            where = f" of task {', '.join(map(str, broken[:8]))}" if self._many else ""
            raise NonFiniteError(
                f"The adaptation diverged: parameters{where} are not finite. Are inputs and "
                "targets on the scale of training? Or take fewer steps."
            )

    def _number_classes(self, tasks: int) -> None:
        """Lets predictions be the indices of the descriptions."""
        assert self._way is not None
        self.classes = [np.arange(self._way, dtype=np.int64)] * tasks

    def _targets(self, values: np.ndarray, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Returns targets as the learner takes them, and keeps the labels of predictions."""
        ranges = self.origin.ranges
        if self._way is not None:
            self._number_classes(len(values))
            return numbered_labels(values, self._way)
        self.classes = None
        if not ranges.get("labels", values.dtype.kind != "f"):
            return value_targets(values, ranges, parameter_type(self.learner), self._scaling)
        values = labels_of(values, ranges)
        if not self._classifies(values, inputs, mask):
            return value_targets(values, ranges, torch.int64)
        fixed, ignored = hasattr(self.learner, "adaptation"), ignored_label(self._own_loss)
        targets, self.classes = class_targets(values, ranges.get("classes"), fixed, ignored)
        return targets

    @torch.no_grad()
    def _classifies(self, values: np.ndarray, inputs: Tensor, mask: Tensor | None) -> bool:
        """Returns whether the outputs are logits, [T, N, *, classes] for labels [T, N, *].

        With a loss of the user's they may be one logit, thresholds or rates of whole numbers.
        """
        if self._own_loss is task_loss:
            return True
        start = Adapted(task_params(self._network, len(inputs)), inputs, None, None, mask)
        outputs = self.learner.predict(start, inputs, transductive=True, mask=mask)
        least = max(2, self.origin.ranges.get("classes", 2))
        return (
            isinstance(outputs, Tensor)
            and outputs.shape[:-1] == values.shape
            and outputs.shape[-1] >= least
        )

    def _inputs(self, data: Any, what: str) -> tuple[Tensor, bool]:
        """Returns inputs as the learner takes them, see `as_inputs`; warns of other ranges."""
        ranges = self.origin.ranges
        inputs, many = as_inputs(data, {**self._shape, **ranges}, what)
        if self._scaling is not None:
            inputs = self._scaling.inputs(inputs)
        if inputs.is_floating_point():
            rows = as_array(inputs.reshape(inputs.shape[0] * inputs.shape[1], -1), what)
            warn_of_ranges(rows, ranges.get("inputs"), what, advice=advice(ranges, self._scaling))
        return inputs, many

    @torch.no_grad()
    def _loss(self, adapted: Any, examples: Examples) -> float | None:
        """Returns the mean loss of the support sets; None where the learner has another loss."""
        if self._own_loss is not task_loss or not examples.targets.numel():
            return None
        outputs = self.learner.predict(adapted, examples.inputs, mask=examples.mask)
        if not isinstance(outputs, Tensor):
            return None
        return float(task_loss(outputs, *examples[1:]).mean())
