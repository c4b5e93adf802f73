"""N-way K-shot episodes, drawn by index on the device from a pool of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_num_tasks, check_split
from metarl.tasks.distortions import Distortion

Rotations = Literal["none", "episode", "classes", "reflected"]
QUARTERS = 4  # rotations by 0, 90, 180 and 270 degrees
ORIENTATIONS = {"none": 1, "episode": 1, "classes": QUARTERS, "reflected": 2 * QUARTERS}
"""Classes that each kind of rotations makes of one."""

Grouping = Literal["none", "alphabets", "drawers"]


class EpisodeClasses(NamedTuple):
    """The classes of T episodes.

    Attributes:
        classes: Indices into the pool, shape [T, way], int64.
        rotations: Counter-clockwise quarter turns 0..3; 4 more: of the mirror image. Shape
            [T, way], int64.
        labels: Numbers of the classes among all of the split, rotations counted, shape [T, way],
            int64.
    """

    classes: Tensor
    rotations: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Images kept class by class, on any device.

    Attributes:
        images: Shape [M, C, H, W], or [M, H, W] for one channel (kept as [M, 1, H, W]), uint8.
        counts: Images of each class, shape [K], int64; class k owns `counts[k]` images in a row.
        names: A name for each class; "alphabet/character" for written characters.
        offsets: The index of the first image of each class, shape [K], int64.
    """

    images: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    offsets: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the shapes and finds the offsets."""
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
        """Returns the pool on `device`; itself if it is there already."""
        if self.images.device == torch.device(device):
            return self
        return ImagePool(self.images.to(device), self.counts.to(device), self.names)


@dataclass(frozen=True, eq=False)
class FewShot:
    """A distribution over N-way K-shot classification episodes; see `TaskDistribution`.

    The classes of an episode and the images of a class are drawn without replacement; support and
    query share no image. Images may live on another device than the generator; then every batch is
    copied, so move them once with `to`.

    Attributes:
        pool: The images of all splits.
        splits: Class indices [classes], int64, of each split; no class is in two of them.
        way: Classes per episode (N).
        shots: Support images per class (K).
        queries: Query images per class.
        part: The split that classes are drawn from.
        rotations: "none"; "episode" (Finn et al. 2017): each class of an episode is turned by one
            of 0, 90, 180, 270 degrees, so two rotations of one character never meet; "classes"
            (Vinyals et al. 2016): the rotations of a character are four classes, which may meet;
            "reflected": its rotations and those of its mirror image are eight.
        grouping: "none": classes of any alphabets; "alphabets": of one alphabet an episode, turned
            alike where rotations are classes; "drawers": besides, one drawer has drawn all images
            of a shot, and another those of a query, as in Lake's runs. The n-th image of each
            class of an alphabet is then by the same drawer, as Omniglot's are. Alphabets with
            fewer classes than an episode are passed over.
        distortion: Changes images at random; None: they come as they are.
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
        self._group()
        self._check_split_size()
        # Kept as a number: reading it from the device on every batch would wait for the device.
        most = int(self.pool.counts[self._classes].max())
        object.__setattr__(self, "_most_images", most)

    def split(self, name: Split) -> FewShot:
        """See `TaskDistribution.split`."""
        return replace(self, part=check_split(name))

    def to(self, device: torch.device | str) -> FewShot:
        """Returns the same distribution with its images on `device`."""
        splits = {name: classes.to(device) for name, classes in self.splits.items()}
        return replace(self, pool=self.pool.to(device), splits=splits)

    def with_shape(
        self, way: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> FewShot:
        """Returns the same distribution with another shape of episodes; None keeps a number."""
        given = {"way": way, "shots": shots, "queries": queries}
        return replace(self, **{k: v for k, v in given.items() if v is not None})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes of this split, rotations not counted."""
        return tuple(self.pool.names[i] for i in self._classes.tolist())

    @property
    def alphabets(self) -> tuple[str, ...]:
        """The alphabets of this split, sorted: what stands before the slash in its names."""
        return tuple(sorted({name.rpartition("/")[0] for name in self.names} - {""}))

    @property
    def num_classes(self) -> int:
        """The number of classes that episodes of this split draw from, rotations counted."""
        return len(self._classes) * ORIENTATIONS[self.rotations]

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """See `TaskDistribution.sample`.

        Returns:
            Inputs float32 [T, way * shots, C, H, W] in [0, 1] and targets int64 [T, way * shots],
            class by class (0 0 1 1 ...); queries likewise. `info` has the fields of
            `EpisodeClasses`, each [T, way].
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
        # A group is turned as one: then the rotation is the task's, not the class's.
        count = len(self._classes) if grouped else self.num_classes
        scores = torch.rand(num_tasks, count, generator=generator, device=device)
        one = (num_tasks, 1)
        if grouped:
            picked = torch.randint(len(self._large), one, generator=generator, device=device)
            group = self._large.to(device)[picked]
            scores.masked_fill_(self._groups.to(device) != group, -1.0)
        labels = scores.topk(self.way, dim=1).indices
        if grouped and orientations > 1:
            turn = torch.randint(orientations, one, generator=generator, device=device)
            labels = labels * orientations + turn
        chosen, rotations = labels // orientations, labels % orientations
        if self.rotations == "episode":
            rotations = torch.randint(QUARTERS, chosen.shape, generator=generator, device=device)
        return EpisodeClasses(self._classes.to(device)[chosen], rotations, labels)

    def _draw_images(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Returns indices of images, shape [T, way, shots + queries]."""
        device = generator.device
        counts = self.pool.counts.to(device)[classes].unsqueeze(2)
        alike = self.grouping == "drawers"
        shape = (len(classes), 1 if alike else classes.shape[1], self._most_images)
        scores = torch.rand(shape, generator=generator, device=device)
        fewest = counts.amin(1, keepdim=True) if alike else counts
        absent = torch.arange(shape[2], device=device) >= fewest
        chosen = scores.masked_fill_(absent, -1.0).topk(self.shots + self.queries, dim=2).indices
        return chosen + self.pool.offsets.to(device)[classes].unsqueeze(2)

    def _gather(self, index: Tensor, rotations: Tensor) -> Tensor:
        """Returns the images [T, way, n, C, H, W], uint8, each class turned by its rotation."""
        pixels = self.pool.images
        images = pixels.index_select(0, index.flatten().to(pixels.device)).to(index.device)
        images = images.view(*index.shape, *pixels.shape[1:])
        if self.rotations == "none":
            return images
        height, width = pixels.shape[2:]
        grid = torch.arange(height * width, device=index.device).view(height, width)
        turned = torch.stack(
            [g.rot90(k).flatten() for g in (grid, grid.flip(1)) for k in range(QUARTERS)]
        )
        flat = images.flatten(4).flatten(2, 3)  # [T, way, n * C, H * W]
        source = turned[rotations].unsqueeze(2).expand(flat.shape)
        return flat.gather(3, source).view(images.shape)

    def _check_settings(self) -> None:
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

    def _group(self) -> None:
        """Notes the alphabet of each class, and those with classes enough for an episode."""
        numbers: dict[str, int] = {}
        alphabets = [name.rpartition("/")[0] for name in self.names]
        found = [numbers.setdefault(a, len(numbers)) for a in alphabets]
        groups = torch.tensor(found, dtype=torch.int64, device=self._classes.device)
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
    """Returns the index in `names` of each chosen name, int64; the first one of equal names."""
    index: dict[str, int] = {}
    for position, name in enumerate(names):
        index.setdefault(name, position)
    return torch.tensor([index[name] for name in chosen], dtype=torch.int64)


def _examples(images: Tensor) -> Examples:
    """Turns images [T, way, n, C, H, W] into examples, class by class."""
    num_tasks, way, count = images.shape[:3]
    targets = torch.arange(way, device=images.device).repeat_interleave(count)
    return Examples(images.flatten(1, 2), targets.repeat(num_tasks, 1))
