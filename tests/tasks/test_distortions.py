"""What distortions leave alone, how far they go, and that classes stay apart."""

import math
from dataclasses import fields, replace

import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks import distortions as d
from metarl.tasks.distortions import Distortion, _displacements, distort

ALL = Distortion(10, 0.2, 0.2, 0.1, 0.04, 0.5, 1.0)


def crosses(tasks=2, way=3, count=4, size=28, paper=0.0):
    """Images of a cross on paper of that value."""
    images = torch.full((tasks, way, count, 1, size, size), paper)
    images[..., size // 2 - 1 : size // 2 + 1, 6:-6] = 1 - paper
    images[..., 6:-6, size // 2 - 1 : size // 2 + 1] = 1 - paper
    return images


def test_no_strength_no_change(generator):
    images = torch.rand(2, 3, 2, 1, 9, 9, generator=generator)
    torch.testing.assert_close(Distortion()(images, generator), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        Distortion(novelty=3.0)(images, generator), images, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", [f.name for f in fields(Distortion) if f.name != "novelty"])
def test_each_setting_changes_every_image_in_its_own_way(name, generator):
    strength = 10.0 if name == "tilt" else 0.3
    images = Distortion(**{name: strength})(crosses(), generator).flatten(0, 2)
    assert images.shape == (24, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 24


def test_the_generator_is_the_only_source(generator):
    first, second, third = (ALL(crosses(), generator.manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_novelty_distorts_the_images_of_a_class_alike(generator, monkeypatch):
    """With what each image gets of its own switched off."""
    grids = Distortion.grids
    monkeypatch.setattr(
        Distortion,
        "grids",
        lambda self, number, size, generator, times=1.0: grids(
            self if times == 2 else Distortion(), number, size, generator, times
        ),
    )
    images = replace(ALL, stroke=0, novelty=2.0)(crosses(), generator)
    torch.testing.assert_close(images, images[:, :, :1].expand_as(images))
    classes = images[:, :, 0].flatten(0, 1)
    assert len({image.numpy().tobytes() for image in classes}) == 6


def test_images_stay_in_their_places(generator):
    """Class k is a bar of 2 + 3 k rows: its ink identifies the class after any distortion."""
    images = torch.zeros(2, 4, 3, 1, 28, 28)
    for k in range(4):
        images[:, k, :, :, 8 : 10 + 3 * k, 8:20] = 1
    mild = Distortion(10, 0.1, 0.03, 0.05, 0.01, 0.05, 0.5)
    ink = mild(images, generator).sum((3, 4, 5))
    assert (ink[:, 1:].amin(2) > ink[:, :-1].amax(2)).all()


@pytest.mark.parametrize("setting", ["tilt", "scale", "shift"])
def test_a_known_map(setting, generator, monkeypatch):
    """Draws of 1 throughout: a quarter turn, a half of the size, a shift by two pixels."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    values = {"tilt": 90.0, "scale": math.log(2), "shift": 0.25}
    image = torch.zeros(1, 1, 1, 1, 8, 8)
    image[..., 2:6, 2:6] = torch.rand(4, 4, generator=generator) if setting == "tilt" else 1.0
    result = Distortion(**{setting: values[setting]})(image, generator)
    if setting == "tilt":
        expected = image.rot90(1, (4, 5))
    else:
        expected = torch.zeros_like(image)
        rows = slice(3, 5) if setting == "scale" else slice(0, 4)
        expected[..., rows, rows] = 1
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mix", [1.0, 0.0])
def test_strokes_get_thicker_or_thinner(mix, generator, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, mix))
    before, after = crosses(), Distortion(stroke=1.0)(crosses(), generator)
    change = (after.sum() / before.sum()).item()
    edges = after[..., 6:10, 12].mean().item()  # next to the upright bar
    assert (change > 1.7 and edges > 0.99) if mix else (change < 0.99 and edges < 0.1)


def test_paper_may_be_white(generator):
    dark, white = (ALL(crosses(paper=p), generator.manual_seed(0)) for p in (0.0, 1.0))
    torch.testing.assert_close(dark, 1 - white, rtol=0, atol=1e-5)


def test_displacements_are_smooth_and_of_unit_size(generator):
    fields_ = _displacements(400, 28, generator)
    assert fields_.shape == (400, 28, 28, 2)
    assert fields_.mean().abs() < 0.05
    assert 0.7 < fields_.std() < 1.1
    assert fields_.diff(dim=1).abs().mean() < 0.25, "neighbours move alike"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shear": -0.1}, "finite `shear` of at least 0, got -0.1"),
        ({"elastic": math.inf}, "`elastic` to be a finite number"),
        ({"stroke": 1.5}, "from 0 to 1, got 1.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        Distortion(**settings)


def test_koch_distortions_stay_in_their_ranges(generator):
    maps = d._draw_koch_maps(4000, generator)
    identity = (maps == torch.eye(2, 3)).flatten(1).all(1).float().mean()
    assert identity == pytest.approx(d.KOCH_PROBABILITY**7, abs=0.006)
    assert maps[:, :, 2].abs().max() == pytest.approx(2 * d.KOCH_SHIFT, rel=0.02)
    assert ((maps[:, :, 2] == 0).float().mean() - d.KOCH_PROBABILITY).abs() < 0.03
    determinants = torch.linalg.det(maps[:, :, :2])  # of shear and of the inverse scales
    assert determinants.min() >= (1 - d.KOCH_SHEAR**2) / d.KOCH_SCALES[1] ** 2 - 1e-5
    assert determinants.max() <= (1 + d.KOCH_SHEAR**2) / d.KOCH_SCALES[0] ** 2 + 1e-5


def test_a_known_koch_distortion(generator, monkeypatch):
    """A rotation by 90 degrees, with all other distortions switched off."""
    monkeypatch.setattr(d, "KOCH_ROTATION", math.pi / 2)
    monkeypatch.setattr(d, "KOCH_SHEAR", 0.0)
    monkeypatch.setattr(d, "KOCH_SCALES", (1.0, 1.0))
    monkeypatch.setattr(d, "KOCH_SHIFT", 0.0)
    monkeypatch.setattr(d, "KOCH_PROBABILITY", 2.0)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    image = torch.rand(1, 1, 1, 9, 9, generator=generator)
    turned = distort(image, generator)
    torch.testing.assert_close(turned, image.rot90(1, (3, 4)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("paper", [0.0, 1.0])
def test_koch_distortions_fill_with_paper(paper, generator):
    images = torch.full((2, 3, 1, 28, 28), paper)
    torch.testing.assert_close(distort(images, generator), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_images_keep_their_type_with_any_default_type(dtype, default, generator):
    images = crosses().to(dtype)
    torch.set_default_dtype(default)
    try:
        distorted = ALL(images, generator)
        affine = distort(images.flatten(1, 2), generator)
    finally:
        torch.set_default_dtype(torch.float32)
    assert distorted.dtype == affine.dtype == dtype
    assert distorted.shape == images.shape and not torch.equal(distorted, images)
    assert distorted.min() >= 0 and distorted.max() <= 1 + 1e-5
