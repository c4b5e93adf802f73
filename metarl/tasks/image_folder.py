"""Few-shot episodes of a folder of images: class folders, or the CSV files of mini-ImageNet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from metarl.errors import DataError, short_repr
from metarl.ranges import Range, check_int, user_path
from metarl.registry import check_choice
from metarl.tasks.base import Split
from metarl.tasks.episodes import FewShot, Rotations, class_indices
from metarl.tasks.files import atomic_path, cache_folder, read_regular
from metarl.tasks.image_splits import ClassFiles, read_splits
from metarl.tasks.images import MOST_BYTES, decode
from metarl.tasks.pools import ImagePool
from metarl.tasks.unequal import Augment, Small

Mode = Literal["RGB", "L"]
MOST_SIZE = 8192  # pixels
CACHE_VERSION = 2  # increase it when decoding changes


def ImageFolder(  # noqa: N802 - reads like the other distributions
    root: str | os.PathLike[str],
    split_files: str | Mapping[Split, str] | None = None,
    way: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    image_size: int = 84,
    mode: Mode = "RGB",
    rotations: Rotations = "none",
    small_classes: Small = "refuse",
    min_images: int | None = None,
    fewest_shots: int | None = None,
    augment_support: Augment | None = None,
    augment_query: Augment | None = None,
) -> FewShot:
    """Builds N-way K-shot episodes of a folder's images, [C, image_size, image_size] in [0, 1].

    The images are decoded once, resized to squares, and written to a memory-mapped uint8 file in
    `files.cache_folder()`. Episodes read only the images that they need; `FewShot.to` loads all
    images to a device. The EXIF orientation is applied, 16 bits become 8, transparent pixels become
    white, and of several frames the first is taken; numbers of unknown range are refused.

    Args:
        root: The folder.
        split_files: The classes of each split. File names are relative to `root`:

            - one JSON file, {"train": ["class", ...], "validation": [...], "test": [...]}, or one
              CSV file with columns class,split; the images of a class are in the folder
              `root/class`;
            - a CSV file per split with columns filename,label, as in mini-ImageNet (Ravi &
              Larochelle 2017); the images are in `root/images`, or in `root`;
            - None: splits.json, splits.csv, or train.csv, val.csv and test.csv, the first found.
        way: Classes per episode.
        shots: Support images per class.
        queries: Query images per class.
        image_size: Height and width of the images in pixels.
        mode: "RGB" for three channels, "L" for one.
        rotations: See `FewShot`, like the following.
        small_classes: What is done with classes of few images.
        min_images: Fewest images of a class.
        fewest_shots: Fewest shots of a task.
        augment_support: Changes the support images of training tasks.
        augment_query: Changes the query images of training tasks.

    Raises:
        DataError: If a split file or an image is missing or cannot be read, or the cache cannot be
            written.
        TaskError: If a class or an image is in two splits, however their names are spelt.
        SettingsError: If the settings do not fit the images.
    """
    image_size = check_int("image_size", image_size, Range(1, MOST_SIZE))
    check_choice("mode", mode, get_args(Mode))
    files, split_classes = read_splits(user_path(root, "root"), split_files)
    images = torch.from_numpy(_memory_map(files, image_size, mode))
    counts = torch.tensor([len(paths) for paths in files.values()])
    pool = ImagePool(images, counts, tuple(files))
    splits: dict[Split, torch.Tensor] = {
        part: class_indices(pool.names, names) for part, names in split_classes.items()
    }
    return FewShot(
        pool, splits, way, shots, queries,
        rotations=rotations, small_classes=small_classes, min_images=min_images,
        fewest_shots=fewest_shots, augment_support=augment_support, augment_query=augment_query,
    )  # fmt: skip


def _memory_map(files: ClassFiles, size: int, mode: Mode) -> np.ndarray:
    """Returns all images, sorted by class, as a memory map of the cache, uint8 [M, C, H, W]."""
    paths = [path for class_paths in files.values() for path in class_paths]
    shape = (len(paths), len(mode), size, size)
    cache = cache_folder() / f"images-{_key(paths, shape)}.npy"
    cached = _open(cache, shape)
    if cached is None:
        try:
            _build(cache, paths, shape, mode)
        except OSError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"Cannot write the decoded images to {cache}: {error}. Set METARL_CACHE to a "
                f"folder with {np.prod(shape) / 1e6:.0f} MB to spare."
            ) from error
        cached = _open(cache, shape)
    if cached is None:
        raise DataError(f"Cannot read back the decoded images {cache}; check the disk.")
    return cached


def _open(cache: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        # Copy on write: torch needs a writable array, and the file must not change.
        array = np.load(cache, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _build(cache: Path, paths: list[Path], shape: tuple[int, ...], mode: Mode) -> None:
    """Writes the images as a NumPy file.

    It writes no memory map: on a full disk, that would end the process by SIGBUS.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for path in paths:
            image = decode(_read(path), str(path), shape[-1], mode)
            file.write(image.reshape(*shape[2:], shape[1]).transpose(2, 0, 1).tobytes())


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"Cannot read the image {path}: {error}.") from error


def _key(paths: list[Path], shape: tuple[int, ...]) -> str:
    """Returns a key of the cache file that changes when an image or the shape changes."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {shape}".encode())
    for path in paths:
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            raise DataError(
                f"The image {short_repr(str(path), 300)} is missing or cannot be read; a split "
                "file or folder names it."
            ) from error
        # The time of change, too: copies and archives give other contents the time of before.
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        entry = f"{path.absolute()} {status.st_size} {times}\n"
        digest.update(entry.encode("utf-8", "surrogateescape"))  # names may hold other bytes
    return digest.hexdigest()[:32]
