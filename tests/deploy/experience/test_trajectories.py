"""Logged trajectories: from arrays, data sets and files; importance weights and their limits."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit

import metarl
from metarl.deploy.loading import adapter_of
from metarl.errors import DataError, SettingsError, ShapeError
from metarl.sim.single_env import SingleEnv
from tests.deploy.adapters.test_control_adapter import play, point
from tests.deploy.conftest import make_policy_learner


def logged(adapter, episodes=6, seed=0):
    """Episodes of an adapter as arrays, with the densities of its actions."""
    play(adapter, point(), episodes, seed)
    found = []
    for log in adapter._recorder.take():
        observations = np.stack([*log.observations, log.final])
        actions = np.stack(log.actions)
        params = {n: p for n, p in adapter.params.items()}
        policy = adapter.learner.policy.distribution(
            params, torch.from_numpy(observations[None, None, :-1])
        )
        log_probs = policy.log_prob(torch.from_numpy(actions[None, None])).detach()
        found.append(
            {
                "observations": observations,
                "actions": actions,
                "rewards": np.array(log.rewards),
                "truncated": np.arange(6) == 5,
                "log_probs": log_probs[0, 0].numpy(),
            }
        )
    return found


def joined(episodes):
    """Episodes one after another, as data sets have them, with an episode number."""
    rows = [{**e, "observations": e["observations"][:-1]} for e in episodes]
    flat = {n: np.concatenate([e[n] for e in rows]) for n in rows[0]}
    return {**flat, "episode": np.repeat(np.arange(len(rows)), 6)}


@pytest.fixture
def episodes(point_run):
    return logged(metarl.load(point_run[1]))


def adapted(run, data, **options):
    adapter = metarl.load(run[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(.*)at the bounds of the action space")
        report = adapter.adapt(data, **options)
    return adapter.state(), report


def test_own_logs_adapt_as_the_robot_itself_would(point_run, episodes):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 6)
    adapter.adapt()
    expected = adapter.state()
    for options in ({}, {"behaviour": "start"}, {"behaviour": "adapted"}):
        state, report = adapted(point_run, episodes, **options)
        assert report.effective == pytest.approx(36, rel=1e-4)
        assert (report.episodes, report.examples) == (6, 36)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


def test_all_kinds_of_logs_are_the_same(point_run, episodes, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    from pyarrow import parquet

    expected, _ = adapted(point_run, episodes)
    flat = joined(episodes)
    columns = {n: v for n, v in flat.items() if v.ndim == 1}
    columns |= {f"action_{i}": flat["actions"][:, i] for i in range(2)}
    columns |= {f"observation_{i}": flat["observations"][:, i] for i in range(2)}
    table = pyarrow.table(columns)
    parquet.write_table(table, tmp_path / "log.parquet")
    pandas.DataFrame(columns).to_csv(tmp_path / "log.csv")
    lists = {n: list(v) if v.ndim == 2 else v for n, v in flat.items()}
    parquet.write_table(pyarrow.table(lists), tmp_path / "lists.parquet")
    minari = SimpleNamespace(
        iterate_episodes=lambda: iter(
            SimpleNamespace(
                observations=e["observations"],
                actions=e["actions"],
                rewards=e["rewards"],
                terminations=np.zeros(6, bool),
                truncations=e["truncated"],
                log_probs=e["log_probs"],
            )
            for e in episodes
        )
    )
    kinds = [
        [SimpleNamespace(**e) for e in episodes], flat, minari, table, pandas.DataFrame(columns),
        tmp_path / "log.parquet", str(tmp_path / "lists.parquet"), tmp_path / "log.csv",
        {n: torch.as_tensor(v) for n, v in flat.items()},
    ]  # fmt: skip
    for kind in kinds:
        state, _ = adapted(point_run, kind)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_one_episode_is_enough_for_own_logs(point_run, episodes):
    _, report = adapted(point_run, episodes[0], behaviour="start")
    assert (report.episodes, report.effective) == (1, 6.0)


def test_logs_of_others_are_weighed(point_run, episodes):
    other = [{**e, "log_probs": e["log_probs"] + 0.3 * i} for i, e in enumerate(episodes)]
    _, report = adapted(point_run, other)
    # w_i = exp(-6 * 0.3 i) for episode i of 6 steps
    weights = np.exp(-1.8 * np.arange(6))
    share = weights.sum() ** 2 / (weights**2).sum() / 6
    assert report.effective == pytest.approx(36 * share, rel=1e-3)
    _, report = adapted(point_run, other, correction="step")
    steps = np.exp(-0.3 * np.arange(6))
    share = steps.sum() ** 2 / (steps**2).sum() / 6
    assert report.effective == pytest.approx(36 * share, rel=1e-3)


def test_an_effective_sample_that_is_too_small_is_refused(point_run, episodes):
    other = [{**e, "log_probs": e["log_probs"] - 9.0 * (np.arange(6) == 0)} for e in episodes[:1]]
    other += episodes[1:]
    with pytest.raises(SettingsError, match=r"6 episodes of 36 steps are worth 1\.\d steps"):
        adapted(point_run, other)
    adapted(point_run, other, least_effective=0.0)


def test_who_acted_must_be_known(point_run, episodes):
    unknown = [{n: v for n, v in e.items() if n != "log_probs"} for e in episodes]
    with pytest.raises(SettingsError, match='behaviour="start"'):
        adapted(point_run, unknown)
    with pytest.raises(SettingsError, match="Did you mean 'start'"):
        adapted(point_run, unknown, behaviour="star")
    with pytest.raises(SettingsError, match="Expected trajectories for the options behaviour"):
        metarl.load(point_run[1]).adapt(behaviour="start")


def test_densities_of_another_policy_than_the_one_that_is_said_to_have_acted_warn(
    point_run, episodes
):
    adapted(point_run, episodes, behaviour="start")  # its own densities: without a warning
    others = [{**e, "log_probs": e["log_probs"] - 0.5} for e in episodes]
    with pytest.warns(RuntimeWarning, match="differ by 0.5 .* leave out `behaviour`"):
        adapted(point_run, others, behaviour="start")


def test_rewards_that_say_nothing_warn(point_run, episodes):
    alike = [{**e, "rewards": np.ones(6)} for e in episodes]
    with pytest.warns(RuntimeWarning, match="nothing says which actions were better"):
        adapted(point_run, alike, behaviour="start")
    alike[0] = {n: v[:4] if n != "observations" else v[:5] for n, v in alike[0].items()}
    adapted(point_run, alike, behaviour="start")  # longer episodes are better


def test_clipped_actions_warn(point_run, episodes):
    clipped = [{**e, "actions": e["actions"].clip(-1, 1)} for e in episodes]
    with pytest.warns(RuntimeWarning, match="at the bounds of the action space"):
        metarl.load(point_run[1]).adapt(clipped, behaviour="start")


def test_actions_beyond_the_bounds_are_not_clipped_ones(point_run, episodes):
    wide = [{**e, "actions": e["actions"].clip(-1, 1) * 1.01} for e in episodes]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = metarl.load(point_run[1]).adapt(wide, behaviour="start")
    assert report.episodes == len(wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, _: 0.1 * a, "they are no samples"),
        (lambda a, _: 0 * a, "a policy gradient learns nothing"),
        (lambda a, _: 10 * a, "or actions or observations have other units"),
        (lambda a, rng: 3 * rng.normal(size=a.shape), "somebody else acted"),
        (lambda a, _: a, None),
        (lambda a, _: a.clip(-1, 1), None),
    ],
)
def test_actions_that_are_no_samples_warn(change, message, point_run):
    rng, adapter = np.random.default_rng(0), metarl.load(point_run[1])
    episodes = logged(adapter, 20)
    changed = [{**e, "actions": change(e["actions"], rng)} for e in episodes]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metarl.load(point_run[1]).adapt(changed, behaviour="start")
    found = [str(one.message) for one in said if "mean log-density" in str(one.message)]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_choices_that_are_no_samples_warn(tmp_path):
    learner = make_policy_learner(Bandit())
    adapter = adapter_of(learner)
    with torch.no_grad():
        adapter.params["network.layers.1.bias"][0, 0] += 4.0  # one arm in nine of ten cases
    play(adapter, SingleEnv(learner.family), 10)
    own = adapter._recorder.take()
    log = [{"observations": np.stack(e.observations), "rewards": e.rewards} for e in own]
    for actions, count in (([e.actions for e in own], 0), ([[1] * len(e) for e in own], 1)):
        data = [{**e, "actions": a} for e, a in zip(log, actions, strict=True)]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapter.adapt(data, behaviour="adapted")
        assert sum("mean log-density" in str(one.message) for one in said) == count


def test_options_that_are_none_are_refused(point_run, memory_run, episodes):
    for run in (point_run, memory_run):
        with pytest.raises(SettingsError, match=r"'behavior'. Did you mean 'behaviour'"):
            metarl.load(run[1]).adapt(episodes, behavior="start")


def test_a_memory_reads_the_log(memory_run, episodes):
    adapter = metarl.load(memory_run[1], explore=False)
    first = adapter.act(np.ones(2))
    report = adapter.adapt(episodes)
    assert (report.steps, report.examples) == (0, 36)
    assert not np.array_equal(adapter.act(np.ones(2)), first)


def test_a_memory_is_told_that_an_episode_ended_where_another_one_begins(memory_run, episodes):
    log, found = joined(episodes), []
    for ends in (np.arange(36) % 6 == 5) & (np.arange(36) < 35), np.zeros(36, bool):
        adapter = metarl.load(memory_run[1], explore=False)
        adapter.adapt({**log, "truncated": ends})
        found.append(adapter.act(np.ones(2)))
    np.testing.assert_array_equal(*found)


BROKEN = [
    ({"rewards": None}, DataError, "rewards in episode 0"),
    ({"observations": np.zeros((4, 2))}, ShapeError, "6 or 7 observations"),
    ({"observations": np.zeros((7, 3))}, ShapeError, "as in training"),
    ({"observations": np.full((7, 2), np.nan)}, ShapeError, "finite observations"),
    ({"actions": np.zeros((6, 3))}, ShapeError, "2 numbers"),
    ({"actions": np.zeros((5, 2))}, ShapeError, "Expected 6 actions"),
    ({"actions": np.full((6, 2), np.inf)}, ShapeError, "finite actions"),
    ({"rewards": np.full(6, np.nan)}, ShapeError, "finite rewards"),
    ({"log_probs": np.zeros(3)}, ShapeError, "6 finite log_probs"),
    ({"truncated": np.zeros(3)}, DataError, "as many ends"),
]


@pytest.mark.parametrize(("change", "error", "message"), BROKEN)
def test_broken_logs_are_refused(change, error, message, point_run, episodes):
    with pytest.raises(error, match=message):
        adapted(point_run, [{**episodes[0], **change}])


@pytest.mark.parametrize("source", [7, None.__class__, [], {}, "no.parquet", [{}]])
def test_what_is_no_log_is_refused(source, point_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError):
        metarl.load(point_run[1]).adapt(source)


def test_a_damaged_file_is_refused(point_run, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "log.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="Cannot read "):
        metarl.load(point_run[1]).adapt(tmp_path / "log.parquet")


def test_names_that_a_log_has_in_place_of_the_known_ones_are_in_the_error(point_run, episodes):
    flat = joined(episodes)
    flat["joint_positions"] = flat.pop("observations")
    with pytest.raises(
        DataError, match=r"as observation\.NAME\. It has actions, .*joint_positions"
    ):
        metarl.load(point_run[1]).adapt(flat)


def test_logs_in_other_units_warn(point_run, episodes):
    degrees = [{**e, "observations": 57.3 * e["observations"]} for e in episodes]
    with pytest.warns(RuntimeWarning) as said:
        metarl.load(point_run[1]).adapt(degrees, behaviour="start")
    assert any("observations of the log do not fit" in str(one.message) for one in said)


def test_transitions_one_by_one_are_a_log(point_run, episodes):
    flat = joined(episodes)
    names = {"observations": "obs", "actions": "action", "rewards": "reward"}
    names |= {"truncated": "done", "log_probs": "log_prob"}
    steps = [{new: flat[old][t] for old, new in names.items()} for t in range(36)]
    state, report = adapted(point_run, steps)
    expected, _ = adapted(point_run, flat)
    assert report.episodes == 6
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_episodes_longer_than_in_training_warn(point_run, episodes):
    log = {n: v for n, v in joined(episodes).items() if n not in ("episode", "truncated")}
    with pytest.warns(RuntimeWarning, match="has 36 steps, those of training had at most 6"):
        adapted(point_run, log)


def test_a_log_at_another_rate_warns(episodes, point_run):
    late = [{**e, "timestamp": np.arange(6) + 9 * (np.arange(6) > 3)} for e in episodes]
    with pytest.warns(RuntimeWarning, match="steps are missing"):
        metarl.load(point_run[1]).adapt(late, behaviour="start")
