import functools
import json
import os
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from metarl.errors import DataError, SettingsError, TaskError
from metarl.tasks import image_folder
from metarl.tasks.image_folder import ImageFolder

SPLITS = {"train": ["ant", "bee", "cat"], "validation": ["dog", "eel"], "test": ["fox", "gnu"]}
CLASSES = [name for names in SPLITS.values() for name in names]
few_shot = functools.partial(ImageFolder, way=2, shots=1, queries=2)


def write_image(path, class_index, number):
    """Writes an image of one colour that encodes the class and the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = (20 * class_index, 30 * number, 200)
    Image.new("RGB", (20 + 5 * number, 30), color).save(path)


@pytest.fixture
def folders(tmp_path):
    """Class folders with splits.json; the classes have three to five images."""
    root = tmp_path / "folders"
    for index, name in enumerate(CLASSES):
        for number in range(3 + index % 3):
            write_image(root / name / f"{number}.png", index, number)
    (root / "splits.json").write_text(json.dumps(SPLITS))
    return root


@pytest.fixture
def mini_imagenet(tmp_path):
    """All images in one folder, and the three CSV files of Ravi & Larochelle."""
    root = tmp_path / "mini"
    for (_, names), file in zip(SPLITS.items(), ("train", "val", "test"), strict=True):
        rows = ["filename,label"]
        for name in names:
            for number in range(3):
                image = f"{name}{number:08d}.png"
                write_image(root / "images" / image, CLASSES.index(name), number)
                rows.append(f"{image},{name}")
        (root / f"{file}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(params=["folders", "mini_imagenet"])
def root(request):
    return request.getfixturevalue(request.param)


def test_episodes(root, fresh_cache, generator):
    tasks = few_shot(root, image_size=16)
    for part, names in SPLITS.items():
        split = tasks.split(part)  # pyright: ignore[reportArgumentType]
        assert split.names == tuple(names)
        batch = split.sample(3, generator)
        assert batch.query.inputs.shape == (3, 4, 3, 16, 16)
        # Red encodes the class and blue is always 200.
        classes = (batch.support.inputs[:, :, 0, 8, 8] * 255 / 20).round().long()
        assert classes.tolist() == batch.info["classes"].tolist()
        assert (batch.support.inputs[:, :, 2] * 255).round().unique().tolist() == [200]


def test_images_are_decoded_once_into_a_mapped_file(root, fresh_cache, monkeypatch):
    first = few_shot(root, image_size=16).pool.images.clone()
    (cache,) = fresh_cache.iterdir()
    assert np.load(cache, mmap_mode="r").shape == (len(first), 3, 16, 16)

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr("metarl.tasks.image_folder.decode", refuse)
    assert (few_shot(root, image_size=16).pool.images == first).all()


@pytest.mark.parametrize("damage", ["truncated", "nonsense"])
def test_a_damaged_cache_is_rebuilt(root, fresh_cache, damage):
    first = few_shot(root, image_size=16).pool.images.clone()
    (cache,) = fresh_cache.iterdir()
    data = cache.read_bytes()
    cache.unlink()
    cache.write_bytes(data[:-10] if damage == "truncated" else b"?")
    assert (few_shot(root, image_size=16).pool.images == first).all()


def test_a_changed_image_is_decoded_again(folders, fresh_cache):
    few_shot(folders, image_size=16)
    Image.new("RGB", (9, 9), (255, 0, 0)).save(folders / "ant" / "0.png")
    image = few_shot(folders, image_size=16).pool.images[0]
    assert image[:, 3, 3].tolist() == [255, 0, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of change")
def test_a_changed_image_of_the_same_size_and_time_is_decoded_again(folders, fresh_cache):
    path = folders / "ant" / "0.png"
    for red in (255, 0):
        path.unlink()
        Image.new("RGB", (9, 9), (red, 0, 0)).save(path.with_suffix(".bmp"))
        path = path.with_suffix(".bmp")
        os.utime(path, (1, 1))
        assert few_shot(folders, image_size=16).pool.images[0, 0, 3, 3] == red


def test_the_cache_is_written_image_by_image(folders, fresh_cache, monkeypatch):
    """A memory map has its whole size at once, and a full disk ends the process by SIGBUS."""
    decode, sizes = image_folder.decode, []

    def measured(*arguments):
        sizes.append(sum(path.stat().st_size for path in fresh_cache.iterdir()))
        return decode(*arguments)

    monkeypatch.setattr(image_folder, "decode", measured)
    images = few_shot(folders, image_size=84).pool.images
    assert sizes[0] == 0 and 0 < sizes[-1] < images.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf_8(folders, fresh_cache):
    name = os.fsencode(folders / "ant") + b"/\xff.png"
    Image.new("RGB", (9, 9), (9, 9, 9)).save(os.fsdecode(name), "PNG")
    expected = len(few_shot(folders, image_size=16).pool.images)
    os.unlink(name)
    assert len(few_shot(folders, image_size=16).pool.images) == expected - 1


def test_gray_images(folders, fresh_cache):
    tasks = few_shot(folders, image_size=16, mode="L")
    assert tasks.pool.images.shape[1:] == (1, 16, 16)


def test_a_csv_of_classes(folders, fresh_cache):
    rows = [f"{name},{part}" for part, names in SPLITS.items() for name in names]
    (folders / "mine.csv").write_text("class,split\n" + "\n".join(rows))
    tasks = few_shot(folders, "mine.csv", image_size=16)
    assert tasks.split("test").names == ("fox", "gnu")


def test_missing_folder_and_split_files(tmp_path, folders, mini_imagenet):
    with pytest.raises(DataError, match=r"image folder .*nowhere is missing"):
        ImageFolder(tmp_path / "nowhere")
    (folders / "splits.json").unlink()
    with pytest.raises(DataError, match=r"has no split file.*split_files\.$"):
        ImageFolder(folders)
    (folders / "train").mkdir()
    with pytest.raises(DataError, match=r"has no split file.*\[\"train/crow\", \.\.\.\]"):
        ImageFolder(folders)
    with pytest.raises(DataError, match=r"Cannot read the split file .*mine\.json"):
        ImageFolder(folders, "mine.json")
    (mini_imagenet / "val.csv").unlink()
    with pytest.raises(DataError, match=r"Cannot read the split file .*val\.csv"):
        ImageFolder(mini_imagenet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"train": "ant"}', "Expected .*train"),
        ('{"trian": ["ant"]}', "Did you mean 'train'"),
        ("{}", "name no class"),
        ('{"train": ["yak"]}', "class folder .*yak' is missing"),
        ('{"train": ["empty"]}', "empty has no images"),
        (f'{{"train": ["{"x" * 300}"]}}', "Cannot read the class folder .*File name too long"),
        ('{"train": ["a\\u0000b"]}', "class folder .* is missing"),
    ],
)
def test_bad_split_files(folders, content, message):
    (folders / "empty").mkdir()
    (folders / "splits.json").write_text(content)
    with pytest.raises(DataError, match=message):
        ImageFolder(folders)


def test_images_that_cannot_be_read_are_named(folders):
    (folders / "ant" / "7.HEIC").write_bytes(b"?")
    (folders / "ant" / "notes.txt").write_text("no image")
    with pytest.warns(RuntimeWarning, match=r"^1 images in .*ant are left out.*\.HEIC; convert"):
        few_shot(folders, image_size=16)


def test_a_csv_without_its_columns(mini_imagenet):
    (mini_imagenet / "test.csv").write_text("file,label\na.png,fox\n")
    with pytest.raises(DataError, match=r"columns filename,label in the split file .*test\.csv"):
        ImageFolder(mini_imagenet)


def test_image_names_that_cannot_be(mini_imagenet, fresh_cache):
    rows = (mini_imagenet / "test.csv").read_text()
    for name in ("x" * 300, "a\0b"):
        (mini_imagenet / "test.csv").write_text(f"{rows}{name}.png,fox\n")
        with pytest.raises(DataError, match="missing or cannot be read; a split file"):
            few_shot(mini_imagenet)


def test_a_class_in_two_splits(folders, mini_imagenet):
    (folders / "splits.json").write_text(json.dumps(SPLITS | {"test": ["fox", "bee"]}))
    with pytest.raises(TaskError, match=r"'bee' .* in two splits, train and test"):
        ImageFolder(folders)
    rows = (mini_imagenet / "test.csv").read_text()
    (mini_imagenet / "test.csv").write_text(rows + "ant00000000.png,ant\n")
    with pytest.raises(TaskError, match=r"'ant' .* in two splits, train and test"):
        ImageFolder(mini_imagenet)


def test_an_image_that_cannot_be_read_is_named(folders, mini_imagenet, fresh_cache):
    (folders / "cat" / "1.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"Cannot read the image .*cat/1\.png"):
        few_shot(folders)
    (mini_imagenet / "images" / "dog00000001.png").unlink()
    with pytest.raises(DataError, match=r"dog00000001\.png' is missing"):
        few_shot(mini_imagenet)
    assert not list(fresh_cache.iterdir())  # nothing half done


def test_a_cache_that_cannot_be_written(folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set METARL_CACHE"):
        few_shot(folders)


def test_way_and_shots_have_to_fit(folders, fresh_cache):
    with pytest.raises(SettingsError, match="at most 3, the classes of the train split, got 5"):
        ImageFolder(folders, way=5, shots=1, queries=1)
    with pytest.raises(SettingsError, match="'ant' of the train split has 3"):
        ImageFolder(folders, way=2, shots=2, queries=2)


@pytest.mark.parametrize("split_files", [3, ["train.csv"], {"train": 3}, {1: "train.csv"}])
def test_split_files_of_another_type(folders, split_files):
    with pytest.raises(SettingsError, match="Expected `split_files` to be None, the name of a fil"):
        few_shot(folders, split_files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, r"Expected `image_size` in \[1, 8192\], got 0"),
        ({"mode": "RGBA"}, "Unknown mode 'RGBA'.*Known: RGB, L"),
        ({"mode": ["L"]}, "Unknown mode"),
    ],
)
def test_bad_settings(folders, settings, message):
    with pytest.raises(SettingsError, match=message):
        ImageFolder(folders, **settings)


@pytest.mark.parametrize("spelling", ["./bee", "bee/", "ant/../bee"])
def test_a_class_that_is_spelt_in_two_ways_is_one(folders, spelling):
    (folders / "splits.json").write_text(json.dumps(SPLITS | {"test": ["fox", spelling]}))
    with pytest.raises(TaskError, match=r"also spelt 'bee', .* in two splits, train and test"):
        ImageFolder(folders)


def test_an_image_in_two_splits(folders, mini_imagenet):
    (folders / "yak").symlink_to(folders / "bee")
    (folders / "splits.json").write_text(json.dumps(SPLITS | {"test": ["fox", "yak"]}))
    message = r"yak/0\.png of the class 'yak' is in two splits, train \(as an image of 'bee'\)"
    with pytest.raises(TaskError, match=message):
        ImageFolder(folders)
    rows = (mini_imagenet / "test.csv").read_text()
    (mini_imagenet / "test.csv").write_text(rows + "./ant00000000.png,fox\n")
    with pytest.raises(TaskError, match=r"ant00000000\.png of the class 'fox' is in two splits"):
        ImageFolder(mini_imagenet)


@pytest.mark.parametrize("name", [".", "./", "bee/.."])
def test_the_folder_itself_is_no_class(folders, name):
    (folders / "splits.json").write_text(json.dumps({"train": [name]}))
    with pytest.raises(DataError, match="which is that folder itself"):
        ImageFolder(folders)


def test_an_image_that_is_listed_twice_in_a_split(folders, mini_imagenet):
    (folders / "bee" / "small").mkdir()
    write_image(folders / "bee" / "small" / "0.png", 1, 0)
    for names in (["bee", "bee/small"], ["bee/small", "bee"]):
        (folders / "splits.json").write_text(json.dumps(SPLITS | {"train": names}))
        with pytest.raises(TaskError, match=r"0\.png of the class .* is in the class .*, too"):
            ImageFolder(folders)
    rows = (mini_imagenet / "train.csv").read_text()
    (mini_imagenet / "train.csv").write_text(rows + "./ant00000000.png,ant\n")
    with pytest.raises(TaskError, match=r"ant00000000\.png of the class 'ant' is twice: an epis"):
        ImageFolder(mini_imagenet)


@pytest.mark.parametrize("name", ["../elsewhere", "bee/../../elsewhere", "/etc", "..\\elsewhere"])
def test_names_that_lead_out_of_the_root(folders, mini_imagenet, name):
    write_image(folders.parent / "elsewhere" / "0.png", 1, 0)
    (folders / "splits.json").write_text(json.dumps(SPLITS | {"test": ["fox", name]}))
    with pytest.raises(DataError, match=r"splits\.json, got .*, which leads out of it"):
        ImageFolder(folders)
    rows = (mini_imagenet / "test.csv").read_text()
    (mini_imagenet / "test.csv").write_text(rows + f"{name}/0.png,elk\n")
    with pytest.raises(DataError, match=r"test\.csv, got .*, which leads out of it"):
        ImageFolder(mini_imagenet)


def test_files_of_attributes_that_macos_writes_are_passed_over(folders, fresh_cache):
    (folders / "ant" / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    assert few_shot(folders, image_size=16).split("train").names == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png/thumb.png", "__MACOSX/1.png"]
)
def test_copies_that_systems_keep_are_no_images(folders, fresh_cache, name):
    write_image(folders / "ant" / name, 0, 0)
    assert few_shot(folders).pool.counts[0] == 3


def test_images_of_linked_folders_are_found(folders, tmp_path, fresh_cache):
    for number in (1, 2):
        write_image(tmp_path / "elsewhere" / f"{number}.png", 0, number)
    (folders / "ant" / "more").symlink_to(tmp_path / "elsewhere")
    (folders / "ant" / "loop").symlink_to(folders / "ant")
    assert few_shot(folders).pool.counts[0] == 5


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_another_form_name_the_same_class(folders, fresh_cache, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (folders / "ant").rename(folders / unicodedata.normalize(other, "Äpfel é"))
    name = unicodedata.normalize(form, "Äpfel é")
    (folders / "splits.json").write_text(json.dumps({"train": [name, "bee", "cat"]}))
    assert few_shot(folders).split("train").names == (name, "bee", "cat")


def test_split_files_of_other_systems(folders, fresh_cache):
    (folders / "splits.json").unlink()
    (folders / "SPLITS.CSV").write_text("class,split\nant,Train \nbee,TRAIN\nfox,test\n")
    tasks = few_shot(folders, split_files="SPLITS.CSV", way=1)
    assert tasks.split("train").names == ("ant", "bee")


def test_other_endings_of_the_formats(folders, fresh_cache):
    for ending in (".pgm", ".pbm", ".jfif"):
        Image.new("1", (4, 4)).save(folders / "ant" / f"x{ending}")
    assert few_shot(folders).pool.counts[0] == 6
