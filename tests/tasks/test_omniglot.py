import functools
import hashlib
import http.server
import threading
import zipfile
from collections import Counter

import pytest
import torch

from metarl.errors import DataError, SettingsError, TaskError
from metarl.tasks import omniglot
from metarl.tasks.omniglot import Omniglot, locate, read_archive
from metarl.tasks.omniglot_splits import (
    GURMUKHI_TEST,
    VINYALS_TEST,
    VINYALS_VALIDATION,
    SplitSettings,
    alphabet_of,
    split_names,
)
from tests.tasks.drawn_archives import FIRST, SECOND, write_images, write_minimal

few_shot = functools.partial(Omniglot, way=2, shots=1, queries=1)


@pytest.fixture(scope="module")
def drawn_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    write_minimal(folder)
    return folder


@pytest.fixture(params=["drawn", "official"])
def data(request):
    """The minimal backgrounds: drawn by the tests, and the official ones where they are."""
    return request.getfixturevalue(f"{request.param}_data")


def full_set():
    """The names of background and evaluation as in the whole data set: 964 and 659 characters."""
    sizes = Counter(
        {
            "Gurmukhi": 45,
            "Kannada": 41,
            "Keble": 26,
            "Malayalam": 47,
            "Manipuri": 40,
            "Mongolian": 30,
            "Old_Church_Slavonic_(Cyrillic)": 45,
            "Oriya": 46,
            "Sylheti": 28,
            "Syriac_(Serto)": 23,
            "Tengwar": 25,
            "Tibetan": 42,
            "ULOG": 26,
            "Armenian": 41,
            "Bengali": 46,
            "Early_Aramaic": 22,
            "Hebrew": 22,
            "Mkhedruli_(Georgian)": 41,
        }
    )
    # The other alphabets are for training in every scheme: their names do not matter.
    background = {k: sizes[k] for k in VINYALS_VALIDATION} | {f"B{i:02d}": 31 for i in range(24)}
    background["B24"] = 964 - sum(background.values())
    evaluation = {k: sizes[k] for k in VINYALS_TEST} | {f"E{i}": 32 for i in range(6)}
    evaluation["E6"] = 659 - sum(evaluation.values())
    return tuple(
        [f"{name}/character{i:02d}" for name, size in part.items() for i in range(1, size + 1)]
        for part in (background, evaluation)
    )


def sizes(chosen):
    return [len(chosen[part]) for part in ("train", "validation", "test")]


def num_alphabets(names):
    return len({alphabet_of(name) for name in names})


def test_minimal_trains_on_one_background_and_tests_on_new_alphabets(data):
    tasks = few_shot("minimal-1", data_dir=data)
    assert tasks.alphabets == ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
    assert tasks.split("test").alphabets == ("Japanese_(katakana)", "Sanskrit", "Tagalog")
    other = few_shot("minimal-2", data_dir=data)
    assert other.split("test").alphabets == ("Balinese", "Early_Aramaic", "Korean")
    assert not set(tasks.names) & set(tasks.split("test").names)


def test_the_official_minimal_sets_have_their_published_sizes(official_data):
    first, second = (Omniglot(f"minimal-{n}", data_dir=official_data) for n in (1, 2))  # pyright: ignore[reportArgumentType]
    assert [len(first.names), len(first.split("test").names)] == [136, 106]
    assert [len(second.names), len(second.split("test").names)] == [156, 86]
    assert first.num_classes == 4 * 136
    assert (first.pool.counts == 20).all()


def test_official_archives_have_the_checksums_we_ask_for(official_data):
    for name in ("images_background_small1", "images_background_small2"):
        content = (official_data / f"{name}.zip").read_bytes()
        assert omniglot.OFFICIAL[name] == (len(content), hashlib.sha256(content).hexdigest())


def test_episodes(data, generator):
    tasks = Omniglot("minimal-1", way=3, shots=1, queries=2, data_dir=data)
    batch = tasks.sample(20, generator)
    assert batch.support.inputs.shape == (20, 3, 1, 28, 28)
    assert batch.query.inputs.shape == (20, 6, 1, 28, 28)
    assert 0 <= batch.query.inputs.min() <= batch.query.inputs.max() <= 1
    assert batch.query.inputs.mean() < 0.35  # ink is 1 and rare


def test_inverting_is_the_default_and_can_be_left_out(data, generator):
    ink, paper = (few_shot("minimal-1", data_dir=data, invert=invert) for invert in (True, False))
    assert torch.equal(ink.pool.images, 255 - paper.pool.images)


def test_resizing_is_smooth(data):
    values = few_shot("minimal-1", data_dir=data).pool.images.unique()
    assert len(values) > 2  # nearest neighbour would leave ink and paper only


def test_validation_is_asked_for(data):
    with pytest.raises(TaskError, match=r"validation_fraction=0\.1"):
        few_shot("minimal-1", data_dir=data).split("validation")
    whole = few_shot("minimal-1", data_dir=data)
    tasks = few_shot("minimal-1", data_dir=data, validation_fraction=0.25)
    held_out = tasks.split("validation").names
    assert len(held_out) == round(0.25 * len(whole.names))
    assert sorted((*tasks.names, *held_out)) == sorted(whole.names)
    again = few_shot("minimal-1", data_dir=data, validation_fraction=0.25)
    assert again.split("validation").names == held_out


def test_vinyals_has_the_classes_of_prototypical_networks():
    chosen = split_names(SplitSettings("vinyals"), *full_set())
    assert [4 * n for n in sizes(chosen)] == [4112, 688, 1692]
    assert [num_alphabets(names) for names in chosen.values()] == [33, 5, 13]
    assert set(GURMUKHI_TEST) == {n for n in chosen["test"] if alphabet_of(n) == "Gurmukhi"}


def test_random_has_1200_characters_to_train_on():
    chosen = split_names(SplitSettings("random"), *full_set())
    assert sizes(chosen) == [1100, 100, 423]
    assert num_alphabets(chosen["test"]) > 40
    other = split_names(SplitSettings("random", seed=1), *full_set())
    assert set(other["test"]) != set(chosen["test"])
    assert sizes(split_names(SplitSettings("random", 0, 0.0), *full_set())) == [1200, 0, 423]


def test_the_random_split_never_changes():
    names = [f"A/character{i:02d}" for i in range(8)]
    chosen = split_names(SplitSettings("random", seed=5), names, [])
    assert [name[-1] for name in chosen["test"]] == ["4", "7"]


def test_lake_holds_whole_alphabets_out():
    background, evaluation = full_set()
    chosen = split_names(SplitSettings("lake"), background, evaluation)
    assert chosen["test"] == evaluation
    assert num_alphabets(chosen["train"]) == 25
    assert num_alphabets(chosen["validation"]) == 5
    assert sum(sizes(chosen)[:2]) == 964
    assert num_alphabets([*chosen["train"], *chosen["validation"]]) == 30


@pytest.mark.parametrize("scheme", ["vinyals", "random", "lake"])
def test_splits_share_no_character_and_lose_none(scheme):
    background, evaluation = full_set()
    chosen = split_names(SplitSettings(scheme), background, evaluation)
    together = [name for names in chosen.values() for name in names]
    assert sorted(together) == sorted([*background, *evaluation])


@pytest.mark.parametrize("scheme", ["vinyals", "random", "lake"])
def test_whole_set_from_archives(scheme, tmp_path, generator):
    background, evaluation = (
        {alphabet_of(name): 2 for name in names if alphabet_of(name) != "Gurmukhi"}
        for names in full_set()
    )
    write_images(tmp_path / "images_background.zip", background, drawings=2)
    write_images(tmp_path / "images_evaluation.zip", evaluation | {"Gurmukhi": 45}, drawings=2)
    tasks = few_shot(scheme, data_dir=tmp_path)
    for part in ("train", "validation", "test"):
        assert tasks.split(part).sample(3, generator).num_tasks == 3


def test_vinyals_needs_its_alphabets():
    with pytest.raises(DataError, match=r"lack alphabets.*Armenian"):
        split_names(SplitSettings("vinyals"), ["Greek/character01"], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "minimal1"}, "Did you mean 'minimal-1'"),
        ({"scheme": "lake", "validation_fraction": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"scheme": "vinyals", "validation_fraction": 0.1}, "alphabets of its own"),
    ],
)
def test_bad_settings(drawn_data, settings, message):
    with pytest.raises(SettingsError, match=message):
        Omniglot(**settings, data_dir=drawn_data)


def test_more_images_than_drawings(drawn_data):
    with pytest.raises(SettingsError, match="has 4"):
        Omniglot("minimal-1", 2, 1, 4, data_dir=drawn_data)


def test_the_data_folder_is_taken_from_the_environment(drawn_data, tmp_path, monkeypatch):
    monkeypatch.setenv("METARL_DATA", str(drawn_data))
    assert len(few_shot("minimal-1").names) == sum(FIRST.values())
    (tmp_path / "omniglot").symlink_to(drawn_data)
    monkeypatch.setenv("METARL_DATA", str(tmp_path))
    assert len(few_shot("minimal-2").names) == sum(SECOND.values())


def test_decoded_images_are_cached_by_content(tmp_path, fresh_cache, monkeypatch):
    write_minimal(tmp_path)
    first = read_archive(tmp_path / "images_background_small1.zip")
    assert len(list(fresh_cache.iterdir())) == 1

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(omniglot, "decode", refuse)
    again = read_archive(tmp_path / "images_background_small1.zip")
    assert (first["images"] == again["images"]).all()
    write_images(tmp_path / "images_background_small1.zip", SECOND)
    with pytest.raises(AssertionError, match="decoded again"):
        read_archive(tmp_path / "images_background_small1.zip")


def test_a_missing_archive_names_file_and_remedy(tmp_path):
    with pytest.raises(DataError) as error:
        Omniglot("lake", data_dir=tmp_path, base_url="http://127.0.0.1:9")
    for part in (
        f"images_background.zip is not in {tmp_path}",
        "METARL_DATA",
        "http://127.0.0.1:9/images_background.zip",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "altered", "image", "empty"])
def test_a_corrupt_archive_is_named(tmp_path, damage):
    write_minimal(tmp_path)
    path = tmp_path / "images_background_small2.zip"
    data = bytearray(path.read_bytes())
    if damage == "altered":
        data[data.index(b"IDAT") + 12] ^= 255
        path.write_bytes(data)
    elif damage == "image":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images/Greek/character01/0001_01.png", b"not a png")
    elif damage == "empty":
        write_images(path, {})
    else:
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"images_background_small2\.zip"):
        few_shot("minimal-1", data_dir=tmp_path)


def test_a_missing_archive_is_downloaded(drawn_data, tmp_path, monkeypatch):
    handler = functools.partial(_QuietHandler, directory=str(drawn_data))
    name = "images_background_small1"
    content = (drawn_data / f"{name}.zip").read_bytes()
    expected = (len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(omniglot.OFFICIAL, name, expected)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        path = locate(name, tmp_path / "data", f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()
    assert path.read_bytes() == content
    assert locate(name, tmp_path / "data", "http://127.0.0.1:9/") == path


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Keeps the test's output clean."""
