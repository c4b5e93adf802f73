"""Images and archives of strangers: formats, sizes and damage."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from metarl.errors import DataError
from metarl.tasks import Glyphs, ImageFolder, Omniglot, images
from metarl.tasks import glyphs as glyphs_module
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.images import decode, read_members
from metarl.tasks.omniglot import read_archive
from tests.tasks.drawn_archives import png, write_images, write_minimal

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.fixture
def no_ghostscript(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", refuse)


def test_an_eps_named_png_starts_no_other_program(no_ghostscript, tmp_path):
    with pytest.raises(DataError, match=r"a\.png: it is damaged or none of BMP, GIF, JPEG, PNG"):
        decode(EPS, "a.png", 28)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(EPS)
    (tmp_path / "splits.json").write_text(
        '{"train": ["one"], "validation": ["two"], "test": ["three"]}'
    )
    with pytest.raises(DataError, match=r"a\.png"):
        ImageFolder(tmp_path, way=1, queries=1)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_the_formats_are_read_whatever_their_name(kind):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 255, 255)).save(data, kind)
    assert decode(data.getvalue(), "a.png", None, "RGB").shape == (8, 8, 3)


def test_an_archive_of_characters_has_png_only(tmp_path):
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "TIFF")
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/Greek/character01/1.png", data.getvalue())
    with pytest.raises(DataError, match="none of PNG"):
        read_archive(path)


def test_damaged_images_are_clear_errors():
    data = png(1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data[: rng.integers(len(data))])
        for place in rng.integers(max(len(damaged), 1), size=3):
            if damaged:
                damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged), "x.png", 28).shape == (28, 28)
        except DataError as error:
            assert "x.png" in str(error)


def test_images_of_too_many_pixels_are_not_decoded(monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    with pytest.raises(DataError, match="105 x 105 pixels are too many"):
        decode(png(1), "x.png", 28)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"x\.png"):
        decode(png(1), "x.png", 28)


def test_sizes_of_members_are_checked_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(str(number), bytes(1 << 20))
    assert path.stat().st_size < 1 << 13
    monkeypatch.setattr(images, "MOST_BYTES", 3 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # nothing is read
    with pytest.raises(DataError, match=r"bomb\.zip unpacks to 4194304 bytes"):
        read_members(path)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "images_background_small1.zip"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for read in (read_members, read_archive):
        with pytest.raises(DataError, match="expected a regular file"):
            read(path)


def test_an_official_name_with_another_content_is_refused(tmp_path):
    write_minimal(tmp_path)
    Omniglot("minimal-1", 2, 1, 1, data_dir=tmp_path)
    path = tmp_path / "images_background_small1.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images/Evil/character01/0001_01.png", png(7))
    with pytest.raises(DataError, match="name of an official one, but another content"):
        Omniglot("minimal-1", 2, 1, 1, data_dir=tmp_path)
    write_images(tmp_path / "mine.zip", {"Greek": 2})  # other names are not checked
    assert len(read_archive(tmp_path / "mine.zip")["names"]) == 2


def test_a_data_folder_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    with pytest.raises(DataError, match=r"there is no folder .*gone"):
        CharacterSettings(gone).train()
    monkeypatch.setenv("METARL_DATA", str(gone))
    with pytest.raises(DataError, match=r"there is no folder .*gone"):
        Omniglot("minimal-1")
    assert not gone.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"way": 5000},
        {"shots": 20, "queries": 1},
        {"way": 21, "test_grouping": "drawers"},
        {"train_way": 5, "way": 2000},
        {"train_way": 5000},
    ],
    ids=str,
)
def test_ways_and_shots_are_checked_before_glyphs_are_drawn(settings, monkeypatch):
    def refuse(*args):
        raise AssertionError("drawn")

    monkeypatch.setattr(glyphs_module, "draw", refuse)
    monkeypatch.setattr(glyphs_module, "_pool", glyphs_module._pool.__wrapped__)
    with pytest.raises(ValueError, match=r"Expected|need"):
        CharacterSettings(**settings).train()
    with pytest.raises(ValueError, match=r"has 20"):
        Glyphs(5, 20, 1)
