"""Regression tasks from groups of examples: each patient, machine or robot is a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.ranges import COUNT, NOT_NEGATIVE, check_ints
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_sampling, check_split
from metarl.tasks.pools import Reading, Source
from metarl.tasks.scaling import Scaling
from metarl.tasks.unequal import (
    FEWEST,
    SMALL,
    Augment,
    Small,
    augmented,
    check_small,
    draw_rows,
    enough,
    padded_examples,
    places,
    shot_limits,
)


@dataclass(frozen=True, eq=False)
class GroupTasks:
    """A `TaskDistribution` of groups of examples; see `GroupedExamples`.

    A task is a group, sampled uniformly from those of the split. Its examples are sampled without
    replacement; support and query share none.

    Attributes:
        source: Reads the inputs by their row numbers.
        values: The targets, shape [M, *target], float32.
        order: The row number of each example, sorted by group, shape [M], int64.
        counts: Number of examples of each group, shape [K], int64.
        pool_names: The name of each group.
        splits: Numbers of the groups of each split, int64.
        shots: Support examples of a task.
        queries: Query examples of a task.
        part: The split that groups are sampled from.
        small_groups: Groups with fewer than `shots + queries` examples. "refuse": an error that
            names one; "drop": they are left out; "take": a group with c examples gives
            min(shots, c - 1) to the support set and up to `queries` others to the query set,
            padded with weights of 0, see `Examples`.
        min_examples: Groups with fewer examples are left out; None: `shots + queries` with "drop",
            2 with "take", none with "refuse".
        fewest_shots: Each task has a random number of shots, uniform from `fewest_shots` to
            `shots`; None: all have `shots`.
        scaling: Standardises inputs and targets; None: both are as in the data.
        augment_support: Changes the support inputs of training tasks; see `unequal.Augment`.
        augment_query: Changes the query inputs of training tasks.
        columns: The names of the columns of the inputs, in their order, which a run records; None
            without names.
        target_columns: Those of the targets.
    """

    source: Source = field(repr=False)
    values: Tensor = field(repr=False)
    order: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    pool_names: tuple[str, ...] = field(repr=False)
    splits: Mapping[Split, Tensor] = field(repr=False)
    shots: int = 10
    queries: int = 10
    part: Split = "train"
    small_groups: Small = "refuse"
    min_examples: int | None = None
    fewest_shots: int | None = None
    scaling: Scaling | None = field(default=None, repr=False)
    augment_support: Augment | None = field(default=None, repr=False)
    augment_query: Augment | None = field(default=None, repr=False)
    columns: tuple[str, ...] | None = field(default=None, repr=False)
    target_columns: tuple[str, ...] | None = field(default=None, repr=False)
    _groups: Tensor = field(init=False, repr=False)
    _offsets: Tensor = field(init=False, repr=False)
    _most: int = field(init=False, repr=False)
    has_padding: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings against the groups of the split."""
        check_split(self.part)
        check_ints(self, COUNT, "shots", "queries")
        for name in ("min_examples", "fewest_shots"):
            if getattr(self, name) is not None:
                check_ints(self, NOT_NEGATIVE, name)
        check_choice("small_groups", self.small_groups, SMALL)
        check_small(self.small_groups, self.min_examples, ("small_groups", "min_examples"))
        if self.fewest_shots is not None and not 1 <= self.fewest_shots <= self.shots:
            raise SettingsError(
                f"Expected `fewest_shots` from 1 to the {self.shots} shots, got "
                f"{self.fewest_shots}."
            )
        if len(self.source) != len(self.values):
            raise ShapeError(
                f"Expected targets for the {len(self.source)} examples, got {len(self.values)}."
            )
        self._check_mask()
        self._set_groups()

    def split(self, name: Split) -> GroupTasks:
        """Returns the distribution over the tasks of one split."""
        return replace(self, part=check_split(name))

    def to(self, device: torch.device | str) -> GroupTasks:
        """Returns the same distribution with what it holds in memory on `device`."""
        splits = {name: groups.to(device) for name, groups in self.splits.items()}
        moved = {name: getattr(self, name).to(device) for name in ("values", "order", "counts")}
        scaling = None if self.scaling is None else self.scaling.to(device)
        source = self.source.to(device)
        return replace(self, source=source, splits=splits, scaling=scaling, **moved)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups of this split."""
        return tuple(self.pool_names[i] for i in self._groups.tolist())

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the groups of this split that have too few examples and are left out."""
        kept = set(self._groups.tolist())
        split = self.splits.get(self.part, self._groups).tolist()
        return tuple(self.pool_names[i] for i in split if i not in kept)

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of tasks.

        Returns:
            Support inputs [T, shots, *input] and targets [T, shots, *target], float32; the query
            likewise. `info["groups"]` has the number of each task's group, [T], int64.
        """
        check_sampling(num_tasks, generator)
        device = generator.device
        chosen = torch.randint(len(self._groups), (num_tasks,), generator=generator, device=device)
        groups = self._groups.to(device)[chosen]
        counts = self.counts.to(device)[groups].unsqueeze(1)
        drawn = draw_rows(counts, self._most, self.shots + self.queries, generator)
        real = None
        if self.has_padding:
            limits = shot_limits((num_tasks, 1), self.fewest_shots, self.shots, generator)
            drawn, real = places(drawn, counts, self.shots, limits)
        index = drawn + self._offsets.to(device)[groups].unsqueeze(1)
        rows = self.order.to(device)[index]
        support, query = (
            self._read(rows[:, part], None if real is None else real[:, part])
            for part in (slice(self.shots), slice(self.shots, None))
        )
        if self.part == "train":
            support = augmented(support, self.augment_support, generator)
            query = augmented(query, self.augment_query, generator)
        return TaskBatch(support, query, {"groups": groups})

    def _read(self, rows: Tensor, real: Tensor | None) -> Examples:
        """Reads the examples of rows [T, n]."""
        inputs, mask = self.source.read(rows.flatten())
        targets = self.values.index_select(0, rows.flatten().to(self.values.device))
        targets = targets.to(rows.device)
        if self.scaling is not None:
            scaling = self.scaling.to(rows.device)
            inputs, targets = scaling.inputs(inputs), scaling.targets(targets)
        shaped = Reading(
            inputs.view(*rows.shape, *inputs.shape[1:]),
            None if mask is None else mask.view(*rows.shape, -1),
        )
        return padded_examples(shaped, targets.view(*rows.shape, *targets.shape[1:]), real)

    def _check_mask(self) -> None:
        """Raises SettingsError if the mask of the inputs would be taken for that of the targets."""
        length = self.values.shape[1] if self.values.dim() > 1 else 0
        first = torch.zeros(1, dtype=torch.int64)
        if self.source.example_shape[0] == length and self.source.read(first).mask is not None:
            raise SettingsError(
                f"Expected padded sequences of another length than the {length} targets of an "
                f"example: a mask [T, N, {length}] counts for targets [T, N, {length}], too. Pad "
                f"the sequences to length={length + 1}."
            )

    def _set_groups(self) -> None:
        """Sets the groups of the split; raises if there are none or one has too few examples."""
        groups = self.splits.get(self.part, torch.empty(0, dtype=torch.int64))
        counts = self.counts[groups.to(self.counts.device)].to(groups.device)
        needed = self.shots + self.queries
        kept = enough(counts, self.small_groups, self.min_examples, needed)
        few = kept & (counts < (FEWEST if self.small_groups == "take" else needed))
        if few.any():
            number = int(few.nonzero()[0])
            raise SettingsError(
                f"{self.shots} shots and {self.queries} queries need {needed} examples per group; "
                f"{self.pool_names[int(groups[number])]!r} of the {self.part} split has "
                f"{int(counts[number])}. Lower the shots or the queries, or leave small groups out "
                "(small_groups='drop') or take what they have ('take')."
            )
        if not kept.any():
            what = "has no groups; give it some with `splits`, or use another split"
            if len(groups):
                what = f"has {len(groups)} groups, all with too few examples; lower `min_examples`"
            raise TaskError(f"The {self.part} split {what}.")
        padded = self.small_groups == "take" and bool((counts[kept] < needed).any())
        object.__setattr__(self, "_groups", groups[kept])
        object.__setattr__(self, "_offsets", self.counts.cumsum(0) - self.counts)
        object.__setattr__(self, "_most", max(int(counts[kept].max()), needed))
        object.__setattr__(self, "has_padding", padded or self.fewest_shots is not None)
