import time
from dataclasses import replace

import pytest
import torch

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks.base import Split, TaskDistribution
from metarl.tasks.distortions import Distortion
from metarl.tasks.episodes import FewShot, class_indices
from metarl.tasks.pools import ImagePool

COUNTS = [6, 4, 5, 4, 7, 4, 5, 4, 4, 6, 4, 4]
TRAIN, VALIDATION, TEST = range(8), range(8, 9), range(9, 12)


def labelled_images(channels=2, size=3):
    """Every image of the pool encodes its index; no two pixels of an image are equal."""
    images = torch.arange(sum(COUNTS), dtype=torch.uint8).view(-1, 1, 1, 1)
    return images.expand(-1, channels, size, size).clone()


@pytest.fixture
def pool():
    names = tuple(f"{'AB'[i % 2]}/character{i:02d}" for i in range(len(COUNTS)))
    return ImagePool(labelled_images(), torch.tensor(COUNTS), names)


@pytest.fixture
def tasks(pool):
    splits: dict[Split, torch.Tensor] = {
        "train": torch.tensor(TRAIN),
        "validation": torch.tensor(VALIDATION),
        "test": torch.tensor(TEST),
    }
    return FewShot(pool, splits, way=3, shots=2, queries=2)


@pytest.fixture
def corner_tasks():
    """Classes whose images are 0 but for the top left pixel, which encodes the class."""
    images = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(1, 4, dtype=torch.uint8).repeat_interleave(4)
    pool = ImagePool(images, torch.full((3,), 4), ("a", "b", "c"))
    return FewShot(pool, {"train": torch.arange(3)}, way=3, shots=1, queries=1)


def image_numbers(examples):
    return (examples.inputs[:, :, 0, 0, 0] * 255).round().long()


def owners(pool, numbers):
    return torch.searchsorted(pool.offsets, numbers, right=True) - 1


def test_shapes_and_types(tasks, generator):
    batch = tasks.sample(5, generator)
    assert batch.support.inputs.shape == (5, 6, 2, 3, 3)
    assert batch.support.inputs.dtype == torch.float32
    assert batch.query.inputs.shape == (5, 6, 2, 3, 3)
    assert batch.support.targets.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    assert batch.query.targets.dtype == torch.int64
    assert batch.info["classes"].shape == batch.info["rotations"].shape == (5, 3)
    assert isinstance(tasks, TaskDistribution)


def test_images_belong_to_the_class_of_their_label(tasks, pool, generator):
    batch = tasks.sample(200, generator)
    for examples in batch.support, batch.query:
        expected = batch.info["classes"].gather(1, examples.targets)
        assert torch.equal(owners(pool, image_numbers(examples)), expected)


def test_support_and_query_share_no_image_and_classes_do_not_repeat(tasks, generator):
    batch = tasks.sample(300, generator)
    numbers = torch.cat([image_numbers(batch.support), image_numbers(batch.query)], 1)
    assert (numbers.sort(1).values.diff(dim=1) > 0).all()
    assert (batch.info["classes"].sort(1).values.diff(dim=1) > 0).all()


def test_every_image_of_unequal_classes_is_drawn_equally_often(tasks, pool, generator):
    numbers = image_numbers(tasks.sample(4000, generator).support).flatten()
    drawn = numbers.bincount(minlength=sum(COUNTS))[: sum(COUNTS[:8])].double()
    share = drawn / pool.counts[:8].double().reciprocal().repeat_interleave(pool.counts[:8])
    assert ((share / share.mean() - 1).abs() < 0.1).all()


def test_splits_are_disjoint(tasks, generator):
    for name, classes in ("train", TRAIN), ("test", TEST):
        seen = tasks.split(name).sample(300, generator).info["classes"].unique()
        assert seen.tolist() == list(classes)
    assert tasks.split("test").split("train").num_classes == 8


def test_the_same_seed_gives_the_same_tasks(tasks):
    first, again, other = (
        replace(tasks, rotations="episode").sample(4, torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.query.inputs, again.query.inputs)
    assert not torch.equal(first.query.inputs, other.query.inputs)


def test_another_shape_of_episodes(tasks, generator):
    other = replace(tasks, way=2, queries=1)
    assert (other.way, other.shots, other.queries) == (2, 2, 1)
    assert other.sample(1, generator).query.inputs.shape[1] == 2


def test_no_rotation_leaves_images_upright(corner_tasks, generator):
    images = corner_tasks.sample(50, generator).support.inputs[:, :, 0]
    assert (images[:, :, 0, 0] > 0).all()


@pytest.mark.parametrize("rotations", ["episode", "classes"])
def test_rotations_turn_a_class_as_rot90_does(corner_tasks, generator, rotations):
    batch = replace(corner_tasks, rotations=rotations).sample(100, generator)
    upright = torch.zeros(4, 4)
    upright[0, 0] = 1
    turned = torch.stack([upright.rot90(k) for k in range(4)])
    expected = turned[batch.info["rotations"]] * (batch.info["classes"] + 1)[..., None, None] / 255
    for examples in batch.support, batch.query:
        assert torch.equal(examples.inputs[:, :, 0], expected)
    assert batch.info["rotations"].unique().tolist() == [0, 1, 2, 3]


def test_two_rotations_of_a_character_meet_only_as_classes(corner_tasks, generator):
    per_episode = replace(corner_tasks, rotations="episode").sample(300, generator).info["classes"]
    assert (per_episode.sort(1).values.diff(dim=1) > 0).all()
    assert replace(corner_tasks, rotations="episode").num_classes == 3
    separate = replace(corner_tasks, rotations="classes", way=12)
    assert separate.num_classes == 12
    info = separate.sample(20, generator).info
    assert (info["classes"] * 4 + info["rotations"]).sort(1).values.tolist() == [[*range(12)]] * 20


def test_reflections_are_classes_beside_rotations(corner_tasks, generator):
    tasks = replace(corner_tasks, rotations="reflected", way=8)
    assert tasks.num_classes == 3 * 8
    batch = tasks.sample(40, generator)
    pictures = tasks.pool.images[:, 0].float() / 255
    for part in (batch.support, batch.query):
        for task, (classes, turns) in enumerate(
            zip(batch.info["classes"], batch.info["rotations"], strict=True)
        ):
            for k in range(8):
                image = pictures[int(classes[k]) * 4]
                image = image.flip(1) if turns[k] >= 4 else image
                assert torch.equal(part.inputs[task, k, 0], image.rot90(int(turns[k]) % 4))
    assert torch.equal(batch.info["labels"], batch.info["classes"] * 8 + batch.info["rotations"])
    assert len(batch.info["labels"].unique()) == 24
    assert all(len(row.unique()) == 8 for row in batch.info["labels"])


@pytest.mark.parametrize("rotations", ["none", "episode", "classes", "reflected"])
def test_labels_number_the_classes_of_the_split(pool, rotations, generator):
    tasks = FewShot(pool, {"test": torch.tensor(TEST)}, 2, 1, 1, "test", rotations)
    info = tasks.sample(200, generator).info
    labels = info["labels"].unique()
    assert labels.tolist() == list(range(tasks.num_classes))
    turns = tasks.num_classes // 3
    assert torch.equal(info["classes"], torch.tensor(TEST)[info["labels"] // turns])


@pytest.mark.parametrize("grouping", ["alphabets", "drawers"])
def test_classes_of_one_alphabet_turned_alike(tasks, grouping, generator):
    grouped = replace(tasks, grouping=grouping, rotations="reflected", way=4)
    info = grouped.sample(300, generator).info
    letters = info["classes"] % 2  # the alphabets A and B take turns
    assert (letters == letters[:, :1]).all() and len(letters.unique()) == 2
    assert (info["rotations"] == info["rotations"][:, :1]).all()
    assert len(info["rotations"].unique()) == 8
    assert all(len(row.unique()) == 4 for row in info["classes"])


def test_small_alphabets_are_passed_over(tasks, generator):
    test = replace(tasks.split("test"), grouping="alphabets", way=2, shots=1)
    names = {test.pool.names[i] for i in test.sample(30, generator).info["classes"].flatten()}
    assert names == {"B/character09", "B/character11"}


def test_a_drawer_draws_all_classes_of_a_shot(tasks, generator):
    tasks = replace(tasks, grouping="drawers", shots=1)
    batch = tasks.sample(300, generator)
    for part, count in ((batch.support, 1), (batch.query, 2)):
        numbers = image_numbers(part).view(300, 3, count)
        drawers = numbers - tasks.pool.offsets[batch.info["classes"]].unsqueeze(2)
        assert (drawers == drawers[:, :1]).all()
        assert drawers.max() >= 3
    known, asked = (image_numbers(p).view(300, 3, -1) for p in (batch.support, batch.query))
    assert not (known == asked).any()
    apart = replace(tasks, grouping="alphabets").sample(300, generator)
    drawers = image_numbers(apart.support) - tasks.pool.offsets[apart.info["classes"]]
    assert (drawers != drawers[:, :1]).any()


def test_drawers_draw_any_number_of_shots(tasks, generator):
    batch = replace(tasks, grouping="drawers", fewest_shots=1).sample(200, generator)
    real = batch.support.weights.view(200, 3, 2)
    assert (real == real[:, :1]).all() and set(real.sum(2).unique().tolist()) == {1.0, 2.0}
    assert (batch.query.weights == 1).all()
    numbers = image_numbers(batch.support).view(200, 3, 2)
    drawers = numbers - tasks.pool.offsets[batch.info["classes"]].unsqueeze(2)
    assert torch.where(real > 0, drawers == drawers[:, :1], numbers == 0).all()


def test_distortions_change_images_and_nothing_else(tasks, generator):
    images = torch.randint(256, tasks.pool.images.shape, generator=generator, dtype=torch.uint8)
    tasks = replace(tasks, pool=replace(tasks.pool, images=images))
    distorted = replace(tasks, distortion=Distortion(shift=0.3))
    plain, moved = (t.sample(9, generator.manual_seed(0)) for t in (tasks, distorted))
    assert not torch.equal(plain.support.inputs, moved.support.inputs)
    assert torch.equal(plain.query.targets, moved.query.targets)
    assert all(torch.equal(plain.info[key], moved.info[key]) for key in plain.info)


def test_names_and_alphabets_are_those_of_the_split(tasks):
    test = tasks.split("test")
    assert test.names == ("B/character09", "A/character10", "B/character11")
    assert test.alphabets == ("A", "B")


def test_a_distribution_is_told_by_its_settings_and_can_be_a_key(tasks):
    assert repr(tasks) == (
        "FewShot(way=3, shots=2, queries=2, part='train', rotations='none', grouping='none', "
        "distortion=None, small_classes='refuse', min_images=None, fewest_shots=None)"
    )
    assert {tasks: 1}[tasks] == 1
    assert tasks != replace(tasks, way=2)


def test_gray_images_get_a_channel(generator):
    pool = ImagePool(labelled_images()[:, 0], torch.tensor(COUNTS), tuple("abcdefghijkl"))
    tasks = FewShot(pool, {"train": torch.arange(12)}, queries=1)
    assert tasks.sample(2, generator).query.inputs.shape == (2, 5, 1, 3, 3)


def test_way_larger_than_the_classes(tasks):
    with pytest.raises(SettingsError, match=r"at most 8, the classes of the train split, got 9"):
        replace(tasks, way=9)
    with pytest.raises(SettingsError, match="validation split, got 3"):
        tasks.split("validation")


def test_more_images_wanted_than_drawn(tasks):
    with pytest.raises(SettingsError, match=r"need 5 examples per class; 'B/character01'.*has 4"):
        replace(tasks, queries=3)


def test_empty_split(pool):
    tasks = FewShot(pool, {"train": torch.arange(12)}, queries=1)
    with pytest.raises(TaskError, match="test split has no classes"):
        tasks.split("test")


def test_a_class_in_two_splits(pool):
    splits: dict[Split, torch.Tensor] = {"train": torch.arange(12), "test": torch.tensor([4])}
    with pytest.raises(TaskError, match="'A/character04' is in two splits"):
        FewShot(pool, splits, queries=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 0}, "at least 1 way"),
        ({"shots": 0}, "at least 1 way, 1 shot"),
        ({"queries": -1}, "1 query"),
        ({"rotations": "episodes"}, "Did you mean 'episode'"),
        ({"part": "tset"}, "Did you mean 'test'"),
        ({"grouping": "alphabet"}, "Did you mean 'alphabets'"),
        ({"grouping": "alphabets", "way": 5}, "at most 4, the classes of the largest alphabet"),
    ],
)
def test_bad_settings(tasks, settings, message):
    with pytest.raises(SettingsError, match=message):
        replace(tasks, **settings)


def test_no_tasks(tasks, generator):
    with pytest.raises(SettingsError, match="at least 1 task"):
        tasks.sample(0, generator)


def test_rotations_need_square_images():
    pool = ImagePool(torch.zeros(8, 1, 2, 3, dtype=torch.uint8), torch.tensor([4, 4]), ("a", "b"))
    with pytest.raises(SettingsError, match="square images, got 2 x 3"):
        FewShot(pool, {"train": torch.arange(2)}, 2, 1, 1, rotations="episode")


@pytest.mark.parametrize(
    ("images", "counts", "names"),
    [
        (torch.zeros(4, 3, 3), [2, 2], ("a", "b")),
        (torch.zeros(4, 9, dtype=torch.uint8), [2, 2], ("a", "b")),
        (torch.zeros(4, 3, 3, dtype=torch.uint8), [2, 1], ("a", "b")),
        (torch.zeros(4, 3, 3, dtype=torch.uint8), [2, 2], ("a",)),
        (torch.zeros(4, 0, 3, 3, dtype=torch.uint8), [2, 2], ("a", "b")),
    ],
)
def test_a_pool_that_does_not_fit_itself(images, counts, names):
    with pytest.raises(ShapeError):
        ImagePool(images, torch.tensor(counts), names)


@pytest.mark.parametrize("counts", [[-1, 3], [1.0, 1.0], [[1, 1]]])
def test_counts_that_are_none(counts):
    with pytest.raises(ShapeError, match=r"number of images of each class, int64 \[K\]"):
        ImagePool(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor(counts), ("a", "b"))


@pytest.mark.parametrize("indices", [[12], [-1], [0.0], [[0, 1]]])
def test_splits_of_classes_that_the_pool_does_not_have(pool, indices):
    splits = {"train": torch.arange(3), "test": torch.tensor(indices)}
    with pytest.raises(TaskError, match="classes of the test split as int64 indices from 0 to 11"):
        FewShot(pool, splits, way=2, queries=1)
    with pytest.raises(SettingsError, match="Did you mean 'train'"):
        FewShot(pool, {"trian": torch.arange(3)}, way=2, queries=1)


def test_class_indices_take_the_first_of_equal_names():
    assert class_indices(["a", "b", "a", "c"], ["a", "c"]).tolist() == [0, 3]


def test_sampling_is_fast():
    pool = ImagePool(
        torch.zeros(1000 * 20, 28, 28, dtype=torch.uint8),
        torch.full((1000,), 20),
        tuple(map(str, range(1000))),
    )
    tasks = FewShot(pool, {"train": torch.arange(1000)}, 5, 1, 1, rotations="classes")
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(20):
        start = time.process_time()  # of this process: a busy machine does not fail the test
        tasks.sample(32, generator)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.005  # about 0.001; a loop over tasks and classes takes more


@pytest.mark.gpu
def test_episodes_stay_on_the_device(tasks):
    generator = torch.Generator("cuda").manual_seed(0)
    for distribution in tasks.to("cuda"), tasks:  # images moved before, and with each batch
        batch = replace(distribution, rotations="episode").sample(4, generator)
        assert batch.support.inputs.device.type == batch.info["classes"].device.type == "cuda"
        numbers = image_numbers(batch.support).cpu()
        expected = batch.info["classes"].gather(1, batch.support.targets).cpu()
        assert torch.equal(owners(tasks.pool, numbers), expected)
