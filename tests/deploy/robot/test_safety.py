"""Limits on actions, held actions, adaptations in the background, and roll-back."""

import threading

import numpy as np
import pytest
import torch
from gymnasium import spaces

import metarl
from metarl.deploy.robot.safety import ActionFilter, RollBack, Safety, permutation_test
from metarl.errors import MetarlError, SettingsError, ShapeError, SimulationError
from metarl.sim.spaces import action_reader, flat_actions
from tests.deploy.adapters.test_control_adapter import play, point

SPACE = spaces.Box(-1.0, 1.0, (2,), np.float32)
HALVES = spaces.Box(*np.array([[5, -np.inf, -np.inf, 1], [np.inf, -2, 2, 2]], np.float32))
PARTS = spaces.Tuple((spaces.Discrete(4), spaces.Box(2, 4, (1,)), spaces.MultiBinary(1)))
NAN = np.array([0.0, np.nan])


def test_actions_stay_in_their_bounds_and_change_slowly():
    bounds = {"low": [-0.5, -2], "high": 0.8}
    limit = ActionFilter(Safety(**bounds, max_change=0.25, safe_action=[-0.4, -0.8]), SPACE)
    np.testing.assert_allclose(limit(np.array([-9.0, -9.0])), [-0.5, -1.0])
    np.testing.assert_allclose(limit(np.array([9.0, -0.9])), [-0.25, -0.9])
    np.testing.assert_allclose(limit(np.array([9.0, 9.0])), [0.0, -0.65], atol=1e-6)
    limit.forget()
    np.testing.assert_allclose(ActionFilter(Safety(**bounds), SPACE)(np.full(2, 9.0)), [0.8, 0.8])


def test_the_first_action_of_an_episode_starts_from_the_safe_one():
    limit = ActionFilter(Safety(max_change=0.25, safe_action=[0.5, -0.5]), SPACE)
    for _ in range(2):
        np.testing.assert_allclose(limit(np.array([-9.0, -0.4])), [0.25, -0.4])
        limit.forget()
    middle = ActionFilter(Safety(low=0.2, high=[0.4, 0.8], max_change=0.1), SPACE)
    np.testing.assert_allclose(middle(np.array([9.0, -9.0])), [0.4, 0.4], atol=1e-6)


@pytest.mark.parametrize(
    ("safety", "space", "message"),
    [
        (Safety(low=2.0), SPACE, "low <= high"),
        (Safety(high=[1.0, 1.0, 1.0]), SPACE, "2 numbers"),
        (Safety(max_change=0.0), SPACE, "above 0"),
        (Safety(safe_action=[3.0, 0.0]), SPACE, "inside of the bounds"),
        (Safety(max_change=0.1), spaces.Discrete(3), "continuous actions only"),
        (Safety(safe_action=5), spaces.Discrete(3), "of 0 to 2, got 5"),
        (Safety(safe_action=2), spaces.Discrete(3, start=-1), "of -1 to 1, got 2"),
        (Safety(low="left"), SPACE, "`low` as a number or 2 numbers"),
    ],
)
def test_limits_that_do_not_suit_are_refused(safety, space, message):
    with pytest.raises(SettingsError, match=message):
        ActionFilter(safety, space)


@pytest.mark.parametrize(
    ("space", "rest"),
    [
        (HALVES, [5, -2, 0, 1.5]), (spaces.MultiDiscrete([4, 2], start=[3, 1]), [0, 0]),
        (PARTS, [0, 3, 0]),
    ],
)  # fmt: skip
def test_what_is_held_at_first_is_inside_of_the_bounds(space, rest):
    limit = ActionFilter(Safety(), flat_actions(space))
    with pytest.warns(RuntimeWarning, match="is held"):
        np.testing.assert_allclose(limit.hold(), rest)


def test_rounding_leads_beyond_no_limit():
    space = spaces.Dict(
        level=spaces.Box(-3, 7, (2,), np.int64), push=spaces.Box(-3, 7, (1,), np.float32)
    )
    limit = ActionFilter(Safety(low=-1.6, high=2.6), flat_actions(space))
    read = action_reader(space)
    for action, level, push in ((9.0, 2, 2.6), (-9.0, -1, -1.6)):
        given = read(limit(np.full(3, action, np.float32)))
        assert given["level"].tolist() == [level, level]
        np.testing.assert_allclose(given["push"], push, rtol=1e-6)
    with pytest.raises(SettingsError, match="low <= high"):
        ActionFilter(Safety(low=1.2, high=1.8), flat_actions(space))


def test_safe_actions_are_counted_as_the_environment_counts():
    with pytest.warns(RuntimeWarning, match="safe action -1 is held"):
        held = ActionFilter(
            Safety(safe_action=-1), flat_actions(spaces.Discrete(3, start=-1))
        ).hold()
    assert held == 0
    gears = spaces.MultiDiscrete([4, 2], start=[3, 1])
    limit = ActionFilter(Safety(safe_action=[5, 2], low=[4, 1]), flat_actions(gears))
    with pytest.warns(RuntimeWarning, match=r"safe action \[5. 2.\] is held"):
        assert limit.hold().tolist() == [2, 1]
    assert limit(np.zeros(2)).tolist() == [1, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Safety(hold="no"), lambda: RollBack("permutaton"), lambda: RollBack(None),
        lambda: RollBack(least=0), lambda: RollBack(least="5"),
        lambda: RollBack(lambda returns: False),
    ],
)  # fmt: skip
def test_settings_are_checked_before_a_robot_acts(make):
    with pytest.raises(MetarlError):
        make()


def test_actions_change_slowly_from_what_an_operator_did(point_run):
    adapter = metarl.load(point_run[1], explore=False, safety=Safety(max_change=0.01))
    adapter.act(np.zeros(2))
    adapter.observe(np.zeros(2), np.array([-0.09, 0.05]), 0.0, False, False)
    change = adapter.act(np.zeros(2)) - np.array([-0.09, 0.05])
    assert np.abs(change).max() <= 0.01 + 1e-6
    adapter.observe(np.zeros(2), np.array([-5.0, 0.05]), 0.0, False, False)  # beyond the bounds
    assert adapter.act(np.zeros(2))[0] == pytest.approx(-0.99, abs=1e-6)


def test_an_observation_that_is_not_finite_holds_the_last_safe_action(point_run):
    adapter = metarl.load(point_run[1])
    with pytest.warns(RuntimeWarning, match="the last safe action"):
        np.testing.assert_array_equal(adapter.act(NAN), [0.0, 0.0])  # the middle of the bounds
    adapter.observe(np.zeros(2), None, 0.0, False, False)
    last = adapter.act(np.zeros(2))
    adapter.observe(NAN, last, -1.0, False, False)
    with pytest.warns(RuntimeWarning, match="until they are"):
        np.testing.assert_array_equal(adapter.act(NAN), last)
    adapter.observe(NAN, None, -1.0, False, False)
    adapter.act(NAN)  # says so once
    adapter.observe(np.zeros(2), None, -1.0, False, True)
    assert adapter.held == 3
    (log,) = adapter._recorder.take()
    assert log.sampled == [False, True, False, False]
    assert np.isfinite(np.stack(log.observations)).all() and np.isfinite(log.final).all()
    adapter._recorder.give_back([log])
    with pytest.warns(RuntimeWarning, match="1 are adapted on"):
        assert np.isfinite(adapter.adapt().loss_before)


def test_an_action_that_is_not_finite_is_not_executed(point_run):
    adapter = metarl.load(point_run[1])
    broken = {n: torch.full_like(v, torch.nan) for n, v in adapter.state().items()}
    last = adapter.act(np.zeros(2))
    adapter.observe(np.zeros(2), None, 0.0, False, False)
    adapter._weights.install({n: v.unsqueeze(0) for n, v in broken.items()}, None)
    adapter._actor = adapter._make_actor()
    with pytest.warns(RuntimeWarning, match="action of the policy is not finite"):
        np.testing.assert_array_equal(adapter.act(np.zeros(2)), last)
    adapter.observe(np.zeros(2), None, 0.0, False, False)
    (log,) = adapter._recorder.take()
    assert log.sampled == [True, False] and adapter.held == 1


def test_choices_among_numbers_have_no_rate():
    both = spaces.Dict({"gear": spaces.Discrete(4), "force": spaces.Box(-1, 1, (1,))})
    limit = ActionFilter(Safety(max_change=0.5), flat_actions(both))
    first, second = (limit(np.array(row, np.float32)) for row in ([1.0, 0.0], [-1.0, 3.0]))
    np.testing.assert_allclose(second - first, [-0.5, 3.0])


def test_it_can_stop_in_place_of_holding(point_run):
    with pytest.raises(SimulationError, match="not finite"):
        metarl.load(point_run[1], safety=Safety(hold=False)).act(NAN)


def test_large_finite_observations_are_no_reason_to_hold(point_run):
    adapter = metarl.load(point_run[1])
    adapter.act(np.array([1e25, 0.0]))
    assert adapter.held == 0


def test_limits_count_as_a_part_of_the_environment(point_run):
    adapter = metarl.load(point_run[1], safety=Safety(max_change=0.01))
    play(adapter, point(), 2)
    logs = adapter._recorder.take()
    assert all(all(log.sampled) for log in logs)
    assert np.ptp(np.stack(logs[0].actions), 0).max() > 0.1  # what the policy chose


def waiting_adaptation(learner, monkeypatch):
    """Lets adaptations wait for the event that it returns."""
    go, adapt_on = threading.Event(), learner.adapt_on

    def slow(*arguments):
        assert go.wait(20)
        yield from adapt_on(*arguments)

    monkeypatch.setattr(learner, "adapt_on", slow)
    return go


def test_the_old_policy_acts_while_the_new_one_is_computed(point_run, monkeypatch):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 3)
    go = waiting_adaptation(adapter.learner, monkeypatch)
    future = adapter.adapt(background=True)
    play(adapter, point(), 1)
    assert adapter.version == 0 and not future.done()
    with pytest.raises(SettingsError, match="one adaptation at a time"):
        adapter.adapt(background=True)
    go.set()
    assert future.result(20).episodes == 3
    assert adapter.version == 0
    adapter.act(np.zeros(2))
    assert adapter.version == 1
    play(adapter, point(), 2)
    assert set(adapter._weights.versions) == {0, 1}
    assert adapter.adapt().episodes == 3 and adapter.version == 2


def test_what_is_computed_while_a_policy_is_measured_waits(point_run, monkeypatch):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 3)
    go = waiting_adaptation(adapter.learner, monkeypatch)
    future = adapter.adapt(background=True)
    env = point()
    reset = env.reset

    def ready_in_the_middle(**options):
        go.set()
        future.result(20)
        return reset(**options)

    monkeypatch.setattr(env, "reset", ready_in_the_middle)
    adapter.evaluate(env, 2, seed=0)
    assert adapter.version == 0
    adapter.act(np.zeros(2))
    assert adapter.version == 1
    play(adapter, point(), 2)
    adapter.adapt(background=True).result(20)
    adapter.evaluate(point(), 1)  # what is ready before is what is measured
    assert adapter.version == 2


@pytest.mark.parametrize("back", [lambda a, s: a.reset(), lambda a, s: a.load_state(s)])
def test_what_is_still_computed_is_given_up_by_a_reset(back, point_run, monkeypatch):
    adapter = metarl.load(point_run[1])
    start = adapter.state()
    play(adapter, point(), 3)
    go = waiting_adaptation(adapter.learner, monkeypatch)
    future = adapter.adapt(background=True)
    back(adapter, start)
    version = adapter.version
    go.set()
    future.result(20)
    adapter.act(np.zeros(2))
    assert adapter.version == version
    assert all(torch.equal(value, start[name]) for name, value in adapter.state().items())
    play(adapter, point(), 2)
    adapter.adapt(background=True).result(20)
    adapter.act(np.zeros(2))
    assert adapter.version == version + 1


def test_what_was_refused_in_the_background_is_not_lost(point_run, monkeypatch):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 1)
    future = adapter.adapt(background=True)
    future.result(20)
    assert adapter.version == 0 and adapter._weights.ready is not None


def test_an_adapted_policy_that_does_worse_is_given_up(point_run):
    adapter = metarl.load(point_run[1], rollback=RollBack("mean", least=2))
    adapter.run(point(), 3, 3, seed=0)
    assert adapter.version == 1
    for value in (-100.0, -100.0):
        adapter.act(np.zeros(2))
        adapter.observe(np.zeros(2), None, value, True, False)
    assert adapter.version == 0 and "Rolled back after 20 steps" in adapter.events[0]
    start = metarl.load(point_run[1], explore=False)
    np.testing.assert_array_equal(
        adapter.act(np.ones(2), explore=False), start.act(np.ones(2), explore=False)
    )


def test_a_run_continues_after_a_roll_back(point_run):
    rollback = RollBack(lambda start, adapted: True, least=1)
    adapter = metarl.load(point_run[1], rollback=rollback)
    curve = adapter.run(point(), 6, 1, seed=0)
    # Each adapted policy is given up after its first episode, of which nothing is left.
    assert curve.versions == [1, 0, 2, 0, 3, 0] and curve.adapted_after == [1, 3, 5]
    assert len(curve.returns) == 6 and len(curve.events) == 3
    adapter = metarl.load(point_run[1], rollback=rollback)
    assert adapter.run(point(), 6, 2, seed=0).adapted_after == [2, 5]


def test_returns_of_most_likely_actions_are_no_match_for_sampled_ones(point_run):
    compared = []

    def worse(start, adapted):
        compared.append((len(start), len(adapted)))
        return False

    adapter = metarl.load(point_run[1], rollback=RollBack(worse, least=1))
    adapter.evaluate(point(), 4, explore=False, seed=0)
    play(adapter, point(), 3)
    adapter.adapt()
    play(adapter, point(), 1)
    adapter.evaluate(point(), 2, explore=False, seed=0)
    assert compared == [(3, 1), (4, 1), (4, 2)]


def test_a_better_one_stays(point_run):
    adapter = metarl.load(point_run[1], rollback=RollBack("permutation", least=3))
    adapter.run(point(), 3, 3, seed=0)
    for _ in range(5):
        adapter.act(np.zeros(2))
        adapter.observe(np.zeros(2), None, 0.0, True, False)
    assert adapter.version == 1 and not adapter.events


def test_the_permutation_test_is_one_sided_and_of_its_level():
    rng = np.random.default_rng(1)
    same = [permutation_test(rng.normal(size=8), rng.normal(size=8)) for _ in range(200)]
    worse = [permutation_test(rng.normal(size=8), rng.normal(-3, size=8)) for _ in range(20)]
    better = [permutation_test(rng.normal(size=8), rng.normal(3, size=8)) for _ in range(20)]
    assert np.mean(same) < 0.11 and all(worse) and not any(better)


def test_a_test_of_the_user_decides(point_run):
    seen = []
    rollback = RollBack(lambda start, adapted: seen.append((start, adapted)) or False, least=1)
    metarl.load(point_run[1], rollback=rollback).run(point(), 4, 3, seed=0)
    assert [(len(a), len(b)) for a, b in seen] == [(3, 1)]


def test_observations_that_a_mask_leaves_out_are_not_finite(point_run):
    adapter = metarl.load(point_run[1], explore=False)
    seen = np.ma.array([0.1, -0.2], mask=[False, False])
    assert adapter.act(seen).tolist() == adapter.act(np.array([0.1, -0.2])).tolist()
    with pytest.warns(RuntimeWarning, match="not finite"):
        adapter.act(np.ma.array([0.1, -0.2], mask=[True, False]))


@pytest.mark.parametrize("wrong", [np.array([1j, 0]), np.array(["a", "b"]), [[0.1, 0.2]]])
def test_observations_that_are_no_real_numbers_are_refused(point_run, wrong):
    adapter = metarl.load(point_run[1])
    with pytest.raises(ShapeError, match="Expected an observation of"):
        adapter.act(wrong)
    adapter.act(torch.zeros(2, requires_grad=True))
    adapter.act(np.array([0.1, 0.2], object))


def test_what_fails_in_the_background_is_an_event(point_run, monkeypatch):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 1)

    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(adapter._weights, "compute", fail)
    with pytest.raises(RuntimeError):
        adapter.adapt(background=True).result(20)
    assert adapter.events == ["An adaptation in the background failed: no memory left"]
