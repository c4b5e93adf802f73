"""Flat spaces: gymnasium's order, readers of actions that invert them, images of any layout."""

import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import SettingsError
from metarl.rl.policy_network import images_of
from metarl.sim.arguments import with_task
from metarl.sim.spaces import (
    action_leaves,
    action_reader,
    flat_actions,
    flat_observations,
    image_shape,
    is_image,
    observation_leaves,
)

MIXED = spaces.Dict(
    gas=spaces.Box(0, 10, (2, 2), np.float64),
    steps=spaces.Box(0, 9, (2,), np.int64),
    tools=spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 4], start=[1, 0]))),
    valves=spaces.MultiBinary((2, 2)),
)


def test_a_flat_action_has_an_entry_for_each_choice_and_number():
    flat = flat_actions(MIXED)
    assert flat.low.tolist() == [0] * 13
    assert flat.high.tolist() == [10] * 4 + [9] * 2 + [2, 1, 3] + [1] * 4
    names = [(leaf.name, leaf.start, leaf.stop) for leaf in action_leaves(flat)]
    assert names == [
        ("gas", 0, 4), ("steps", 4, 6), ("tools.0", 6, 7), ("tools.1", 7, 9), ("valves", 9, 13),
    ]  # fmt: skip


def test_the_reader_gives_actions_of_the_space():
    row = np.array([1, 2, 3, 4, 6.6, 0.4, 2, 1, 3, 0, 1, 1, 0], np.float32)
    action = action_reader(MIXED)(row)
    assert MIXED.contains(action)
    assert action["gas"].tolist() == [[1, 2], [3, 4]]
    assert action["steps"].tolist() == [7, 0]
    assert action["tools"][0] == 7
    assert action["tools"][1].tolist() == [2, 3]
    assert action["valves"].tolist() == [[0, 1], [1, 0]]
    flat, read = flat_actions(MIXED), action_reader(MIXED)
    flat.seed(0)
    assert all(MIXED.contains(read(flat.sample())) for _ in range(20))


def test_observations_are_in_gymnasiums_order():
    flat = flat_observations(MIXED)
    assert flat.shape == (spaces.flatdim(MIXED),)
    sizes = [leaf.stop - leaf.start for leaf in observation_leaves(flat)]
    assert sizes == [4, 2, 3, 6, 4]
    both = with_task(flat, 3)
    assert observation_leaves(both)[-1][2:] == (19, 22)
    assert [leaf.space for leaf in observation_leaves(both)[:2]] == [MIXED["gas"], MIXED["steps"]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((24, 30), (1, 24, 30)),
        ((24, 30, 3), (3, 24, 30)),
        ((3, 24, 30), (3, 24, 30)),
        ((4, 24, 30), (4, 24, 30)),
        ((4, 24, 30, 3), (12, 24, 30)),
        ((2, 3, 24, 30), (6, 24, 30)),
    ],
)
def test_images_have_their_channels_first(shape, expected):
    space = spaces.Box(0, 255, shape, np.uint8)
    assert is_image(space)
    assert image_shape(space) == expected
    (leaf,) = observation_leaves(flat_observations(space))
    values = torch.arange(2.0 * np.prod(shape)).view(2, *shape)
    images = images_of(leaf, values.flatten(1))
    assert images.shape == (2, *expected)
    # the pixel in row 5, column 7 of channel 1 of the last frame
    if len(shape) == 4:
        pixel = values[1, -1, 5, 7, 1] if shape[-1] == 3 else values[1, -1, 1, 5, 7]
        channel = expected[0] - expected[0] // shape[0] + 1
        assert images[1, channel, 5, 7] == pixel
    elif shape == (24, 30, 3):
        assert images[1, 1, 5, 7] == values[1, 5, 7, 1]
    elif len(shape) == 3:
        assert images[1, 1, 5, 7] == values[1, 1, 5, 7]


def test_tables_of_bytes_and_other_arrays_are_no_images():
    assert not is_image(spaces.Box(0, 255, (7, 7, 3), np.uint8))
    assert not is_image(spaces.Box(0, 9, (24, 24), np.uint8))
    assert not is_image(spaces.Box(0, 1, (24, 24, 3), np.float32))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (spaces.Text(5), "part 'b' of the observations is Text.*a Text, which no policy"),
        (spaces.Graph(spaces.Discrete(2), None), "a Graph"),
        (spaces.Sequence(spaces.Discrete(2)), "a Sequence"),
    ],
)
def test_parts_without_a_size_are_refused_by_name(part, message):
    with pytest.raises(SettingsError, match=message):
        flat_observations(spaces.Dict(a=spaces.Discrete(2), b=part))
    with pytest.raises(SettingsError, match="the actions is"):
        flat_actions(part)
    with pytest.raises(SettingsError, match="at least one number"):
        flat_observations(spaces.Dict())


ENDS = {
    "float64": spaces.Box(np.array([-0.1, 0.7]), np.array([0.1, 0.9]), dtype=np.float64),
    "int32": spaces.Box(-(2**31), 2**31 - 1, (2,), np.int32),
    "uint32": spaces.Box(0, 2**32 - 1, (2,), np.uint32),
    "int64": spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "uint64": spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    "beyond float32": spaces.Box(2**24 + 1, 2**24 + 3, (1,), np.int32),
    "table": spaces.Box(-0.3, 0.3, (2, 3), np.float64),
}


@pytest.mark.parametrize(
    "empty", [spaces.Dict({}), spaces.Tuple(()), spaces.Tuple([spaces.Dict()])]
)
def test_empty_parts_are_refused(empty):
    """They had ended with an error of NumPy."""
    space = spaces.Dict(place=spaces.Box(-1, 1, (2,)), rest=empty)
    for flat, what in ((flat_observations, "observations"), (flat_actions, "actions")):
        with pytest.raises(SettingsError, match=f"Expected {what} whose parts .* leave empty"):
            flat(space)


@pytest.mark.parametrize("name", ENDS)
def test_actions_at_their_bounds_are_in_the_space(name):
    space = ENDS[name]
    flat, read = flat_actions(space), action_reader(space)
    for row in (flat.low, flat.high):
        assert space.contains(read(row))
        np.testing.assert_allclose(read(row).ravel().astype(float), row, rtol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "fits"),
    [
        (1e8, 1e8 + 1, np.float64, False),
        (1e6, 1e6 + 1, np.float64, False),
        (-1e-300, 1e-300, np.float64, False),
        (2**24, 2**24 + 3, np.int64, False),
        (2**23, 2**23 + 3, np.int64, True),
        (0, 2**60, np.int64, True),
        (1000, 1001, np.float32, True),
        (3, 3, np.float32, True),
        (-1e300, 1e300, np.float64, True),
        (5, np.inf, np.float64, True),
    ],
)
def test_bounds_that_float32_hardly_tells_apart_are_refused(low, high, dtype, fits):
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(low, high, (2,), dtype))
    with nullcontext() if fits else pytest.raises(SettingsError, match="entry 0 of the part 'b'"):
        flat_actions(space)


def test_truth_values_are_the_nearest_ones():
    read = action_reader(spaces.Box(0, 1, (3,), np.bool_))  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert read(np.array([0.3, 0.6, 1], np.float32)).tolist() == [False, True, True]


def test_copies_keep_the_source():
    flat = flat_actions(MIXED)
    for other in (copy.deepcopy(flat), pickle.loads(pickle.dumps(flat))):
        assert other == flat
        assert other.source == MIXED
