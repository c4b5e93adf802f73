"""The forms of logs: parts, ends, counters, files and times, read or refused."""

import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pandas
import pyarrow
import pytest
import torch

from metarl.deploy.experience.log_weights import warn_of_times
from metarl.deploy.experience.trajectories import read_trajectories
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import DataError, ShapeError
from metarl.sim.spaces import flat_actions, flat_observations


def test_parts_of_spaces_are_read():
    observation = gymnasium.spaces.Dict(
        {"place": gymnasium.spaces.Box(-1, 1, (2,)), "gear": gymnasium.spaces.Discrete(3)}
    )
    action = gymnasium.spaces.Dict(
        {"force": gymnasium.spaces.Box(-1, 1, (1,)), "brake": gymnasium.spaces.Discrete(2, start=1)}
    )
    spaces = ControlSpaces(flat_observations(observation), flat_actions(action))
    (one,) = read_trajectories(
        {
            "observations": {"gear": np.array([0, 2]), "place": np.ones((2, 2))},
            "actions": {"brake": np.array([1, 2]), "force": np.array([[0.5], [-0.5]])},
            "rewards": [0.0, 1.0],
            "terminated": [False, True],
        },
        spaces,
    )
    np.testing.assert_array_equal(one.observations, [[1, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(one.actions, [[0, 0.5], [1, -0.5]])
    assert one.terminated and one.ended
    assert spaces.to_environment(one.actions[1]) == {"brake": 2, "force": np.float32(-0.5)}


def parts_of_a_log(kind):
    """Observations and actions of several parts, two steps, in a type that logs have."""
    gear, camera = kind([1, 3]), kind([[0.0, 1, 2, 3], [4, 5, 6, 7]])
    return {
        "observations": {"gear": gear, "lamps": kind([[1, 0], [0, 1]]), "camera": camera},
        "actions": (kind([[0.5], [-0.5]]), kind([1, 2])),
        "rewards": kind([0.0, 1.0]),
        "terminated": [False, True],
    }


@pytest.mark.parametrize(
    "kind",
    [
        np.array,
        lambda values: np.array(values, float),
        lambda values: np.array(values, float).reshape(2, -1),  # a column has a dimension
        torch.tensor,
        lambda values: torch.tensor(values, dtype=torch.float64),
    ],
)
def test_choices_among_the_parts_may_be_floats_tensors_and_flat_rows(kind):
    observation = gymnasium.spaces.Dict(
        {
            "gear": gymnasium.spaces.Discrete(3, start=1),
            "lamps": gymnasium.spaces.MultiDiscrete([2, 2]),
            "camera": gymnasium.spaces.Box(-9, 9, (2, 2)),
        }
    )
    action = gymnasium.spaces.Tuple(
        (gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2, start=1))
    )
    spaces = ControlSpaces(flat_observations(observation), flat_actions(action))
    (one,) = read_trajectories(parts_of_a_log(kind), spaces)
    expected = [[0, 1, 2, 3, 1, 0, 0, 0, 1, 1, 0], [4, 5, 6, 7, 0, 0, 1, 1, 0, 0, 1]]
    np.testing.assert_array_equal(one.observations, expected)
    np.testing.assert_array_equal(one.actions, [[0.5, 0], [-0.5, 1]])
    log = parts_of_a_log(kind)
    log["observations"]["gear"] = np.array([1.5, 3])
    with pytest.raises(ShapeError, match=r"Discrete\(3, start=1\), got array\(1.5\)"):
        read_trajectories(log, spaces)
    del log["observations"]["gear"]
    with pytest.raises(ShapeError, match=r"episode 0, got the parts lamps, camera"):
        read_trajectories(log, spaces)


def test_parts_of_a_dict_may_be_columns_of_a_file(tmp_path):
    observation = gymnasium.spaces.Dict(
        {
            "state": gymnasium.spaces.Box(-9, 9, (2,)),
            "hand": gymnasium.spaces.Dict({"open": gymnasium.spaces.Discrete(2)}),
        }
    )
    action = gymnasium.spaces.Dict({"force": gymnasium.spaces.Box(-1, 1, (1,))})
    spaces = ControlSpaces(flat_observations(observation), flat_actions(action))
    states, opens, forces = np.arange(8.0).reshape(4, 2), [0, 1, 1, 0], [0.5, 0.1, 0.2, -0.5]
    rest = {"reward": np.arange(4.0), "episode": [0, 0, 1, 1]}
    numbered = {f"observation.state_{i}": states[:, i] for i in range(2)}
    table = {**numbered, "observation.hand.open": opens, "action.force": forces, **rest}
    pandas.DataFrame(table).to_csv(tmp_path / "log.csv")
    after = np.concatenate((states[1:], [[8, 9]]))
    arrays = {"obs/state": states, "obs/hand/open": opens, "next_obs/state": after}
    arrays |= {"next_obs/hand/open": [*opens[1:], 1], "actions/force": forces}
    np.savez(tmp_path / "log.npz", **arrays, rewards=np.arange(4.0))
    first, second = read_trajectories(tmp_path / "log.csv", spaces)
    np.testing.assert_array_equal(first.observations, [[1, 0, 0, 1], [0, 1, 2, 3]])
    np.testing.assert_array_equal(second.actions, np.array([[0.2], [-0.5]], np.float32))
    (whole,) = read_trajectories(tmp_path / "log.npz", spaces)
    assert whole.observations.shape == (5, 4) and whole.observations[4].tolist() == [0, 1, 8, 9]
    del arrays["obs/hand/open"]
    with pytest.raises(DataError, match=r"of a Dict by parts, as observation.NAME\. It has"):
        read_trajectories({**arrays, "rewards": np.arange(4.0)}, spaces)


def test_an_end_that_was_cut_off_is_no_termination():
    spaces = ControlSpaces(
        flat_observations(gymnasium.spaces.Box(-1, 1, (2,))),
        flat_actions(gymnasium.spaces.Discrete(2)),
    )
    last = np.arange(3) == 2
    log = {"observations": np.zeros((3, 2)), "actions": np.zeros(3, int), "rewards": np.zeros(3)}
    for names, terminated in (
        ({"done": last, "truncated": last}, False),
        ({"dones": last}, True),
        ({"terminated": last, "truncated": last}, True),
        ({"terminals": last, "timeouts": ~last & False}, True),
    ):
        (one,) = read_trajectories({**log, **names}, spaces)
        assert (one.terminated, one.ended) == (terminated, True)


POINTS = ControlSpaces(
    flat_observations(gymnasium.spaces.Box(-9, 9, (2,))),
    flat_actions(gymnasium.spaces.Discrete(2)),
)


def two_episodes(lengths=(3, 2)):
    """Steps of two episodes one after another, with the observation after each."""
    seen = np.concatenate(
        [k + np.arange(2.0 * n + 2).reshape(-1, 2) for k, n in enumerate(lengths)]
    )
    ends = np.cumsum([n + 1 for n in lengths]) - 1
    before = np.delete(np.arange(len(seen)), ends)
    steps = len(before)
    return {
        "observations": seen[before], "next_observations": seen[before + 1],
        "actions": np.zeros(steps, int), "rewards": np.zeros(steps),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["next_observations", "next_obs"])
def test_the_observation_after_the_last_step_is_known_from_the_next_ones(name):
    log = {**two_episodes(), "episode": [0, 0, 0, 1, 1]}
    after = log[name] = log.pop("next_observations")
    first, second = read_trajectories(log, POINTS)
    np.testing.assert_array_equal(first.observations[-1], after[2])
    np.testing.assert_array_equal(second.observations[-1], after[4])
    assert (len(first.observations), len(second.observations)) == (4, 3)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [2, 0, 1, 4, 3]])
def test_steps_that_do_not_follow_each_other_are_refused(order):
    log = {name: rows[order] for name, rows in two_episodes().items()}
    with pytest.raises(DataError, match="one after another, but the next observation of step"):
        read_trajectories(log, POINTS)
    with pytest.raises(ShapeError, match="Expected 5 or 6 observations"):
        read_trajectories({**log, "next_observations": np.zeros((3, 2))}, POINTS)


def test_lengths_of_episodes_are_refused():
    log = {n: v for n, v in two_episodes().items() if n != "next_observations"}
    for name in ("lengths", "episode_lengths", "traj_len", "ep_lens"):
        with pytest.raises(DataError, match=f"has their lengths, {name}: add episode="):
            read_trajectories({**log, name: np.array([3, 2])}, POINTS)
        numbered = {**log, name: [3, 2], "episode": np.repeat(range(2), [3, 2])}
        assert [len(one.rewards) for one in read_trajectories(numbered, POINTS)] == [3, 2]
        for other in ([0.2, 0.3], [2, 2], 5):  # sizes of something else, or of one episode
            assert len(read_trajectories({**log, name: other}, POINTS)) == 1
    index = {"from": np.array([0, 3]), "to": np.array([3, 5])}  # of LeRobot
    with pytest.raises(DataError, match="by a name that is known, it has episode_data_index"):
        read_trajectories({**log, "episode_data_index": index}, POINTS)


@pytest.mark.parametrize("name", ["terminal", "termination", "terminated"])
def test_an_end_may_be_that_of_the_whole_episode(name):
    log = {n: v for n, v in two_episodes().items() if n != "next_observations"}
    for end in (True, False):
        (one,) = read_trajectories([{**log, name: end}], POINTS)
        assert (one.terminated, one.ended) == (end, end)
        (one,) = read_trajectories([SimpleNamespace(**log, **{name: end})], POINTS)
        assert (one.terminated, one.ended) == (end, end)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("traj_id", [0, 0, 0, 1, 1]),
        ("is_last", [0, 0, 1, 0, 1]),
        ("is_first", [True, False, False, True, False]),
        ("episode_ends", [3, 5]),
        ("dones_float", [0.0, 0.0, 1.0, 0.0, 1.0]),
        ("masks", [1, 1, 0, 1, 0]),
        ("rollout", ["a", "a", "a", "b", "b"]),
    ],
)
def test_ends_under_names_that_nobody_knows_are_refused(name, values):
    log = {n: v for n, v in two_episodes().items() if n != "next_observations"}
    logs = [{**log, name: np.array(values)}, {**log, name: values, "terminals": np.zeros(5, bool)}]
    if len(values) == 5:
        logs.append([{n: v[t] for n, v in logs[0].items()} for t in range(5)])
    for one in logs:
        with pytest.raises(DataError, match=f"by a name that is known, it has {name}"):
            read_trajectories(one, POINTS)
    known = {**logs[0], "episode": [0, 0, 0, 1, 1]}
    assert len(read_trajectories(known, POINTS)) == 2
    (whole,) = read_trajectories({**log, name: np.zeros(5)}, POINTS)  # one episode, with its number
    assert len(whole.rewards) == 5
    others = {"episode_return": [0, 0, 0, 1, 1], "terminal_voltage": [1, 1, 1, 2, 2]}
    others["end"] = np.arange(5.0)  # a quantity of each step
    others["start"] = [0.5, -0.2]  # a place
    assert len(read_trajectories({**log, **others}, POINTS)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.eye(2)[[0, 1, 0]]}, "take the argmax"),
        ({"actions": np.array([0.0, 0.4, 1.0])}, "whole numbers within its ranges"),
        ({"actions": np.array([0, 2, 1])}, "whole numbers within its ranges"),
        ({"log_probs": np.array([0.5, 0.2, 0.1])}, "log_probs of at most 0"),
        ({"rewards": np.zeros((3, 2))}, "a dict for each"),
    ],
)
def test_choices_that_are_none_are_refused(change, message):
    spaces = ControlSpaces(
        flat_observations(gymnasium.spaces.Box(-1, 1, (2,))),
        flat_actions(gymnasium.spaces.Discrete(2)),
    )
    log = {"observations": np.zeros((3, 2)), "actions": np.array([0, 1, 0]), "rewards": np.zeros(3)}
    assert len(read_trajectories(log, spaces)) == 1
    with pytest.raises(ShapeError, match=message):
        read_trajectories({**log, **change}, spaces)


def mixed(order):
    """Changes a log of six steps by taking its steps in another order."""
    return lambda log: {n: np.asarray(v)[order] for n, v in log.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (mixed([0, 3, 1, 4, 2, 5]), "those of episode 0 go on at step 2"),
        (lambda log: {**log, "episode": [0, 0, 1, 1, 0, 0]}, "sort the log"),
        (lambda log: {**log, "episode": [0, 0, 0, np.nan, 1, 1]}, "step 3 has none"),
        (lambda log: {**log, "episode": np.array([None, *"aabbb"])}, "step 0 has none"),
        (lambda log: {**log, "episode": [0, 0, 1]}, "Expected 6 episode numbers"),
        (lambda log: {**log, "done": [0, 0, np.nan, 0, 0, 1]}, "`terminated` of true and false"),
        (lambda log: {**log, "done": ["False"] * 5 + ["True"]}, "`terminated` of true and false"),
        (lambda log: {**log, "truncated": np.array([None] * 5 + [True])}, "`truncated` of true"),
        (lambda log: {**log, "truncated": np.full(6, 2)}, "fill in what it was"),
        (lambda log: {**log, "rewards": ["good"] * 6}, "rewards of numbers in episode 0"),
        (lambda log: {**log, "rewards": lambda _: 0.0}, "rewards of numbers in episode 0"),
    ],
)
def test_episodes_that_are_mixed_up_are_refused(change, message):
    with pytest.raises((DataError, ShapeError), match=message):
        read_trajectories(change(of_six_steps()), choice_spaces())


@pytest.mark.parametrize(
    ("counter", "message"),
    [
        ({"t": [0, 1, 2, 0, 1, 2]}, "goes back from 2 to 0 at step 3"),
        ({"frame_index": np.array([0, 1, 2, 5, 4, 3])}, "goes back from 5 to 4 at step 4"),
        ({"step": [3, 2, 1, 3, 2, 1]}, "goes back from 3 to 2 at step 1"),
        ({"timestamp": [0.0, 0.1, 0.2, 0.0, 0.1, 0.2]}, "goes back from 0.2 to 0 at step 3"),
        ({"t": [0.3, 0.7, 0.9, 0.5, 0.4, 0.6]}, None),  # something else, such as a torque
        ({"steps": [5, 4, 3, 2, 1, 0]}, None),  # steps that are left
        ({"steps": 6}, None),
        ({"t": ["a", "b", "a", "b", "a", "b"]}, None),
    ],
)
def test_a_counter_of_steps_that_begins_again_is_refused(counter, message):
    whole = {n: v for n, v in of_six_steps().items() if n != "episode"}
    parts = {**of_six_steps(), **counter}
    if message is None:
        assert len(read_trajectories({**whole, **counter}, choice_spaces())) == 1
        assert len(read_trajectories(parts, choice_spaces())) == 2
        return
    for log in (whole, {**whole, "terminals": np.zeros(6, bool)}, {**whole, "episode": [4] * 6}):
        with pytest.raises(DataError, match=message):
            read_trajectories({**log, **counter}, choice_spaces())
    if message.endswith("step 3"):  # where the other episode begins
        assert len(read_trajectories(parts, choice_spaces())) == 2


def test_counters_of_some_steps_are_left_out():
    log = {n: v for n, v in of_six_steps().items() if n != "episode"}
    steps = [{n: v[t] for n, v in log.items()} for t in range(6)]
    steps[2]["t"] = 7
    assert len(read_trajectories(steps, choice_spaces())) == 1


def test_files_and_containers_of_arrays(tmp_path):
    log = of_six_steps()
    log["observations"] = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
    expected = read_trajectories(log, choice_spaces())
    frame = pandas.DataFrame({n: list(v) if v.ndim > 1 else v for n, v in log.items()})
    frame.to_csv(tmp_path / "arrays.csv")  # lists as texts of NumPy
    frame["observations"] = [row.tolist() for row in log["observations"]]
    frame.to_csv(tmp_path / "lists.csv", index=False)
    np.savez(tmp_path / "log.npz", **log)
    levels = pandas.DataFrame({("obs", i): log["observations"][:, i] for i in range(2)})
    levels[[("action", ""), ("reward", ""), ("episode", "")]] = np.stack(
        [log["actions"], log["rewards"], log["episode"]], 1
    )
    halves = [{n: v[low : low + 3] for n, v in log.items()} for low in (0, 3)]
    rows = np.zeros(6, [(n, v.dtype, v.shape[1:]) for n, v in log.items()])
    for name, values in log.items():
        rows[name] = values
    sources = [tmp_path / n for n in ("arrays.csv", "lists.csv", "log.npz")]
    for source in (*sources, levels, iter(halves), np.array(halves, object), rows):
        found = read_trajectories(source, choice_spaces())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.observations, other.observations, atol=1e-7)
            assert one.actions == other.actions and one.rewards.tolist() == other.rewards.tolist()
    np.savez(tmp_path / "objects.npz", observations=np.array([{}], object))
    (tmp_path / "log.hdf5").write_bytes(b"no table")
    for name, message in (
        ("objects.npz", "Expected an .npz file of arrays"),
        ("none.npz", "Expected an .npz file of arrays"),
        ("log.hdf5", "read others in Python and pass their arrays"),
    ):
        with pytest.raises(DataError, match=message):
            read_trajectories(tmp_path / name, choice_spaces())


def test_ends_in_some_steps_only_are_refused():
    log = of_six_steps()
    steps = [{n: np.asarray(v)[t] for n, v in log.items() if n != "episode"} for t in range(6)]
    for t in (2, 5):
        steps[t]["done"] = True
    with pytest.raises(
        DataError, match="terminated in each of the 6 steps of the log, got it in 2"
    ):
        read_trajectories(steps, choice_spaces())
    found = read_trajectories([{"done": False, **step} for step in steps], choice_spaces())
    assert [len(one.rewards) for one in found] == [3, 3]


def test_what_can_be_read_is_read():
    log = of_six_steps()
    again = {n: np.concatenate((v, v)) for n, v in log.items()}
    again["truncated"] = np.arange(12) % 3 == 2  # numbers may come back where episodes end
    assert len(read_trajectories(again, choice_spaces())) == 4
    texts = {**log, "truncated": [*"001001"], "rewards": [*"012345"]}
    floats = {**log, "observations": torch.zeros(6, 2, dtype=torch.bfloat16), "episode": 7}
    assert [len(one.rewards) for one in read_trajectories(texts, choice_spaces())] == [3, 3]
    assert [len(one.rewards) for one in read_trajectories(floats, choice_spaces())] == [6]


TIMES = 0.02 * np.arange(6)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES, None),
        (1e9 + 0.02 * np.arange(7) + [0, 1e-3, 0, -1e-3, 0, 0, 0], None),
        (np.datetime64("2026-01-01") + (20 * np.arange(6)).astype("timedelta64[ms]"), None),
        (7.0, None),  # of the whole log
        (["a"] * 6, None),
        (0.05 * np.arange(6), "0.05 s apart, the steps of training 0.02 s"),
        (1000 * TIMES, "20 s apart"),
        (
            TIMES + np.array([0, 0, 0, 0.04, 0.04, 0.04]),
            "have 1 gaps of 5 in which steps are missing",
        ),
        (TIMES[::-1], "do not increase"),
        (TIMES * [1, 1, np.nan, 1, 1, 1], "do not increase"),
    ],
)
def test_times_are_compared_with_training(times, message):
    log = {n: v for n, v in of_six_steps().items() if n != "episode"}
    found = read_trajectories({**log, "timestamp": times}, choice_spaces())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_times(found, 0.02)
    texts = [str(one.message) for one in said]
    assert len(texts) == (message is not None) and all(message in text for text in texts)


def test_times_of_several_episodes_begin_again():
    log = {**of_six_steps(), "timestamp": [0.0, 0.1, 0.2, 0.0, 0.1, 0.3]}
    found = read_trajectories(log, choice_spaces())
    with pytest.warns(RuntimeWarning, match="have 1 gaps of 4"):
        warn_of_times(found, None)


@pytest.mark.parametrize(
    ("counter", "late"),
    [
        ({"frame_index": [0, 1, 2, 0, 1, 3]}, 1),
        ({"step": [7, 17, 47, 57, 67, 77]}, 1),
        ({"steps": [9, 8, 5, 9, 8, 7]}, 1),  # steps that are left
        ({"t": [0, 1, 2, 0, 1, 2]}, 0),
        ({"t": [0.3, 0.9, 0.2, 0.5, 0.4, 0.6]}, 0),  # something else, such as a torque
        ({"t": [0, 1, 5, 0, 1, 2], "timestamp": [0.0, 0.02, 0.04, 0.0, 0.02, 0.08]}, 1),  # once
    ],
)
def test_steps_that_a_counter_lacks_warn(counter, late):
    found = read_trajectories({**of_six_steps(), **counter}, choice_spaces())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_times(found, 0.02)
    texts = [str(one.message) for one in said]
    assert len(texts) == late
    assert all("have 1 gaps of 4 in which steps are missing" in text for text in texts)


def test_columns_are_read_by_their_places():
    log = of_six_steps()
    log["observations"] = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
    expected = read_trajectories(log, choice_spaces())
    lists = {n: v.tolist() for n, v in log.items()}
    frame = pandas.DataFrame(lists, index=[3, 0, 5, 1, 4, 2])
    table = pyarrow.table(lists)
    columns = {name: frame[name] for name in log}
    wide = {**columns, "observations": pandas.DataFrame(log["observations"], frame.index)}
    halves = [frame.iloc[:3], frame.iloc[3:]]
    for source in (columns, wide, {name: table[name] for name in log}, halves, [table]):
        found = read_trajectories(source, choice_spaces())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.observations, other.observations)
            assert one.actions == other.actions and one.rewards.tolist() == other.rewards.tolist()
    one_episode = {n: v for n, v in columns.items() if n != "episode"}
    (one,) = read_trajectories(one_episode, choice_spaces())
    np.testing.assert_array_equal(one.observations, log["observations"])


def test_files_of_an_episode_each_are_a_log(tmp_path):
    for number in range(2):
        part = {n: v[3 * number :][:3] for n, v in of_six_steps().items()}
        np.savez(tmp_path / f"{number}.npz", **part)
    found = read_trajectories(sorted(tmp_path.iterdir()), choice_spaces())
    assert [one.rewards.tolist() for one in found] == [[0, 1, 2], [3, 4, 5]]


def test_an_end_of_all_steps():
    log = {**of_six_steps(), "truncated": False}
    assert [one.ended for one in read_trajectories(log, choice_spaces())] == [False, False]
    with pytest.raises(DataError, match="a log of several episodes, 6, got 1"):
        read_trajectories({**log, "terminated": True}, choice_spaces())


def of_six_steps():
    return {
        "observations": np.zeros((6, 2)), "actions": np.array([0, 1, 0, 0, 1, 0]),
        "rewards": np.arange(6.0), "episode": np.array([0, 0, 0, 1, 1, 1]),
    }  # fmt: skip


def choice_spaces():
    return ControlSpaces(
        flat_observations(gymnasium.spaces.Box(-1, 1, (2,))),
        flat_actions(gymnasium.spaces.Discrete(2)),
    )


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 3, 1)])
@pytest.mark.parametrize("ends", [True, False])
def test_arrays_of_several_episodes_are_refused(shape, ends):
    """Of rewards [episodes, steps], the message was about the number of ends."""
    log = {
        "observations": np.zeros((*shape[:2], 2)),
        "actions": np.zeros(shape[:2], int),
        "rewards": np.zeros(shape),
    }
    log |= {"terminated": np.zeros(shape[:2], bool)} if ends else {}
    for form in (log, {name: list(value) for name, value in log.items()}, [log]):
        with pytest.raises(
            ShapeError, match=r"got [12] parts, the first .*a dict for each episode"
        ):
            read_trajectories(form, POINTS)
    unequal = {name: [value[0], value[0][:1]] for name, value in log.items()}
    with pytest.raises(ShapeError, match="make a list with a dict for each episode"):
        read_trajectories(unequal, POINTS)


def test_ends_of_listed_episodes_under_other_names_are_refused():
    """`is_terminal` was passed over: a termination counted as a time limit, in silence."""
    last = np.arange(4) == 3
    one = {"obs": np.ones((4, 2)), "action": np.zeros(4, int), "reward": np.arange(4.0)}
    for name in ("is_terminal", "end", "is_last"):
        with pytest.raises(DataError, match=f"a name that is known, it has {name}") as error:
            read_trajectories([one, {**one, name: last}], POINTS)
        assert ("Logs of RLDS have both" in str(error.value)) == name.startswith("is_")
    ended = {**one, "terminated": last, "truncated": ~last & False, "is_last": last}
    found = read_trajectories([ended, {**one, "is_first": last[::-1], "traj_id": [7] * 4}], POINTS)
    assert [t.terminated for t in found] == [True, False]
