"""Omniglot (Lake et al. 2015): handwritten characters of 50 alphabets, 20 drawings of each."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from metarl.errors import DataError, SettingsError
from metarl.ranges import LARGEST, Range, check_int, user_path
from metarl.tasks.base import Split
from metarl.tasks.download import download
from metarl.tasks.episodes import FewShot, Rotations, check_episode, class_indices
from metarl.tasks.files import Arrays, cache_folder, cached_arrays, check_regular, sha256
from metarl.tasks.images import decode, member_names, read_members
from metarl.tasks.omniglot_splits import ARCHIVES, Scheme, SplitSettings, split_names
from metarl.tasks.pools import ImagePool

BASE_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
OFFICIAL: dict[str, tuple[int, str]] = {
    "images_background": (
        9464212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    "images_evaluation": (
        6462886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    "images_background_small1": (
        1319022,
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    ),
    "images_background_small2": (
        1580917,
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
}
"""Size in bytes and SHA-256 of the official archives."""

DATA_VARIABLE = "METARL_DATA"
IMAGE_SIZE = 28
MOST_SIZE = 1024
"""Upper bound on the height and width of images in pixels."""
CACHE_VERSION = 1  # increase it when decoding changes


def Omniglot(  # noqa: N802 - reads like the other distributions
    scheme: Scheme = "vinyals",
    way: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    rotations: Rotations = "classes",
    validation_fraction: float | None = None,
    split_seed: int = 0,
    invert: bool = True,
    image_size: int = IMAGE_SIZE,
    base_url: str = BASE_URL,
) -> FewShot:
    """Builds N-way K-shot episodes of Omniglot: images [1, size, size] with ink 1 on paper 0.

    The official archives are read from a folder; missing ones are downloaded to it. Decoded images
    are cached in `files.cache_folder()`.

    Args:
        scheme: How the characters are split; see `SplitSettings`.
        way: Classes per episode.
        shots: Support images per class.
        queries: Query images per class.
        data_dir: Folder with the archives, or with a subfolder `omniglot` that has them. None:
            $METARL_DATA, or `data` in the cache folder.
        rotations: See `FewShot`. MAML uses "episode"; Matching Networks, Prototypical Networks
            and Reptile use "classes".
        validation_fraction: Fraction of the training characters that is held out for validation;
            see `SplitSettings`.
        split_seed: Seed of random splits; see `SplitSettings`.
        invert: True for ink 1 on paper 0, as in most papers; False for ink 0 on paper 1, as in
            Reptile.
        image_size: Height and width in pixels: 28 in most papers; the original images have 105.
        base_url: Address from which to download archives.

    Raises:
        SettingsError: If the settings do not fit each other or the data.
        DataError: If an archive is corrupt, or missing and cannot be downloaded.
    """
    images = OmniglotImages(scheme, data_dir, validation_fraction, split_seed, image_size, base_url)
    return images.episodes(way, shots, queries, rotations, invert)


@dataclass(frozen=True)
class OmniglotImages:
    """Omniglot's images and their splits; the arguments of `Omniglot` that are not of episodes.

    Attributes:
        scheme: See `Omniglot`, like the following.
        data_dir: Folder with the archives.
        validation_fraction: Fraction of the training characters.
        split_seed: Seed of random splits.
        image_size: Height and width in pixels.
        base_url: Address from which to download archives.
    """

    scheme: Scheme = "vinyals"
    data_dir: str | os.PathLike[str] | None = None
    validation_fraction: float | None = None
    split_seed: int = 0
    image_size: int = IMAGE_SIZE
    base_url: str = BASE_URL

    def episodes(
        self, way: int, shots: int, queries: int, rotations: Rotations, invert: bool
    ) -> FewShot:
        """Returns episodes of the decoded images; see `Omniglot`."""
        empty = self.empty_episodes(way, shots, queries, rotations)
        arrays = [read_archive(path, self.image_size) for path in self._archives()]
        images = np.concatenate([archive["images"] for archive in arrays])
        pixels = torch.from_numpy(255 - images if invert else images)
        return replace(empty, pool=ImagePool(pixels, empty.pool.counts, empty.pool.names))

    def empty_episodes(self, way: int, shots: int, queries: int, rotations: Rotations) -> FewShot:
        """Returns episodes of empty images that take no memory, to check settings before decoding.

        Raises:
            SettingsError: If the settings do not fit each other or the data.
            DataError: If an archive is corrupt, or missing and cannot be downloaded.
        """
        size = self.image_size
        if check_int("image_size", size, Range(-LARGEST, MOST_SIZE)) < 1:
            raise SettingsError(f"Expected an image_size of at least 1 pixel, got {size}.")
        check_episode(way, shots, queries)
        settings = SplitSettings(self.scheme, self.split_seed, self.validation_fraction)
        first, second = map(_characters, self._archives())
        split_characters = split_names(settings, list(first), list(second))
        names = (*first, *second)
        counts = torch.tensor([len(drawings) for drawings in (*first.values(), *second.values())])
        images = torch.zeros(1, dtype=torch.uint8).expand(int(counts.sum()), size, size)
        splits: dict[Split, torch.Tensor] = {
            part: class_indices(names, characters) for part, characters in split_characters.items()
        }
        pool = ImagePool(images, counts, names)
        return FewShot(pool, splits, way, shots, queries, rotations=rotations)

    def _archives(self) -> list[Path]:
        """Returns the paths of the archives of the scheme."""
        folder = data_folder(self.data_dir)
        return [locate(name, folder, self.base_url) for name in ARCHIVES[self.scheme]]


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the archives: `data_dir`, $METARL_DATA, or a folder in the cache.

    Raises:
        DataError: There is no folder `data_dir` or $METARL_DATA.
    """
    data_dir = data_dir or os.environ.get(DATA_VARIABLE)
    folder = user_path(data_dir, "data_dir") if data_dir else cache_folder() / "data"
    if data_dir and not folder.is_dir():
        raise DataError(
            f"Expected a data_dir (or {DATA_VARIABLE}) with Omniglot's archives, there is no "
            f"folder {folder}. Create it to download them to it, or name another."
        )
    inner = folder / "omniglot"
    return inner if inner.is_dir() else folder


def locate(name: str, folder: Path, base_url: str = BASE_URL) -> Path:
    """Returns the path of an official archive, which is downloaded to `folder` if missing.

    Args:
        name: A key of `OFFICIAL`.
        folder: The folder of the archives.
        base_url: Address from which to download.

    Raises:
        DataError: If the archive is missing and cannot be downloaded, or is not the official one.
    """
    path = folder / f"{name}.zip"
    if path.is_file():
        _check_official(name, path)
        return path
    size, digest = OFFICIAL[name]
    try:
        download(f"{base_url.rstrip('/')}/{path.name}", path, digest, size)
    except DataError as error:
        raise DataError(
            f"Omniglot's {path.name} is not in {folder}. {error} If it is in another folder, give "
            f"that as data_dir or in {DATA_VARIABLE}."
        ) from error
    return path


def is_official(name: str, digest: str) -> bool:
    """Returns whether the official archive of this name has this SHA-256."""
    return digest == OFFICIAL[name][1]


def _check_official(name: str, path: Path) -> None:
    try:
        digest = sha256(path)
    except OSError as error:
        raise DataError(f"Cannot read the archive {path}: {error}.") from error
    if not is_official(name, digest):
        raise DataError(
            f"The archive {path} has the name of an official one, but another content: expected "
            f"the SHA-256 {OFFICIAL[name][1]}, got {digest}. Delete it, so that it is downloaded, "
            "or put the official archive there."
        )


def read_archive(path: Path, image_size: int = IMAGE_SIZE) -> Arrays:
    """Reads an archive of the official format and caches the decoded images.

    Returns:
        "images" [M, image_size, image_size], uint8, ink 0 on paper 255; "counts" [K], int64, the
        number of drawings of each character; and "names" [K] of the characters
        ("Alphabet/character01"), sorted.

    Raises:
        DataError: If the archive or an image in it cannot be read, or it has no images.
    """
    try:
        check_regular(path)
        key = f"omniglot-v{CACHE_VERSION}-{image_size}px-{path.stat().st_size}-{sha256(path)[:32]}"
    except OSError as error:
        raise DataError(f"Cannot read the archive {path}: {error}.") from error
    return cached_arrays(key, lambda: _decode_archive(path, image_size))


def _characters(path: Path) -> dict[str, list[str]]:
    """Returns the names of the drawings of each character in an archive, sorted, undecoded."""
    characters: dict[str, list[str]] = {}
    for name in sorted(member_names(path)):
        parts = PurePosixPath(name).parts  # archive / alphabet / character / drawing
        if len(parts) == 4 and parts[3].endswith(".png"):
            characters.setdefault(f"{parts[1]}/{parts[2]}", []).append(name)
    if not characters:
        raise DataError(
            f"{path} has no images named archive/alphabet/character/drawing.png; put the official "
            "archive there."
        )
    return characters


def _decode_archive(path: Path, image_size: int) -> Arrays:
    characters, data = _characters(path), read_members(path)
    images = [
        decode(data[name], f"{name} in {path}", image_size, "L", ("PNG",))
        for drawings in characters.values()
        for name in drawings
    ]
    return {
        "images": np.stack(images),
        "counts": np.array([len(d) for d in characters.values()], dtype=np.int64),
        "names": np.array(list(characters)),
    }
