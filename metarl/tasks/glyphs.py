"""Procedurally generated characters in Omniglot's format, which need no data.

An alphabet is a set of stroke shapes. A character consists of two to four strokes of these shapes,
each attached to an earlier one. A drawer varies every stroke a little and has an individual slant.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import LARGEST, SEED, Range, check_int
from metarl.tasks.base import SPLITS, Split
from metarl.tasks.episodes import FewShot, Rotations
from metarl.tasks.pools import ImagePool

IMAGE_SIZE = 28
MOST_CLASSES = 10_000  # alphabets, characters of each, and drawings of each of these
SHAPES = 8  # stroke shapes per alphabet
STROKES = 4  # most strokes per character
POINTS = 32  # points along a stroke
PEN = 0.6  # standard deviation of the pen's ink, in pixels
INK = 1.1  # density of the ink along a stroke
DTYPE = torch.float32  # of all numbers: other types would draw other glyphs of the same seed
CHUNK = 2000  # images rendered at a time, which bounds memory
SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}  # fractions of the alphabets


class Strokes(NamedTuple):
    """Strokes of a pen that moves at constant speed while its heading changes; any shape [*].

    heading(t) = start + bend * t + corner * [t > at] + wave * sin(2 pi t), for t in [0, 1].

    Attributes:
        start: Initial heading, in radians.
        bend: Turn over the whole stroke, in radians.
        corner: Sudden turn, in radians.
        at: Position of the corner along the stroke, in [0, 1].
        wave: Amplitude of the sinusoidal part of the heading, in radians.
        length: Length of the stroke, in units of the character's box.
    """

    start: Tensor
    bend: Tensor
    corner: Tensor
    at: Tensor
    wave: Tensor
    length: Tensor


@dataclass(frozen=True, eq=False)
class Joints:
    """Where the strokes of characters are attached to each other.

    Attributes:
        parent: The earlier stroke that each stroke is attached to, shape [characters, STROKES],
            int64.
        point: The joint's point on the parent, in 0..POINTS - 1, the same shape and type.
        own: The joint's point on the stroke itself, the same range, shape and type.
        drawn: Whether the character has this stroke, the same shape, bool.
    """

    parent: Tensor
    point: Tensor
    own: Tensor
    drawn: Tensor

    def of(self, characters: Tensor, drawings: int) -> Joints:
        """Returns the joints of each drawing of `characters`, [characters, drawings, STROKES]."""
        return Joints(
            *(v[characters].unsqueeze(1).expand(-1, drawings, -1) for v in vars(self).values())
        )


def Glyphs(  # noqa: N802 - reads like the other distributions
    way: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    rotations: Rotations = "none",
    alphabets: int = 50,
    characters: int = 20,
    drawings: int = 20,
    seed: int = 0,
    invert: bool = True,
) -> FewShot:
    """Builds N-way K-shot episodes of generated characters: images [1, 28, 28], ink 1 on paper 0.

    The splits are by alphabet: 60 % train, 10 % validation, 30 % test. The images stay in memory;
    20 000 of them take about three seconds to render and 16 MB.

    Args:
        way: Classes per episode.
        shots: Support images per class.
        queries: Query images per class.
        rotations: See `FewShot`.
        alphabets: Number of alphabets.
        characters: Characters per alphabet.
        drawings: Drawings per character, each by another drawer.
        seed: Seed of the characters and drawings.
        invert: False for ink 0 on paper 1; see `Omniglot`.

    Raises:
        SettingsError: If a number is below 1, or the episodes do not fit the characters.
    """
    among = Range(-LARGEST, MOST_CLASSES)
    alphabets = check_int("alphabets", alphabets, among)
    characters = check_int("characters", characters, among)
    drawings = check_int("drawings", drawings, among)
    seed = check_int("seed", seed, SEED)
    if min(alphabets, characters, drawings) < 1:
        raise SettingsError(
            f"Expected at least 1 alphabet, character and drawing, got {alphabets}, {characters} "
            f"and {drawings}."
        )
    sizes = (alphabets, characters, drawings)
    undrawn_glyphs(way, shots, queries, rotations, *sizes)  # checks the episodes before drawing
    pool = _pool(*sizes, seed)
    if not invert:
        pool = replace(pool, images=255 - pool.images)
    splits = _splits(alphabets, characters)
    return FewShot(pool, splits, way, shots, queries, rotations=rotations)


def undrawn_glyphs(
    way: int,
    shots: int,
    queries: int,
    rotations: Rotations = "none",
    alphabets: int = 50,
    characters: int = 20,
    drawings: int = 20,
) -> FewShot:
    """Returns episodes of empty images that take no memory, to check settings before drawing.

    The arguments are those of `Glyphs`.

    Raises:
        SettingsError: The episodes do not fit the characters.
    """
    names = _names(alphabets, characters)
    total = drawings * len(names)
    images = torch.zeros(1, dtype=torch.uint8).expand(total, IMAGE_SIZE, IMAGE_SIZE)
    pool = ImagePool(images, torch.full((len(names),), drawings), names)
    splits = _splits(alphabets, characters)
    return FewShot(pool, splits, way, shots, queries, rotations=rotations)


@functools.lru_cache(maxsize=4)
def _pool(alphabets: int, characters: int, drawings: int, seed: int) -> ImagePool:
    generator = torch.Generator().manual_seed(seed)
    images = draw(alphabets, characters, drawings, generator)
    names = _names(alphabets, characters)
    return ImagePool(images, torch.full((len(names),), drawings), names)


def _names(alphabets: int, characters: int) -> tuple[str, ...]:
    return tuple(
        f"Glyphs{a + 1:02d}/character{c + 1:02d}"
        for a in range(alphabets)
        for c in range(characters)
    )


def _splits(alphabets: int, characters: int) -> dict[Split, Tensor]:
    train = max(1, round(SHARES["train"] * alphabets))
    validation = round(SHARES["validation"] * alphabets)
    sizes = [train, validation, alphabets - train - validation]
    classes = torch.arange(alphabets * characters)
    return dict(zip(SPLITS, classes.split([n * characters for n in sizes]), strict=True))


def draw(alphabets: int, characters: int, drawings: int, generator: torch.Generator) -> Tensor:
    """Generates alphabets and renders all drawings of their characters.

    Args:
        alphabets: Number of alphabets.
        characters: Characters per alphabet.
        drawings: Drawings per character.
        generator: The only source of randomness, on the CPU.

    Returns:
        Images [alphabets * characters * drawings, 28, 28], uint8, ink 255 on paper 0.
    """
    total = alphabets * characters
    strokes = _characters(_alphabets(alphabets, generator), characters, generator)
    joints = _joints(total, generator)
    middle, extent = _frame(_join(_trace(strokes), joints), joints.drawn)
    slant = _affine(alphabets, drawings, generator).repeat_interleave(characters, 0)
    images = []
    for part in torch.arange(total).split(max(1, CHUNK // drawings)):
        by_drawer = Strokes(*(value[part].unsqueeze(1) for value in strokes))
        part_joints = joints.of(part, drawings)
        points = _join(_trace(_jitter(by_drawer, drawings, generator)), part_joints)
        points = (points - middle[part, None, None, None]) / extent[part, None, None, None, None]
        points = torch.einsum("cdspi,cdij->cdspj", points, slant[part])
        images.append(_ink(_place(points, generator), part_joints.drawn).flatten(0, 1))
    return torch.cat(images)


def _frame(lines: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the centre [characters, 2] and the larger side [characters] of bounding boxes."""
    absent = ~drawn[..., None, None]
    low = lines.masked_fill(absent, math.inf).amin((1, 2))
    high = lines.masked_fill(absent, -math.inf).amax((1, 2))
    return (low + high) / 2, (high - low).amax(1)


def _alphabets(count: int, generator: torch.Generator) -> Strokes:
    """Samples the stroke shapes of alphabets, each tensor [alphabets, SHAPES]."""
    shape = (count, SHAPES)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=DTYPE)

    sign = uniform(-1, 1).sign()
    kind = torch.rand(shape, generator=generator, dtype=DTYPE)  # a line, an arc, a hook or a wave
    return Strokes(
        start=torch.randint(8, shape, generator=generator).to(DTYPE) * (math.pi / 4),
        bend=sign * uniform(1.5, 5.5) * ((kind > 0.3) & (kind < 0.65)),
        corner=sign * uniform(1.2, 2.6) * ((kind >= 0.65) & (kind < 0.9)),
        at=uniform(0.3, 0.8),
        wave=sign * uniform(0.8, 1.6) * (kind >= 0.9),
        length=uniform(0.5, 1.3),
    )


def _characters(shapes: Strokes, characters: int, generator: torch.Generator) -> Strokes:
    """Samples the strokes of characters, each tensor [alphabets * characters, STROKES]."""
    alphabets = shapes.start.shape[0]
    size = (alphabets, characters, STROKES)
    pick = torch.randint(SHAPES, size, generator=generator).flatten(1)
    strokes = Strokes(*(value.gather(1, pick).view(-1, STROKES) for value in shapes))
    # Each stroke is at 45, 90 or 135 degrees to the previous one, and drawn in either direction.
    eighths = torch.randint(1, 4, strokes.start.shape, generator=generator).cumsum(1)
    reverse = torch.randint(2, strokes.start.shape, generator=generator)
    start = eighths.to(DTYPE) * (math.pi / 4) + reverse.to(DTYPE) * math.pi
    return _vary(strokes._replace(start=strokes.start[:, :1] + start), 0.15, generator)


def _joints(total: int, generator: torch.Generator) -> Joints:
    """Samples the joints of `total` characters."""
    shape = (total, STROKES)
    parent = (torch.rand(shape, generator=generator, dtype=DTYPE) * torch.arange(STROKES)).long()
    count = torch.randint(2, STROKES + 1, (total, 1), generator=generator)
    ends = torch.tensor([0, POINTS // 2, POINTS - 1])
    return Joints(
        parent=parent,
        point=torch.randint(POINTS, shape, generator=generator),
        own=ends[torch.randint(3, shape, generator=generator)],
        drawn=torch.arange(STROKES) < count,
    )


def _vary(strokes: Strokes, scale: float, generator: torch.Generator) -> Strokes:
    """Adds noise to strokes; `scale` is the standard deviation of the headings in radians."""

    def noise(times: float) -> Tensor:
        return times * scale * torch.randn(strokes.start.shape, generator=generator, dtype=DTYPE)

    return Strokes(
        start=strokes.start + noise(1.0),
        bend=strokes.bend + noise(2.0),
        corner=strokes.corner * (1 + noise(1.0)),
        at=strokes.at + noise(0.5),
        wave=strokes.wave * (1 + noise(1.0)),
        length=strokes.length * noise(1.0).exp(),
    )


def _jitter(strokes: Strokes, drawings: int, generator: torch.Generator) -> Strokes:
    """Returns noisy copies of strokes [characters, 1, STROKES] for each drawing."""
    shape = (strokes.start.shape[0], drawings, STROKES)
    return _vary(Strokes(*(value.expand(shape) for value in strokes)), 0.12, generator)


def _affine(alphabets: int, drawings: int, generator: torch.Generator) -> Tensor:
    """Samples the slant, rotation and size of each drawer, shape [alphabets, drawings, 2, 2]."""
    shape = (4, alphabets, drawings)
    turn, shear, wide, high = 0.1 * torch.randn(shape, generator=generator, dtype=DTYPE)
    top = torch.stack([wide.exp() * turn.cos(), -turn.sin() + shear], -1)
    bottom = torch.stack([turn.sin(), high.exp() * turn.cos()], -1)
    return torch.stack([top, bottom], -2)


def _trace(strokes: Strokes) -> Tensor:
    """Returns points (x, y) along strokes that start at (0, 0), shape [*, POINTS, 2]."""
    start, bend, corner, at, wave, length = (value.unsqueeze(-1) for value in strokes)
    t = torch.linspace(0, 1, POINTS, dtype=DTYPE)
    heading = start + bend * t + corner * (t > at) + wave * torch.sin(2 * math.pi * t)
    # p(t) = length * integral of (cos heading, sin heading) from 0 to t
    steps = torch.stack([heading.cos(), heading.sin()], -1) * length.unsqueeze(-1) / POINTS
    return steps.cumsum(-2)


def _join(lines: Tensor, joints: Joints) -> Tensor:
    """Moves each stroke of [*, STROKES, POINTS, 2] so that it meets its parent at the joint."""
    batch = lines.shape[:-3]
    flat = lines.flatten(0, -4)
    parent, point, own = (v.flatten(0, -2) for v in (joints.parent, joints.point, joints.own))
    rows = torch.arange(len(flat))
    placed = [flat[:, 0]]
    for stroke in range(1, STROKES):
        earlier = torch.stack(placed, 1)
        target = earlier[rows, parent[:, stroke], point[:, stroke]]
        origin = flat[rows, stroke, own[:, stroke]]
        placed.append(flat[:, stroke] + (target - origin).unsqueeze(1))
    return torch.stack(placed, 1).view(*batch, *lines.shape[-3:])


def _place(points: Tensor, generator: torch.Generator) -> Tensor:
    """Scales unit-size characters [*, STROKES, POINTS, 2] to pixels; size and shift are random."""
    batch = (*points.shape[:-3], 1, 1, 1)
    size = 18.0 + 1.5 * torch.randn(batch, generator=generator, dtype=DTYPE)
    shift = 1.2 * torch.randn((*batch[:-1], 2), generator=generator, dtype=DTYPE)
    return points * size + shift + (IMAGE_SIZE - 1) / 2


def _ink(points: Tensor, drawn: Tensor) -> Tensor:
    """Renders strokes with a soft round pen.

    The pen leaves a Gaussian at every point. A Gaussian is a product of one in x and one in y, so
    the sum over all points is one matrix product per image.

    Args:
        points: Points (x, y) in pixels, shape [*, STROKES, POINTS, 2].
        drawn: Which strokes to draw, shape [*, STROKES], bool.

    Returns:
        Images [*, 28, 28], uint8, ink 255 on paper 0.
    """
    step = (points[..., 1:, :] - points[..., :-1, :]).norm(dim=-1)
    weight = torch.cat([step, step[..., -1:]], -1) * drawn.unsqueeze(-1)  # [*, STROKES, POINTS]
    pixels = torch.arange(IMAGE_SIZE, dtype=points.dtype)
    # g(u) = exp(-(u - p)^2 / (2 sigma^2)), for each coordinate of each point p
    gaussians = (-((pixels - points.flatten(-3, -2).unsqueeze(-1)) ** 2) / (2 * PEN**2)).exp()
    x, y = gaussians.unbind(-2)  # [*, STROKES * POINTS, 28]
    # density(i, j) = sum_p weight_p g_y(i) g_x(j), value = 1 - exp(-INK density)
    density = (y * weight.flatten(-2).unsqueeze(-1)).mT @ x
    return ((1 - (-INK * density).exp()) * 255).round().to(torch.uint8)
