"""The contract that every task distribution of MetaRL keeps."""

import functools
import json

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks import (
    Background,
    Characters,
    FewShotData,
    Forecasting,
    Glyphs,
    GroupedExamples,
    ImageFolder,
    Omniglot,
    Sine,
)
from metarl.tasks.base import SPLITS, TaskDistribution
from metarl.tasks.check_task_distribution import check_task_distribution
from tests.tasks import test_image_folder as folder_tests
from tests.tasks.drawn_archives import write_minimal

small_glyphs = functools.partial(Glyphs, 3, 1, 2, alphabets=10, characters=4, drawings=4)


@pytest.fixture(scope="module")
def drawn_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    write_minimal(folder)
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index, name in enumerate(folder_tests.CLASSES):
        for number in range(3):
            folder_tests.write_image(root / name / f"{number}.png", index, number)
    (root / "splits.json").write_text(json.dumps(folder_tests.SPLITS))
    return root


def omniglot(request, data, scheme, rotations):
    folder = request.getfixturevalue(data)
    return Omniglot(scheme, 3, 1, 2, data_dir=folder, rotations=rotations, validation_fraction=0.2)


def folder(request, **settings):
    root = request.getfixturevalue("image_folder")
    return ImageFolder(root, way=2, shots=1, queries=2, image_size=16, **settings)


def data(kind):
    """Random examples of 24 classes or groups, in the forms that users have."""
    rng = np.random.default_rng(0)
    labels, fractions = np.arange(240) % 24, {"train": 0.5, "validation": 0.25, "test": 0.25}
    episodes = {"way": 3, "shots": 2, "queries": 3, "splits": fractions}
    x = rng.normal(size=(240, 5))
    sequences = [rng.normal(size=(1 + i % 7, 2)) for i in range(240)]
    if kind == "sequences":
        return FewShotData(sequences, labels, **episodes)
    if kind == "texts":
        words = ["".join(rng.choice(list("abcdefgh"), 3 + i % 9)) for i in range(240)]
        return FewShotData(words, labels, characters=Characters("abcdefgh"), **episodes)
    if kind == "small":
        unequal = np.repeat(np.arange(24), 1 + np.arange(24) % 12)
        x = rng.normal(size=(len(unequal), 5))
        return FewShotData(x, unequal, small_classes="take", fewest_shots=1, **episodes)
    if kind == "groups":
        table = {"robot": labels, "x": x, "y": x.sum(1)}
        return GroupedExamples(table, "robot", "x", "y", 4, 5, splits=fractions, standardise=True)
    if kind == "series":
        return Forecasting(rng.normal(size=(24, 60)), splits=fractions, history=6)
    tasks = FewShotData(x, labels, descriptions=rng.normal(size=(24, 3)), **episodes)
    return Background(tasks) if kind == "background" else tasks


MAKERS = {
    "sine": lambda request: Sine(),
    "sine-one-shot": lambda request: Sine(1, 1),
    "glyphs": lambda request: small_glyphs(),
    "glyphs-episode": lambda request: small_glyphs(rotations="episode"),
    "glyphs-classes": lambda request: small_glyphs(rotations="classes"),
    "omniglot-drawn": lambda request: omniglot(request, "drawn_data", "minimal-1", "none"),
    "omniglot-drawn-episode": lambda r: omniglot(r, "drawn_data", "minimal-2", "episode"),
    "omniglot-drawn-classes": lambda r: omniglot(r, "drawn_data", "minimal-1", "classes"),
    "omniglot-official": lambda r: omniglot(r, "official_data", "minimal-1", "classes"),
    "omniglot-official-episode": lambda r: omniglot(r, "official_data", "minimal-2", "episode"),
    "image-folder": lambda request: folder(request),
    "image-folder-classes": lambda request: folder(request, rotations="classes"),
    "arrays": lambda request: data("arrays"),
    "sequences": lambda request: data("sequences"),
    "texts": lambda request: data("texts"),
    "small-classes": lambda request: data("small"),
    "groups": lambda request: data("groups"),
    "series": lambda request: data("series"),
    "background": lambda request: data("background"),
    "image-folder-gray": lambda request: folder(request, rotations="episode", mode="L"),
}


@pytest.fixture(params=MAKERS)
def distribution(request):
    return MAKERS[request.param](request)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


def generator_on(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


def tensors(tasks):
    return {
        "support inputs": tasks.support.inputs,
        "support targets": tasks.support.targets,
        "query inputs": tasks.query.inputs,
        "query targets": tasks.query.targets,
        **{f"support {n}": t for n, t in padding(tasks.support)},
        **{f"query {n}": t for n, t in padding(tasks.query)},
        **tasks.info,
    }


def padding(examples):
    parts = (("weights", examples.weights), ("mask", examples.mask))
    return [(name, value) for name, value in parts if value is not None]


def assert_equal(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_public_check_finds_nothing(distribution):
    assert isinstance(distribution, TaskDistribution)
    check_task_distribution(distribution)
    check_task_distribution(distribution.split("test"), seed=1)


def test_tasks_lead_every_tensor_on_the_generators_device(distribution, device):
    tasks = distribution.sample(3, generator_on(device))
    assert tasks.num_tasks == 3
    assert tasks.info
    for name, value in tensors(tasks).items():
        assert value.shape[0] == 3, name
        assert value.device.type == device.type, name
        assert not value.requires_grad, name


def test_inputs_are_float32_and_targets_fit_a_loss(distribution):
    tasks = distribution.sample(3, generator_on("cpu"))
    for inputs, targets, weights, _ in (tasks.support, tasks.query):
        assert inputs.dtype in (torch.float32, torch.int64)
        assert inputs.shape[:2] == targets.shape[:2]
        if targets.is_floating_point():
            assert targets.dtype == torch.float32
            assert targets.dim() > 2
        else:
            assert targets.dtype == torch.int64
            assert targets.dim() == 2
            for row in targets if weights is None else ():  # every label 0..way - 1, equally often
                counts = row.bincount()
                assert (counts == counts[0]).all()
                assert len(counts) == getattr(distribution, "way")  # noqa: B009 - few-shot only


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others(distribution, device):
    first, same, other = (distribution.sample(3, generator_on(device, s)) for s in (5, 5, 6))
    assert_equal(first, same)
    assert any(not torch.equal(v, tensors(other)[n]) for n, v in tensors(first).items())


def test_sampling_changes_nothing_but_the_generator(distribution):
    generator = generator_on("cpu")
    first = distribution.sample(3, generator)
    kept = {n: v.clone() for n, v in tensors(first).items()}
    for value in tensors(first).values():
        value.zero_()  # a learner may write into its batch; the data must not suffer
    again = tensors(distribution.sample(3, generator_on("cpu")))
    assert all(torch.equal(v, again[n]) for n, v in kept.items())


@pytest.mark.parametrize("name", SPLITS)
def test_splitting_again_is_splitting_once(distribution, name):
    split = distribution.split(name)
    for other in SPLITS:
        again = distribution.split(other).split(name)
        assert_equal(split.sample(2, generator_on("cpu")), again.sample(2, generator_on("cpu")))


def test_a_fresh_distribution_is_that_of_training(distribution):
    tasks = distribution.sample(2, generator_on("cpu"))
    assert_equal(tasks, distribution.split("train").sample(2, generator_on("cpu")))


def test_splitting_leaves_the_distribution_as_it_was(distribution):
    before = distribution.sample(2, generator_on("cpu"))
    distribution.split("test").sample(2, generator_on("cpu", 1))
    assert_equal(before, distribution.sample(2, generator_on("cpu")))


def test_examples_have_one_shape_in_all_splits(distribution):
    shapes = [
        {
            n: v.shape
            for n, v in tensors(distribution.split(s).sample(2, generator_on("cpu"))).items()
        }
        for s in SPLITS
    ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("num_tasks", [0, -1])
def test_no_tasks_are_refused(distribution, num_tasks):
    with pytest.raises(SettingsError, match=f"at least 1 task, got {num_tasks}"):
        distribution.sample(num_tasks, generator_on("cpu"))


def test_an_unknown_split_is_refused_with_a_suggestion(distribution):
    with pytest.raises(SettingsError, match=r"'tets'\. Did you mean 'test'\?"):
        distribution.split("tets")
