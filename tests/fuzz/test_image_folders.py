"""Random images, split files and arguments of `ImageFolder` and `FewShot`."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from metarl.tasks import FewShot, ImageFolder, ImagePool
from metarl.tasks.images import decode
from tests.fuzz.outcomes import explore
from tests.fuzz.values import VALUES, damaged, edited

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
FORMATS = [
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
    "ICO",
    "PDF",
    "EPS",
    "JPEG2000",
    "TGA",
]
EXACT = {"BMP", "GIF", "PNG", "PPM", "TIFF"}
ORIENTATION = 0x0112
NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "c", "d", "./a", "a/", "a/../b", "..", ".", "/", "", "x" * 300, "ä", "*"]
    ),
    st.text(max_size=4),
)


@st.composite
def images(draw):
    """A file of one grey level, and the level that must be read; None if it may be refused.

    The picture is grey 128 in any mode whose conversion is defined.
    """
    mode, kind = draw(st.sampled_from(MODES)), draw(st.sampled_from(FORMATS))
    width, height = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    level = draw(st.sampled_from([0, 128, 255]))
    if mode in ("LA", "RGBA", "RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV", "LAB", "PA"):
        try:
            image = Image.new("L", (width, height), level).convert(mode)
        except ValueError:
            image = Image.new(mode, (width, height))
    else:
        image = Image.new(mode, (width, height), level * 257 if mode == "I;16" else level)
    options = {}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[ORIENTATION] = draw(st.integers(0, 9))
        options["exif"] = exif
    if kind == "PNG" and draw(st.booleans()):
        options["transparency"] = draw(st.sampled_from([0, 128, 255]))
    data = io.BytesIO()
    try:
        image.save(data, kind, **options)
    except Exception:  # Pillow cannot write it
        return b"", None
    plain = (
        mode in ("L", "RGB", "CMYK", "RGBA", "LA", "I;16", "YCbCr")
        and "transparency" not in options
    )
    if kind == "GIF" and mode not in ("L", "RGB"):  # Pillow writes other levels
        plain = False
    return data.getvalue(), level if kind in EXACT and plain else None


@pytest.mark.parametrize("inputs", [300, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::Warning")
def test_random_images(inputs, outcomes):
    def check(case):
        (data, level), change, mode, size = case
        whole = data if change is None else change
        with outcomes.one():
            pixels = decode(whole, "x.png", size, mode)
            assert pixels.dtype == np.uint8 and pixels.ndim == (2 if mode == "L" else 3)
            if size is not None:
                assert pixels.shape[:2] == (size, size)
            if change is None and level is not None:
                assert np.abs(pixels.astype(int) - level).max() <= 2, (level, pixels)

    @st.composite
    def cases(draw):
        image = draw(images())
        change = draw(st.one_of(st.none(), st.none(), damaged(image[0])))
        return (
            image,
            change,
            draw(st.sampled_from(["L", "RGB"])),
            draw(st.sampled_from([None, 1, 8])),
        )

    explore(cases(), inputs, check)


SPLITS = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
PER_CLASS = 3


def png(level):
    data = io.BytesIO()
    Image.new("L", (5, 4), level).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of three images; each class has a grey level."""
    root = tmp_path_factory.mktemp("images")
    for index, name in enumerate("abcd"):
        (root / name).mkdir()
        for number in range(PER_CLASS):
            (root / name / f"{number}.png").write_bytes(png(60 * index + 10))
    return root


@st.composite
def split_files(draw):
    """The name and the content of a split file."""
    kind = draw(st.sampled_from(["json", "json", "csv", "mini", "text"]))
    names = {part: list(v) for part, v in SPLITS.items()}
    if kind == "json":
        content = draw(
            st.one_of(
                edited(names),
                st.dictionaries(
                    st.sampled_from(["train", "val", "test", "TRAIN", "x"]),
                    st.lists(NAMES, max_size=4),
                ),
            )
        )
        return "splits.json", json.dumps(content, ensure_ascii=draw(st.booleans())).encode(
            "utf-8", "surrogatepass"
        )
    rows = [(n, p) for p, v in names.items() for n in v]
    if kind == "csv":
        rows += draw(
            st.lists(
                st.tuples(NAMES, st.sampled_from(["train", "val", "test", "x", ""])), max_size=2
            )
        )
        lines = [draw(st.sampled_from(["class,split", "class, split", "split,class", "a,b", ""]))]
        lines += [f"{a},{b}" for a, b in rows]
        return "splits.csv", "\n".join(lines).encode("utf-8", "replace")
    if kind == "mini":
        lines = ["filename,label"] + [
            f"{draw(NAMES)}/{n}.png,{draw(NAMES)}" for n in range(draw(st.integers(0, 4)))
        ]
        return "train.csv", "\n".join(lines).encode("utf-8", "replace")
    return draw(st.sampled_from(["splits.json", "splits.csv", "train.csv"])), draw(
        damaged(json.dumps(names).encode())
    )


SIZES = VALUES.filter(lambda v: not isinstance(v, int) or v < 99)
PER_SPLIT = st.dictionaries(
    st.sampled_from(["train", "test", "x"]),
    st.sampled_from(["train.csv", "x.csv", "a"]),
    max_size=2,
)
ARGUMENTS = {
    "way": st.one_of(st.integers(0, 4), VALUES),
    "shots": st.one_of(st.integers(0, 4), VALUES),
    "queries": st.one_of(st.integers(0, 4), VALUES),
    "image_size": st.one_of(st.integers(0, 9), SIZES),
    "mode": st.one_of(st.sampled_from(["L", "RGB", "RGBA"]), VALUES),
    "rotations": st.one_of(st.sampled_from(["none", "episode", "classes", "reflected"]), VALUES),
    "split_files": st.one_of(st.sampled_from(["splits.json", ".", "a"]), PER_SPLIT, VALUES),
}


def check_episodes(tasks, levels):
    """Checks the shapes, types and ranges of a batch, and that each image shows its class."""
    batch = tasks.sample(2, torch.Generator().manual_seed(0))
    for examples, count in ((batch.support, tasks.shots), (batch.query, tasks.queries)):
        images, labels = examples[:2]
        assert images.shape[:2] == labels.shape == (2, tasks.way * count)
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        assert labels.tolist() == [[k for k in range(tasks.way) for _ in range(count)]] * 2
        classes = batch.info["classes"].gather(1, labels)
        expected = torch.tensor([levels[tasks.pool.names[c]] for c in classes.flatten().tolist()])
        shown = (images.flatten(0, 1).flatten(1).mean(1) * 255).round()
        assert torch.equal(shown, expected.float())
    assert set(batch.info["classes"].flatten().tolist()) <= set(tasks.splits["train"].tolist())


def levels_of(tasks, root):
    """Returns the grey level of each class by its name, from the folder."""
    levels = {}
    for index, name in enumerate(tasks.pool.names):
        first = tasks.pool.images[tasks.pool.offsets[index]]
        levels[name] = int(first.float().mean().round())
    return levels


@pytest.mark.parametrize("inputs", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_folders_and_arguments(inputs, outcomes, folder, fresh_cache):
    @st.composite
    def cases(draw):
        arguments = {"way": 1, "shots": 1, "queries": 1, "image_size": 4}
        for name in draw(st.sets(st.sampled_from(sorted(ARGUMENTS)), max_size=2)):
            arguments[name] = draw(ARGUMENTS[name])
        file = draw(st.one_of(st.just(("splits.json", json.dumps(SPLITS).encode())), split_files()))
        return file, arguments

    def check(case):
        (name, content), arguments = case
        path = folder / name
        path.write_bytes(content)
        try:
            with outcomes.one():
                tasks = ImageFolder(folder, **arguments)
                check_episodes(tasks, levels_of(tasks, folder))
        finally:
            path.unlink()

    explore(cases(), inputs, check)


@st.composite
def pools(draw):
    """Arguments of a pool of images and of the episodes of it, not always sensible."""
    counts = draw(st.lists(st.integers(-1, 4), min_size=0, max_size=4))
    total = max(0, sum(counts) + draw(st.sampled_from([0, 0, 0, 1])))
    shape = draw(st.sampled_from([(1, 3, 3), (3, 3), (3, 4), (2, 3, 3), (0, 3, 3), ()]))
    dtype = draw(
        st.sampled_from([torch.uint8, torch.uint8, torch.uint8, torch.float32, torch.int64])
    )
    levels = (
        torch.repeat_interleave(
            torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64).clamp(0)
        )
        if counts
        else torch.empty(0)
    )
    levels = torch.nn.functional.pad(levels, (0, max(0, total - len(levels))))[:total]
    images = (60 * levels).view(-1, *[1] * len(shape)).expand(-1, *shape).to(dtype)
    names = tuple(f"{'ab'[i % 2]}/{i}" for i in range(len(counts)))[: draw(st.integers(0, 5))]
    splits = draw(
        st.dictionaries(
            st.sampled_from(["train", "validation", "test", "x"]),
            st.lists(st.integers(-1, 4), max_size=4),
            max_size=3,
        )
    )
    if draw(st.booleans()):
        splits = {"train": list(range(len(counts)))}
        names = tuple(f"a/{i}" for i in range(len(counts)))
    settings = {
        name: draw(st.one_of(st.integers(0, 3), VALUES))
        for name in draw(st.sets(st.sampled_from(["way", "shots", "queries"])))
    }
    if draw(st.booleans()):
        settings["rotations"] = draw(
            st.sampled_from(["none", "episode", "classes", "reflected", "x"])
        )
        settings["grouping"] = draw(st.sampled_from(["none", "alphabets", "drawers", "x"]))
    dtype = draw(st.sampled_from([torch.int64, torch.int64, torch.int32, torch.float32]))
    return (
        images,
        torch.tensor(counts, dtype=dtype),
        names,
        {n: torch.tensor(v, dtype=torch.int64) for n, v in splits.items()},
        {"way": 1, "shots": 1, "queries": 1, **settings},
    )


@pytest.mark.parametrize("inputs", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_random_pools(inputs, outcomes):
    def check(case):
        images, counts, names, splits, settings = case
        with outcomes.one():
            tasks = FewShot(ImagePool(images, counts, names), splits, **settings)
            check_episodes(tasks, {name: 60 * index for index, name in enumerate(names)})

    explore(pools(), inputs, check)
