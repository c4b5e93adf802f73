"""What cameras and scanners make: the right grey or colour, upright, or a clear error."""

import io

import numpy as np
import pytest
from PIL import Image

from metarl.errors import DataError
from metarl.tasks.images import decode

# Orientation -> quarter turns counterclockwise, and whether left and right are then exchanged.
TURNS = {
    1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0),
}  # fmt: skip
LEVELS = np.array([[0, 64, 128, 255]], np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(image, kind="PNG", mode="L", **options):
    return decode(encoded(image, kind, **options), "image", None, mode)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind):
    grey = Image.fromarray(LEVELS.astype(np.uint16) * 257)
    assert decoded(grey, kind).tolist() == LEVELS.tolist()
    assert decoded(grey, kind, "RGB")[..., 2].tolist() == LEVELS.tolist()


def test_the_depth_and_the_polarity_of_a_scan_are_those_of_its_tags():
    grey = Image.fromarray(np.array([[0, 1000, 4095]], np.uint16))
    data = encoded(grey, "TIFF", tiffinfo={262: 0})
    assert decode(data, "scan", None).tolist() == [[255, 251, 239]]
    # 12 bits per number, two numbers in three bytes.
    numbers = (0, 4095, 2048, 1024)
    packed = b"".join(
        ((a << 12) | b).to_bytes(3, "big") for a, b in zip(numbers[::2], numbers[1::2], strict=True)
    )
    assert decode(tiff(packed, (4, 1), bits=12), "scan", None).tolist() == [[0, 255, 128, 64]]


def tiff(data, size, bits):
    """Returns a TIFF file of one strip of grey, for depths that Pillow does not write."""
    tags = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: 1, 277: 1, 278: size[1]}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 279: len(data)}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00" + value.to_bytes(4, "little")
        for tag, value in sorted(tags.items())
    )
    return b"II*\x00\x08\x00\x00\x00\x09\x00" + entries + b"\x00\x00\x00\x00" + data


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_of_unknown_range_are_refused(dtype):
    data = encoded(Image.fromarray(LEVELS.astype(dtype)), "TIFF")
    with pytest.raises(DataError, match=r"image a\.tif: the range of its .* numbers is unknown"):
        decode(data, "a.tif", None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_cameras_may_be_held_in_any_way(kind, orientation):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :16] = 255  # a bright corner
    exif = Image.Exif()
    exif[274] = orientation
    upright = decoded(Image.fromarray(pixels), kind, exif=exif) > 128
    rotate, flip = TURNS[orientation]
    expected = np.rot90(pixels, rotate)
    expected = expected[:, ::-1] if flip else expected
    assert np.array_equal(upright, expected > 128)


def test_what_is_transparent_is_white():
    alpha = np.array([[255, 255, 0, 0]], np.uint8)
    for image in (
        Image.fromarray(np.stack([LEVELS, alpha], 2), "LA"),
        Image.fromarray(np.stack([LEVELS, LEVELS, LEVELS, alpha], 2), "RGBA"),
    ):
        assert decoded(image).tolist() == [[0, 64, 255, 255]]
        assert decoded(image, mode="RGB")[0, :, 1].tolist() == [0, 64, 255, 255]
    half = Image.fromarray(np.array([[[0, 0, 0, 128]]], np.uint8), "RGBA")
    assert decoded(half).tolist() == [[127]]
    # One colour of a palette or of grey stands for nothing.
    assert decoded(Image.fromarray(LEVELS), transparency=64).tolist() == [[0, 255, 128, 255]]
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    assert decoded(palette).tolist() == [[10, 20, 30]]
    assert decoded(palette, transparency=1).tolist() == [[10, 255, 30]]


def test_drawings_of_one_bit_and_opaque_images_are_as_before():
    drawing = Image.fromarray(np.array([[True, False]]))
    assert decoded(drawing).tolist() == [[255, 0]]
    colour = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    assert np.array_equal(decoded(Image.fromarray(colour), mode="RGB"), colour)
