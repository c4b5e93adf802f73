"""N-way K-shot episodes, sampled from a pool of images by index on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.devices import resolve_device
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.ranges import ANY_INT, check_int
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_num_tasks, check_split
from metarl.tasks.distortions import Distortion

Rotations = Literal["none", "episode", "classes", "reflected"]
QUARTERS = 4  # rotations by 0, 90, 180 and 270 degrees
ORIENTATIONS = {"none": 1, "episode": 1, "classes": QUARTERS, "reflected": 2 * QUARTERS}
"""Number of classes that each kind of rotations makes of one class."""

Grouping = Literal["none", "alphabets", "drawers"]


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
class ImagePool:
    """Images sorted by class, on any device.

    Attributes:
        images: Shape [M, C, H, W], or [M, H, W] for one channel (stored as [M, 1, H, W]), uint8.
        counts: Number of images of each class, shape [K], int64; the `counts[k]` images of class
            k are consecutive.
        names: The name of each class; "alphabet/character" for written characters.
        offsets: The index of the first image of each class, shape [K], int64.
    """

    images: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    offsets: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the shapes and computes the offsets."""
        images = self.images.unsqueeze(1) if self.images.dim() == 3 else self.images
        if images.dim() != 4 or images.dtype != torch.uint8:
            raise ShapeError(
                f"Expected uint8 images [M, C, H, W] or [M, H, W], got {images.dtype} "
                f"{tuple(self.images.shape)}."
            )
        total = int(self.counts.sum())
        if len(self.names) != len(self.counts) or total != len(images):
            raise ShapeError(
                f"Expected a name and a count for every class and counts that add up to the "
                f"{len(images)} images, got {len(self.names)} names, {len(self.counts)} counts, "
                f"sum {total}."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "offsets", self.counts.cumsum(0) - self.counts)

    def to(self, device: torch.device | str) -> ImagePool:
        """Returns the pool on `device`; `self` if it is already there.

        Args:
            device: See `metarl.devices.resolve_device`.
        """
        device = resolve_device(device)
        if self.images.device == device:
            return self
        return ImagePool(self.images.to(device), self.counts.to(device), self.names)


@dataclass(frozen=True, eq=False)
class FewShot:
    """A distribution over N-way K-shot classification episodes; see `TaskDistribution`.

    The classes of an episode and the images of a class are sampled without replacement; support
    and query share no image. If images and generator are on different devices, every batch is
    copied; `to` avoids this by moving all images once.

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
    """

    pool: ImagePool = field(repr=False)
    splits: Mapping[Split, Tensor] = field(repr=False)
    way: int = 5
    shots: int = 1
    queries: int = 15
    part: Split = "train"
    rotations: Rotations = "none"
    grouping: Grouping = "none"
    distortion: Distortion | None = None
    _most_images: int = field(init=False, repr=False)
    _groups: Tensor = field(init=False, repr=False)
    _large: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings against the classes and images of the split."""
        check_split(self.part)
        self._check_settings()
        self._check_disjoint()
        self._set_groups()
        self._check_split_size()
        # A Python number, because reading it from a tensor would sync the device on every batch.
        most = int(self.pool.counts[self._classes].max())
        object.__setattr__(self, "_most_images", most)

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
    def num_classes(self) -> int:
        """The number of classes of this split, including rotations that are separate classes."""
        return len(self._classes) * ORIENTATIONS[self.rotations]

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of episodes.

        Returns:
            Support inputs [T, way * shots, C, H, W], float32 in [0, 1], and targets
            [T, way * shots], int64, in the order of the classes (0 0 1 1 ...); the query likewise.
            `info` has the fields of `EpisodeClasses`, each [T, way].
        """
        check_num_tasks(num_tasks)
        episode = self._draw_classes(num_tasks, generator)
        index = self._draw_images(episode.classes, generator)
        images = self._gather(index, episode.rotations).to(torch.float32).div_(255.0)
        if self.distortion is not None:
            images = self.distortion(images, generator)
        return TaskBatch(
            _examples(images[:, :, : self.shots]),
            _examples(images[:, :, self.shots :]),
            episode._asdict(),
        )

    @property
    def _classes(self) -> Tensor:
        return self.splits.get(self.part, torch.empty(0, dtype=torch.int64))

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

    def _draw_images(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Samples images without replacement; returns their indices [T, way, shots + queries]."""
        device = generator.device
        counts = self.pool.counts.to(device)[classes].unsqueeze(2)
        same_drawers = self.grouping == "drawers"
        shape = (len(classes), 1 if same_drawers else classes.shape[1], self._most_images)
        scores = torch.rand(shape, generator=generator, device=device)
        fewest = counts.amin(1, keepdim=True) if same_drawers else counts
        absent = torch.arange(shape[2], device=device) >= fewest
        drawings = scores.masked_fill_(absent, -1.0).topk(self.shots + self.queries, dim=2).indices
        return drawings + self.pool.offsets.to(device)[classes].unsqueeze(2)

    def _gather(self, index: Tensor, rotations: Tensor) -> Tensor:
        """Returns the images [T, way, n, C, H, W], uint8, each class rotated by its rotation."""
        pixels = self.pool.images
        images = pixels.index_select(0, index.flatten().to(pixels.device)).to(index.device)
        images = images.view(*index.shape, *pixels.shape[1:])
        if self.rotations == "none":
            return images
        height, width = pixels.shape[2:]
        grid = torch.arange(height * width, device=index.device).view(height, width)
        # For each orientation, the pixel of the upright image at each pixel of the rotated one.
        sources = torch.stack(
            [g.rot90(k).flatten() for g in (grid, grid.flip(1)) for k in range(QUARTERS)]
        )
        flat = images.flatten(4).flatten(2, 3)  # [T, way, n * C, H * W]
        source = sources[rotations].unsqueeze(2).expand(flat.shape)
        return flat.gather(3, source).view(images.shape)

    def _check_settings(self) -> None:
        for name in ("way", "shots", "queries"):
            check_int(name, getattr(self, name), ANY_INT)
        if min(self.way, self.shots, self.queries) < 1:
            raise SettingsError(
                f"Expected at least 1 way, 1 shot and 1 query, got {self.way}, {self.shots} and "
                f"{self.queries}."
            )
        for name, literal in (("rotations", Rotations), ("grouping", Grouping)):
            check_choice(name, getattr(self, name), get_args(literal))
        height, width = self.pool.images.shape[2:]
        if self.rotations != "none" and height != width:
            raise SettingsError(
                f"Rotations by 90 degrees need square images, got {height} x {width}; "
                "use rotations='none'."
            )

    def _set_groups(self) -> None:
        """Sets the alphabet number of each class, and the alphabets with at least `way` classes."""
        numbers: dict[str, int] = {}
        alphabets = [name.rpartition("/")[0] for name in self.names]
        indices = [numbers.setdefault(a, len(numbers)) for a in alphabets]
        groups = torch.tensor(indices, dtype=torch.int64, device=self._classes.device)
        large = (groups.bincount() >= self.way).nonzero().flatten()
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_large", large)

    def _check_disjoint(self) -> None:
        classes = torch.cat(
            [torch.empty(0, dtype=torch.int64), *map(Tensor.cpu, self.splits.values())]
        )
        values, counts = classes.unique(return_counts=True)
        if (counts > 1).any():
            name = self.pool.names[int(values[counts > 1][0])]
            raise TaskError(f"The class {name!r} is in two splits; let each class be in one.")

    def _check_split_size(self) -> None:
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
                f"split, got {self.way}."
            )
        counts = self.pool.counts[self._classes]
        needed, fewest = self.shots + self.queries, int(counts.argmin())
        if needed > counts[fewest]:
            raise SettingsError(
                f"{self.shots} shots and {self.queries} queries need {needed} images per class; "
                f"{self.names[fewest]!r} of the {self.part} split has {int(counts[fewest])}. "
                "Lower the shots or the queries."
            )


def class_indices(names: Sequence[str], chosen: Sequence[str]) -> Tensor:
    """Returns the index in `names` of each name in `chosen`, int64; the first if it repeats."""
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        index.setdefault(name, position)
    return torch.tensor([index[name] for name in chosen], dtype=torch.int64)


def _examples(images: Tensor) -> Examples:
    """Returns images [T, way, n, C, H, W] as examples in the order of the classes."""
    num_tasks, way, count = images.shape[:3]
    targets = torch.arange(way, device=images.device).repeat_interleave(count)
    return Examples(images.flatten(1, 2), targets.repeat(num_tasks, 1))
