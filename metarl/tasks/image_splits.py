"""Split files: the classes, and their images, of the train, validation and test splits."""

from __future__ import annotations

import contextlib
import csv
import os
import posixpath
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from metarl.errors import DataError, SettingsError, TaskError, short_repr
from metarl.registry import check_choice
from metarl.tasks.base import SPLITS, Split, check_split
from metarl.tasks.files import parse_json, read_regular

ClassFiles = dict[str, list[Path]]
"""Class name -> image files, in order."""
SplitClasses = dict[Split, list[str]]
"""Split -> class names."""

MOST_BYTES = 1 << 28  # of a split file
IMAGE_ENDINGS = {
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
}  # fmt: skip
UNREAD_ENDINGS = {
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".svg",
}  # fmt: skip
"""Endings of images that are not read."""
NO_IMAGES = ("@eaDir", "__MACOSX")
"""Folders in which systems keep copies and attributes of images."""
MINI_IMAGENET: dict[Split, str] = {
    "train": "train.csv",
    "validation": "val.csv",
    "test": "test.csv",
}
ALIASES: dict[str, Split] = {"val": "validation", "valid": "validation"}


def read_splits(
    root: Path, split_files: str | Mapping[Split, str] | None
) -> tuple[ClassFiles, SplitClasses]:
    """Reads split files; see `ImageFolder` for their formats.

    Returns:
        The image files of each class, and the classes of each split.

    Raises:
        SettingsError: `split_files` is of another type.
        DataError: If a file is missing or malformed, names what is outside of `root`, or a class
            has no images.
        TaskError: If a class or an image is in two splits.
    """
    if not (split_files is None or isinstance(split_files, str) or _is_file_per_split(split_files)):
        raise SettingsError(
            "Expected `split_files` to be None, the name of a file, or the name of a file for each "
            f"split, got {short_repr(split_files)}."
        )
    if not root.is_dir():
        raise DataError(f"The image folder {root} is missing.")
    if split_files is None:
        split_files = _find(root)
    classes: SplitClasses
    if isinstance(split_files, str):
        classes = _read_classes(root / split_files)
        for name in chain(*classes.values()):
            _check_inside(name, root / split_files)
            if posixpath.normpath(name.replace("\\", "/")) == ".":
                raise DataError(
                    f"Expected names of folders in {root} in the split file {root / split_files}, "
                    f"got {name!r}, which is that folder itself."
                )
        files = {
            name: _images_of(_class_folder(root, name)) for name in _all_classes(classes, root)
        }
    else:
        split_images: dict[Split, ClassFiles] = {
            _split(part, root): _read_labels(root, name) for part, name in split_files.items()
        }
        classes = {part: list(images) for part, images in split_images.items()}
        names = _all_classes(classes, root)
        files = {n: paths for images in split_images.values() for n, paths in images.items()}
        files = {name: files[name] for name in names}
    _check_images(files, classes)
    return files, classes


def _find(root: Path) -> str | Mapping[Split, str]:
    """Returns the names of the split files in `root`."""
    for name in ("splits.json", "splits.csv"):
        if (root / name).is_file():
            return name
    if any((root / name).is_file() for name in MINI_IMAGENET.values()):
        return MINI_IMAGENET
    hint = ""
    if (root / "train").is_dir():
        hint = (
            ' Classes in a folder per split have its name: {"train": ["train/crow", ...], ...}; '
            "classes of the test split are other ones than those of training."
        )
    raise DataError(
        f"{root} has no split file: expected splits.json, splits.csv, or train.csv, val.csv and "
        f"test.csv; write one or name yours with split_files.{hint}"
    )


def _all_classes(classes: SplitClasses, root: Path) -> list[str]:
    """Checks that no class is in two splits and returns all classes."""
    owner: dict[str, tuple[str, Split]] = {}
    for part, names in classes.items():
        for name in names:
            key = os.path.normpath(name)  # "./a" and "a/" are "a"
            if key in owner:
                other, other_part = owner[key]
                spelling = "" if other == name else f", also spelt {other!r},"
                raise TaskError(
                    f"The class {name!r}{spelling} of {root} is in two splits, {other_part} and "
                    f"{part}, or twice in one; list each class once."
                )
            owner[key] = (name, part)
    if not owner:
        raise DataError(f"The split files of {root} name no class.")
    return [name for names in classes.values() for name in names]


def _check_images(files: ClassFiles, classes: SplitClasses) -> None:
    """Checks that no image is in two classes or splits: by links, nested folders or spellings."""
    owner: dict[object, tuple[str, Split]] = {}
    listed: Iterator[tuple[Split, str, Path]] = (
        (part, name, path)
        for part, names in classes.items()
        for name in names
        for path in files[name]
    )
    for part, name, path in listed:
        identity = _identity(path)
        other, other_part = owner.get(identity, (name, part))
        if other_part != part:
            raise TaskError(
                f"The image {path} of the class {name!r} is in two splits, {other_part} "
                f"(as an image of {other!r}) and {part}; the splits must share none."
            )
        if identity in owner:
            where = "twice" if other == name else f"in the class {other!r}, too"
            raise TaskError(
                f"The image {path} of the class {name!r} is {where}: an episode may have "
                "it in its support set and among its queries. List each image once."
            )
        owner[identity] = name, part


def _identity(path: Path) -> object:
    """Returns what is equal for all names of one file."""
    # The file may be missing, or its name impossible, which another error reports.
    with contextlib.suppress(OSError, ValueError):
        status = path.stat()
        if status.st_ino:  # 0 on file systems without such numbers
            return status.st_dev, status.st_ino
        return os.path.realpath(path)
    return str(path)


def _read_classes(path: Path) -> SplitClasses:
    """Reads a split file of class names, JSON or CSV."""
    if path.suffix.lower() == ".csv":
        classes: SplitClasses = {part: [] for part in SPLITS}
        for row in _rows(path, ("class", "split")):
            classes[_split(row["split"], path)].append(row["class"])
        return classes
    try:
        content = parse_json(_text(path).encode())
    except ValueError as error:
        raise DataError(f"The split file {path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or not all(_is_names(v) for v in content.values()):
        raise DataError(
            f'Expected {{"train": ["class", ...], "validation": [...], "test": [...]}} in {path}.'
        )
    return {_split(part, path): names for part, names in content.items()}


def _is_file_per_split(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(name, str) for item in value.items() for name in item)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _read_labels(root: Path, name: str) -> ClassFiles:
    """Reads a CSV split file of file names and labels."""
    folder = root / "images" if (root / "images").is_dir() else root
    files: ClassFiles = {}
    for row in _rows(root / name, ("filename", "label")):
        _check_inside(row["filename"], root / name)
        files.setdefault(row["label"], []).append(folder / row["filename"])
    return files


def _check_inside(name: str, path: Path) -> None:
    """Checks that a class folder or an image that a split file names is below the file's root."""
    first = posixpath.normpath(name.replace("\\", "/")).split("/")[0]
    if first in ("..", "") or os.path.splitdrive(name)[0]:
        raise DataError(
            f"Expected names of what is in {path.parent} in the split file {path}, got {name!r}, "
            "which leads out of it. Move these images there."
        )


def _class_folder(root: Path, name: str) -> Path:
    """Returns the folder of a class, also where accents are stored in another form, as by macOS."""
    folder = root / name
    with contextlib.suppress(OSError):  # which reading its images reports
        if not folder.exists():
            wanted = unicodedata.normalize("NFC", folder.name)
            others = folder.parent.iterdir()
            same = [p for p in others if unicodedata.normalize("NFC", p.name) == wanted]
            return same[0] if len(same) == 1 else folder
    return folder


def _images_of(folder: Path) -> list[Path]:
    try:
        is_there = folder.is_dir()
    except OSError as error:  # such as a name that is too long
        raise DataError(
            f"Cannot read the class folder {short_repr(str(folder), 300)}, which a split file "
            f"names: {error.strerror}."
        ) from error
    if not is_there:
        raise DataError(
            f"The class folder {short_repr(str(folder), 300)} is missing; a split file names it."
        )
    files = list(files_below(folder))
    paths = sorted(path for path in files if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise DataError(
            f"The class folder {folder} has no images; their names end in "
            f"{', '.join(sorted(IMAGE_ENDINGS))}."
        )
    unread = [path.suffix for path in files if path.suffix.lower() in UNREAD_ENDINGS]
    if unread:
        warnings.warn(
            f"{len(unread)} images in the class folder {folder} are left out, whose names end in "
            f"{', '.join(sorted(set(unread)))}; convert them to .png or .jpg.",
            RuntimeWarning,
            stacklevel=2,
        )
    return paths


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and in those below it, also in linked ones, but hidden ones."""
    seen: set[object] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(_identity(Path(root)))
        folders[:] = [
            name
            for name in sorted(folders)
            if not is_hidden(name) and _identity(Path(root, name)) not in seen
        ]
        yield from (Path(root, name) for name in names if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name holds no images of the user's.

    Notebooks keep copies in ".ipynb_checkpoints", and macOS attributes of "x.png" in "._x.png".
    """
    return name.startswith(".") or name in NO_IMAGES


def _rows(path: Path, columns: tuple[str, str]) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(_text(path).splitlines(), skipinitialspace=True))
    except csv.Error as error:  # a field of more than 131072 characters
        raise DataError(f"Cannot read the split file {path}: {error}.") from error
    if not rows or any(not row.get(column) for row in rows for column in columns):
        raise DataError(
            f"Expected rows with columns {','.join(columns)} in the split file {path}; its first "
            "line must name them."
        )
    return rows


def _text(path: Path) -> str:
    try:
        return read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the split file {path}: {error}.") from error


def _split(name: str, path: Path) -> Split:
    """Returns the split called `name` in the file `path`, which may be an alias."""
    part = name.strip().lower()
    part = ALIASES.get(part, part)
    check_choice(f"split in {path},", part, SPLITS, DataError)
    return check_split(part)
