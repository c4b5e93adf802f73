"""N-way K-shot episodes, sampled from a pool of examples by index on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import SettingsError, TaskError, short_repr
from metarl.ranges import ANY_INT, COUNT, NOT_NEGATIVE, check_int, check_ints
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_sampling, check_split
from metarl.tasks.distortions import Distortion
from metarl.tasks.pools import QUARTERS, Pool, Reading
from metarl.tasks.pools import ImagePool as ImagePool  # its former module
from metarl.tasks.unequal import (
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

Rotations = Literal["none", "episode", "classes", "reflected"]
ORIENTATIONS = {"none": 1, "episode": 1, "classes": QUARTERS, "reflected": 2 * QUARTERS}
"""Number of classes that each kind of rotations makes of one class."""

Grouping = Literal["none", "alphabets", "drawers"]
_CHOICES = (("rotations", Rotations), ("grouping", Grouping), ("small_classes", Small))


class EpisodeClasses(NamedTuple):
    """The classes of T episodes.

    Attributes:
        classes: Indices into the pool, shape [T, way], int64.
        rotations: Number of counter-clockwise rotations by 90 degrees, 0 to 3; 4 to 7 are those
            of the mirror image. Shape [T, way], int64.
        labels: Indices into all classes of the split, where rotations may count as separate
            classes, shape [T, way], int64.
    """

    classes: Tensor
    rotations: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class FewShot:
    """A distribution over N-way K-shot classification episodes; see `TaskDistribution`.

    The classes of an episode and the images of a class are sampled without replacement; support
    and query share no image. If images and generator are on different devices, every batch is
    copied; `to` avoids this by moving all images once. "Images" may be examples of any kind:
    `FewShotData` builds a distribution from arrays, tables and data sets.

    Attributes:
        pool: The images of all splits.
        splits: Class indices [classes], int64, of each split; no class is in two splits.
        way: Classes per episode (N).
        shots: Support images per class (K).
        queries: Query images per class.
        part: The split that classes are sampled from.
        rotations: "none"; "episode" (Finn et al. 2017): each class of an episode is rotated by one
            of 0, 90, 180, 270 degrees, and no episode has two rotations of a character; "classes"
            (Vinyals et al. 2016): the four rotations of a character are separate classes, which an
            episode may combine; "reflected": the four rotations and those of the mirror image are
            eight classes.
        grouping: "none": an episode has classes of any alphabets; "alphabets": all its classes are
            from one alphabet, with one rotation for all of them if rotations are classes;
            "drawers": in addition, all images of a shot are by one drawer and those of a query by
            another, as in Lake's runs. This assumes that the n-th images of all classes of an
            alphabet are by the same drawer, as in Omniglot. Alphabets with fewer than `way`
            classes are left out.
        distortion: Random distortion of the images; None for no distortion.
        small_classes: Classes with fewer than `shots + queries` images. "refuse": an error that
            names one; "drop": they are left out; "take": a class with c images gives
            min(shots, c - 1) to the support set and up to `queries` others to the query set. What
            is missing is padded with weights of 0, see `Examples`.
        min_images: Classes with fewer images are left out; None: `shots + queries` with "drop",
            2 with "take", none with "refuse".
        fewest_shots: Each task has a random number of shots per class, uniform from `fewest_shots`
            to `shots`; the support set is padded with weights of 0. None: all have `shots`. 0 needs
            classes with descriptions.
        augment_support: Changes the support inputs of training tasks; see `Augment`. Validation and
            test tasks are not augmented.
        augment_query: Changes the query inputs of training tasks likewise.
        columns: The names of the columns of a table, in their order, which a run records; or None.
        has_padding: Whether the tasks have weights, because classes or tasks may lack examples.
    """

    pool: Pool = field(repr=False)
    splits: Mapping[Split, Tensor] = field(repr=False)
    way: int = 5
    shots: int = 1
    queries: int = 15
    part: Split = "train"
    rotations: Rotations = "none"
    grouping: Grouping = "none"
    distortion: Distortion | None = None
    small_classes: Small = "refuse"
    min_images: int | None = None
    fewest_shots: int | None = None
    augment_support: Augment | None = field(default=None, repr=False)
    augment_query: Augment | None = field(default=None, repr=False)
    columns: tuple[str, ...] | None = field(default=None, repr=False)
    _classes: Tensor = field(init=False, repr=False)
    _most_images: int = field(init=False, repr=False)
    has_padding: bool = field(init=False, repr=False)
    _groups: Tensor = field(init=False, repr=False)
    _large: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings against the classes and images of the split."""
        check_split(self.part)
        self._check_settings()
        self._check_indices()
        self._check_disjoint()
        self._set_classes()
        self._set_groups()
        self._check_split_size()
        # A Python number, because reading it from a tensor would sync the device on every batch.
        most = int(self.pool.counts[self._classes].max())
        object.__setattr__(self, "_most_images", max(most, self.shots + self.queries))

    def split(self, name: Split) -> FewShot:
        """Returns the distribution over the tasks of one split."""
        return replace(self, part=check_split(name))

    def to(self, device: torch.device | str) -> FewShot:
        """Returns the same distribution with its images on `device`; see `ImagePool.to`."""
        device = resolve_device(device)
        splits = {name: classes.to(device) for name, classes in self.splits.items()}
        return replace(self, pool=self.pool.to(device), splits=splits)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes of this split, without rotations."""
        return tuple(self.pool.names[i] for i in self._classes.tolist())

    @property
    def alphabets(self) -> tuple[str, ...]:
        """The alphabets of this split, sorted: the part of the class names before the slash."""
        return tuple(sorted({name.rpartition("/")[0] for name in self.names} - {""}))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the classes of this split that have too few images and are left out."""
        kept = set(self._classes.tolist())
        split = self.splits.get(self.part, self._classes).tolist()
        return tuple(self.pool.names[i] for i in split if i not in kept)

    @property
    def num_classes(self) -> int:
        """The number of classes of this split, including rotations that are separate classes."""
        return len(self._classes) * ORIENTATIONS[self.rotations]

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of episodes.

        Returns:
            Support inputs [T, way * shots, C, H, W], float32 in [0, 1], and targets
            [T, way * shots], int64, in the order of the classes (0 0 1 1 ...); the query likewise.
            `info` has the fields of `EpisodeClasses`, each [T, way], and "descriptions"
            [T, way, D], float32, if the pool has them.
        """
        check_sampling(num_tasks, generator)
        episode = self._draw_classes(num_tasks, generator)
        index, real = self._draw_images(episode.classes, generator)
        rotations = None if self.rotations == "none" else episode.rotations
        images, mask = self.pool.read(index, rotations)
        if self.distortion is not None:
            images = self.distortion(images, generator)
        support, query = (
            _examples(images[part], _part(mask, part), _part(real, part))
            for part in (np.s_[:, :, : self.shots], np.s_[:, :, self.shots :])
        )
        if self.part == "train":
            support = augmented(support, self.augment_support, generator)
            query = augmented(query, self.augment_query, generator)
        info = episode._asdict()
        if self.pool.descriptions is not None:
            descriptions = self.pool.descriptions.to(generator.device)
            info["descriptions"] = descriptions[episode.classes]
        return TaskBatch(support, query, info)

    def _draw_classes(self, num_tasks: int, generator: torch.Generator) -> EpisodeClasses:
        device = generator.device
        grouped = self.grouping != "none"
        orientations = ORIENTATIONS[self.rotations]
        # If rotations are classes, those of a grouped episode share one rotation, drawn below.
        count = len(self._classes) if grouped else self.num_classes
        # The indices of the largest of uniform scores are a sample without replacement.
        scores = torch.rand(num_tasks, count, generator=generator, device=device)
        per_task = (num_tasks, 1)
        if grouped:
            index = torch.randint(len(self._large), per_task, generator=generator, device=device)
            group = self._large.to(device)[index]
            scores.masked_fill_(self._groups.to(device) != group, -1.0)
        labels = scores.topk(self.way, dim=1).indices
        if grouped and orientations > 1:
            rotation = torch.randint(orientations, per_task, generator=generator, device=device)
            labels = labels * orientations + rotation
        classes, rotations = labels // orientations, labels % orientations
        if self.rotations == "episode":
            rotations = torch.randint(QUARTERS, classes.shape, generator=generator, device=device)
        return EpisodeClasses(self._classes.to(device)[classes], rotations, labels)

    def _draw_images(
        self, classes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Samples images without replacement.

        Returns:
            Indices into the pool, [T, way, shots + queries], int64, and whether the images exist,
            of the same shape, bool; None if all do.
        """
        device = generator.device
        counts = self.pool.counts.to(device)[classes].unsqueeze(2)
        if self.grouping == "drawers":
            counts = counts.amin(1, keepdim=True)
        number = self.shots + self.queries
        rows = draw_rows(counts, self._most_images, number, generator)
        real = None
        if self.has_padding:
            limits = shot_limits((len(classes), 1, 1), self.fewest_shots, self.shots, generator)
            rows, real = places(rows, counts, self.shots, limits)
        index = rows + self.pool.offsets.to(device)[classes].unsqueeze(2)
        return index, None if real is None else real.expand_as(index)

    def _check_settings(self) -> None:
        check_episode(self.way, self.shots, self.queries)
        check_ints(self, COUNT, "way", "shots", "queries")
        for name, literal in _CHOICES:
            check_choice(name, getattr(self, name), get_args(literal))
        self._check_images()
        for name in ("min_images", "fewest_shots"):
            if getattr(self, name) is not None:
                check_ints(self, NOT_NEGATIVE, name)
        check_small(self.small_classes, self.min_images, ("small_classes", "min_images"))
        if self.small_classes == "take" and self.grouping == "drawers":
            raise SettingsError(
                "grouping='drawers' needs as many images of all classes; use small_classes='drop'."
            )
        if self.fewest_shots is None:
            return
        lowest = 1 if self.pool.descriptions is None else 0
        if not lowest <= self.fewest_shots <= self.shots:
            raise SettingsError(
                f"Expected `fewest_shots` from {lowest} to the {self.shots} shots, got "
                f"{self.fewest_shots}; only classes with descriptions can be known without a shot."
            )

    def _check_images(self) -> None:
        """Checks that the examples are images where the settings need images."""
        shape = self.pool.example_shape
        if self.rotations != "none" and (len(shape) != 3 or shape[1] != shape[2]):
            raise SettingsError(
                "Rotations by 90 degrees need square images, got "
                f"{' x '.join(map(str, shape[1:] if len(shape) == 3 else shape))}; "
                "use rotations='none'."
            )
        if self.distortion is not None and len(shape) != 3:
            raise SettingsError(
                f"A distortion needs images [C, H, W], got examples {shape}; use `augment_support` "
                "and `augment_query`."
            )

    def _set_classes(self) -> None:
        """Sets the classes of the split, and whether any task can have padding."""
        classes = self.splits.get(self.part, torch.empty(0, dtype=torch.int64))
        counts = self.pool.counts[classes.to(self.pool.counts.device)].to(classes.device)
        needed = self.shots + self.queries
        kept = enough(counts, self.small_classes, self.min_images, needed)
        object.__setattr__(self, "_classes", classes[kept])
        few = self.small_classes == "take" and bool((counts[kept] < needed).any())
        object.__setattr__(self, "has_padding", few or self.fewest_shots is not None)

    def _set_groups(self) -> None:
        """Sets the alphabet number of each class, and the alphabets with at least `way` classes."""
        numbers: dict[str, int] = {}
        alphabets = [name.rpartition("/")[0] for name in self.names]
        indices = [numbers.setdefault(a, len(numbers)) for a in alphabets]
        groups = torch.tensor(indices, dtype=torch.int64, device=self._classes.device)
        large = (groups.bincount() >= self.way).nonzero().flatten()
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_large", large)

    def _check_indices(self) -> None:
        classes = len(self.pool.names)
        for name, indices in self.splits.items():
            check_split(name)
            is_list = indices.dim() == 1 and indices.dtype == torch.int64
            if not is_list or ((indices < 0) | (indices >= classes)).any():
                raise TaskError(
                    f"Expected the classes of the {name} split as int64 indices from 0 to "
                    f"{classes - 1}, got {indices.dtype} {short_repr(indices.tolist())}."
                )

    def _check_disjoint(self) -> None:
        classes = torch.cat(
            [torch.empty(0, dtype=torch.int64), *map(Tensor.cpu, self.splits.values())]
        )
        values, counts = classes.unique(return_counts=True)
        if (counts > 1).any():
            name = self.pool.names[int(values[counts > 1][0])]
            raise TaskError(f"The class {name!r} is in two splits; let each class be in one.")

    def _check_split_size(self) -> None:
        if self.num_classes == 0 and self.left_out:
            raise TaskError(
                f"All classes of the {self.part} split have too few images for {self.shots} shots "
                f"and {self.queries} queries (small_classes={self.small_classes!r}, min_images="
                f"{self.min_images}); lower them, or use small_classes='take'."
            )
        if self.num_classes == 0:
            raise TaskError(
                f"The {self.part} split has no classes; give it some (Omniglot without validation "
                "classes takes validation_fraction=0.1), or use another split."
            )
        if self.grouping != "none" and len(self._large) == 0:
            raise SettingsError(
                f"Expected a way of at most {int(self._groups.bincount().max())}, the classes of "
                f"the largest alphabet of the {self.part} split, got {self.way}; lower it or use "
                "grouping='none'."
            )
        if self.way > self.num_classes:
            raise SettingsError(
                f"Expected a way of at most {self.num_classes}, the classes of the {self.part} "
                f"split{self._note_left_out()}, got {self.way}."
            )
        counts = self.pool.counts[self._classes]
        needed, fewest = self.shots + self.queries, int(counts.argmin())
        if needed > counts[fewest] and self.small_classes != "take":
            raise SettingsError(
                f"{self.shots} shots and {self.queries} queries need {needed} examples per class; "
                f"{self.names[fewest]!r} of the {self.part} split has {int(counts[fewest])}. "
                "Lower the shots or the queries, or leave small classes out (small_classes='drop') "
                "or take what they have ('take')."
            )

    def _note_left_out(self) -> str:
        names = self.left_out
        return f" with enough examples ({len(names)} left out)" if names else ""


def check_episode(way: int, shots: int, queries: int) -> None:
    """Checks the sizes of episodes, without knowing the images.

    Raises:
        SettingsError: One of them is no integer of at least 1.
    """
    for name, value in (("way", way), ("shots", shots), ("queries", queries)):
        check_int(name, value, ANY_INT)
    if min(way, shots, queries) < 1:
        raise SettingsError(
            f"Expected at least 1 way, 1 shot and 1 query, got {way}, {shots} and {queries}."
        )


def class_indices(names: Sequence[str], chosen: Sequence[str]) -> Tensor:
    """Returns the index in `names` of each name in `chosen`, int64; the first if it repeats."""
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        index.setdefault(name, position)
    return torch.tensor([index[name] for name in chosen], dtype=torch.int64)


def _part(values: Tensor | None, part: Any) -> Tensor | None:
    return None if values is None else values[part]


def _examples(images: Tensor, mask: Tensor | None, real: Tensor | None) -> Examples:
    """Returns images [T, way, n, *] as examples in the order of the classes."""
    num_tasks, way, count = images.shape[:3]
    targets = torch.arange(way, device=images.device).repeat_interleave(count)
    return padded_examples(
        Reading(images.flatten(1, 2), None if mask is None else mask.flatten(1, 2)),
        targets.repeat(num_tasks, 1),
        None if real is None else real.flatten(1, 2),
    )
