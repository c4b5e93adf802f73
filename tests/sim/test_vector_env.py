"""The vector environment of tensors: gymnasium's interface, resets, tasks, randomness, state."""

import copy
import io

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.sim import ControlTasks, TorchVectorEnv, WorldNoise, make_vec
from metarl.trees import take_tasks
from tests.sim.families import Drift

WORLDS = 5


def make(autoreset="same_step", worlds=WORLDS, **settings):
    return TorchVectorEnv(Drift(), worlds, autoreset=autoreset, **settings)


def actions(steps, worlds=WORLDS, seed=0, size=1.0):
    return size * torch.randn(steps, worlds, 1, generator=torch.Generator().manual_seed(seed))


def play(env, moves):
    """All that some steps give, stacked, [S, W, *]."""
    steps = [env.step(a) for a in moves]
    info = {n: torch.stack([s[4][n] for s in steps]) for n in steps[0][4]}
    return [torch.stack(values) for values in zip(*(s[:4] for s in steps), strict=True)], info


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for a, b in pairs) and bool(pairs)


def test_it_is_a_vector_environment_of_gymnasium():
    env = make()
    assert isinstance(env, VectorEnv)
    assert env.num_envs == WORLDS
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert make("disabled").metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.single_observation_space.shape == (2,)
    assert env.observation_space.shape == (WORLDS, 2)
    assert env.action_space.shape == (WORLDS, 1)
    observation, info = env.reset(seed=3)
    assert info == {}
    assert env.np_random_seed == 3
    assert env.observation_space.contains(observation.numpy())
    env.action_space.seed(0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation.numpy())
    assert [t.dtype for t in (reward, terminated, truncated)] == [
        torch.float32, torch.bool, torch.bool,
    ]  # fmt: skip
    assert {t.shape for t in (reward, terminated, truncated)} == {(WORLDS,)}
    env.close()
    assert env.closed


def test_the_same_seed_gives_the_same_episodes_and_another_one_others():
    moves = actions(10)
    runs = []
    for seed in (1, 1, 2):
        env = make()
        runs.append((env.reset(seed=seed)[0], *play(env, moves)[0]))
    assert same(runs[0], runs[1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_same_step_starts_worlds_again_within_the_step():
    env = make(seed=1)
    env.reset()
    (seen, _, terminated, truncated), info = play(env, actions(40))
    done = terminated | truncated
    assert terminated.any() and truncated.any() and not done.all()
    assert torch.equal(info["_final_obs"], done)
    # final_obs counts on to the step that ended the episode, what is seen after it starts at 0.
    assert (seen[..., 1][done] == 0).all()
    assert (info["final_obs"][..., 1][done] > 0).all()
    assert torch.equal(seen[~done], info["final_obs"][~done])
    assert (seen[..., 0][done].abs() <= 0.5).all()
    assert torch.equal(info["final_obs"][..., 0].abs() > 1, terminated)
    assert torch.equal(info["final_obs"][..., 1] == 6, truncated)


def test_disabled_goes_on_past_the_end_until_it_is_told():
    env = make("disabled")
    env.reset()
    (seen, rewards, terminated, truncated), info = play(env, torch.ones(8, WORLDS, 1))
    assert torch.equal(seen, info["final_obs"])
    assert "_final_obs" not in info
    assert torch.equal(truncated, torch.tensor([False] * 5 + [True] * 3).expand(WORLDS, 8).T)
    # Each world moves and earns until it terminates; from then on it stays as it ended.
    ends = terminated.int().argmax(0)
    over = torch.arange(8).unsqueeze(1) > ends
    assert 0 < ends.max() < 7
    assert torch.equal(terminated, torch.arange(8).unsqueeze(1) >= ends)
    assert torch.equal(seen[..., 1], torch.arange(1.0, 9.0).unsqueeze(1).minimum(ends + 1.0))
    assert torch.equal(rewards > 0, ~over)


class Spent(Drift):
    """Gives what is not a number in every step after its end."""

    def step(self, state, actions, tasks, noise):
        after = super().step(state, actions, tasks, noise)
        ended = self.terminated(state, tasks)
        return {**after, "place": after["place"].masked_fill(ended, torch.nan)}

    def terminated(self, state, tasks):
        return ~(state["place"].abs() <= 1)


def test_what_a_family_gives_after_its_own_end_is_left_out():
    env = TorchVectorEnv(Spent(), WORLDS, autoreset="disabled")
    env.reset()
    (seen, rewards, terminated, _), _ = play(env, torch.ones(8, WORLDS, 1))
    assert terminated[-1].all() and seen.isfinite().all() and rewards.isfinite().all()
    env.reset(options={"reset_mask": torch.arange(WORLDS) == 2})
    env.check()


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_reset_mask_starts_only_the_worlds_that_it_marks(kind):
    env = make("disabled")
    env.reset()
    before = play(env, actions(4))[0][0][-1]
    mask = kind([True, False, True, False, False])
    seen, _ = env.reset(options={"reset_mask": mask})
    marked = torch.as_tensor(mask)
    assert torch.equal(seen[~marked], before[~marked])
    assert (seen[marked, 1] == 0).all()
    truncated = play(env, actions(3))[0][3]
    assert torch.equal(truncated[1], ~marked)  # the others reach their sixth step first
    assert not truncated[0].any()


def test_tasks_are_set_at_once_survive_resets_and_are_copies():
    env = make()
    env.reset()
    speed = torch.arange(5.0) / 10
    env.set_tasks({"speed": speed})
    env.reset(seed=0)
    play(env, actions(20))
    assert torch.equal(env.get_tasks()["speed"], speed)
    env.get_tasks()["speed"].zero_()
    speed.zero_()
    assert torch.equal(env.get_tasks()["speed"], torch.arange(5.0) / 10)

    env = make("disabled")
    env.reset(seed=0)
    slow, quick = copy.deepcopy(env), copy.deepcopy(env)
    slow.set_tasks({"speed": torch.zeros(5)})
    quick.set_tasks({"speed": torch.full((5,), 0.25)})
    gap = quick.step(actions(1)[0])[1] - slow.step(actions(1)[0])[1]
    torch.testing.assert_close(gap, torch.full((5,), 0.25))


def test_every_world_has_a_task_of_its_own_from_the_start():
    assert len(make().get_tasks()["speed"].unique()) == WORLDS


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"speed": torch.zeros(3)}, r"'speed' of shape \(5,\).*got \(3,\).*repeat_interleave"),
        ({"spede": torch.zeros(5)}, r"named \['speed'\], got \['spede'\]"),
        ({}, r"got \[\]"),
        ({"speed": [0.0] * 5}, "a tensor as the task value 'speed', got a list"),
        ({"speed": torch.full((5,), 1j)}, "real numbers as the task value 'speed'"),
        (ControlTasks({"speed": torch.zeros(5)}), "as a dict, .* ControlTasks; pass its `values`"),
        (torch.zeros(5), "as a dict, .* got a Tensor"),
    ],
)
def test_tasks_of_another_shape_are_refused(tasks, message):
    env = make()
    before = env.get_tasks()
    with pytest.raises(ShapeError, match=message):
        env.set_tasks(tasks)
    assert torch.equal(env.get_tasks()["speed"], before["speed"])


def draw_noise(worlds=WORLDS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    family = Drift()
    return WorldNoise(
        torch.rand(worlds, family.reset_noise, generator=generator),
        torch.rand(worlds, family.horizon, family.step_noise, generator=generator),
    )


def follow(noise, tasks, moves, autoreset="disabled"):
    env = make(autoreset, len(noise.reset), seed=len(noise.reset))
    env.set_tasks(tasks)
    env.follow(noise)
    return env.reset()[0], *play(env, moves)[0]


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_prepared_numbers_give_a_world_the_same_episode_beside_any_others(autoreset):
    noise, moves = draw_noise(), actions(9)  # past the horizon
    tasks = make().get_tasks()
    seen, *steps = follow(noise, tasks, moves, autoreset)
    for low, high in ((0, 1), (1, 3), (3, 5)):
        part = follow(
            take_tasks(noise, low, high),
            take_tasks(tasks, low, high),
            moves[:, low:high],
            autoreset,
        )
        assert torch.equal(part[0], seen[low:high])
        assert same(part[1:], [s[:, low:high] for s in steps])


def test_prepared_numbers_are_those_of_the_worlds_own_step():
    noise, tasks, still = draw_noise(), {"speed": torch.zeros(5)}, torch.zeros(6, 5, 1)
    seen, _, rewards, _, _ = follow(noise, tasks, still)
    torch.testing.assert_close(seen[:, 0], noise.reset[:, 0] - 0.5)
    torch.testing.assert_close(rewards, 0.1 * noise.step.sum(2).T, rtol=0, atol=1e-6)
    # A world that starts later uses its first numbers then.
    env = make("disabled")
    env.set_tasks(tasks)
    env.follow(noise)
    env.reset()
    play(env, still[:2])
    late = torch.tensor([False, True, False, False, False])
    env.reset(options={"reset_mask": late})
    reward = env.step(still[0])[1]
    expected = torch.where(late, noise.step[:, 0].sum(1), noise.step[:, 2].sum(1))
    torch.testing.assert_close(reward, 0.1 * expected, rtol=0, atol=1e-6)


def test_without_prepared_numbers_randomness_is_the_generators_again():
    env, twin = make(seed=4), make(seed=4)
    env.follow(draw_noise())
    env.reset()
    env.follow(None)
    assert torch.equal(env.reset(seed=9)[0], twin.reset(seed=9)[0])


def test_too_few_prepared_numbers_are_refused():
    noise = draw_noise()
    with pytest.raises(ShapeError, match=r"\(5, 6, 2\) for steps, got \(5, 1\) and \(5, 5, 2\)"):
        make().follow(WorldNoise(noise.reset, noise.step[:, :5]))


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_a_saved_state_goes_on_to_the_bit(autoreset, prepared):
    env = make(autoreset)
    env.follow(draw_noise() if prepared else None)
    env.reset()
    play(env, actions(3))
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    expected = play(env, actions(10, seed=1))[0]
    file.seek(0)
    other = make(autoreset, seed=7)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same(play(other, actions(10, seed=1))[0], expected)


def test_a_saved_state_is_a_copy():
    env = make()
    env.reset()
    saved = env.state_dict()
    first = play(env, actions(10))[0]
    env.load_state_dict(saved)
    assert same(play(env, actions(10))[0], first)
    env.load_state_dict(saved)
    assert same(play(env, actions(10))[0], first)


def test_a_state_of_another_number_of_worlds_is_refused():
    with pytest.raises(ShapeError, match="5 worlds"):
        make().load_state_dict(make(worlds=3).state_dict())


def test_an_oracle_is_told_the_task_at_each_step():
    env = make(observe_task=True)
    assert env.single_observation_space.shape == (3,)
    speed = torch.arange(5.0) / 10
    env.set_tasks({"speed": speed})
    seen, _ = env.reset()
    assert torch.equal(seen[:, 2], speed)
    (seen, *_), info = play(env, actions(20))
    assert torch.equal(seen[..., 2], speed.expand(20, 5))
    assert torch.equal(info["final_obs"][..., 2], speed.expand(20, 5))


def test_actions_that_ask_for_gradients_leave_no_graph_behind():
    env = make()
    env.reset()
    seen, reward, *_ = env.step(actions(1)[0].requires_grad_())
    assert not seen.requires_grad and not reward.requires_grad


def test_indices_of_actions_may_be_numbers_of_any_type_but_no_fractions():
    found = []
    for given in (torch.tensor([1, 0]), np.array([1.0, 0.0]), [1, 0], [True, False]):
        env = make_vec("CartPole-v1", 2, device="cpu")
        env.reset(seed=0)
        found.append(env.step(given)[0])
    assert all(torch.equal(found[0], other) for other in found)
    for fractions in (torch.tensor([0.9, 0.0]), np.array([np.nan, 1.0])):
        with pytest.raises(
            ShapeError, match=r"indices of actions, whole numbers, got \[(0\.[89]|nan)"
        ):
            env.step(fractions)


@pytest.mark.parametrize("wrong", [None, "left", [[0.0], [0.0, 1.0]], [None] * WORLDS])
def test_actions_that_are_no_numbers_are_refused(wrong):
    env = make()
    env.reset()
    with pytest.raises(ShapeError, match="Expected actions of numbers, one row for each world"):
        env.step(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "`num_envs` of at least 1, got 0"),
        ({"num_envs": 4 / 2}, "an integer `num_envs` of at least 1, got 2.0"),
        ({"autoreset": "next"}, "Unknown autoreset 'next'.*'next_step'"),
        ({"family": Drift(horizon=0)}, "horizon of whole steps, at least 1, got 0 of Drift-v1"),
        ({"family": Drift(horizon=9.0)}, "at least 1, got 9.0 of Drift-v1"),  # pyright: ignore
        ({"family": "Drift-v1"}, "Expected a TorchFamily, got str"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        TorchVectorEnv(**{"family": Drift(), "num_envs": 2, **settings})


def test_bad_calls():
    env = make("disabled")
    with pytest.raises(SimulationError, match="call `reset` before"):
        env.step(actions(1)[0])
    with pytest.raises(SettingsError, match="first reset must be of all"):
        env.reset(options={"reset_mask": torch.ones(5, dtype=torch.bool)})
    env.reset()
    with pytest.raises(ShapeError, match=r"shape \(5, 1\), got \(4, 1\)"):
        env.step(actions(1)[0, :4])
    with pytest.raises(ShapeError, match=r"\[5\] bool, got \[4\] torch.bool"):
        env.reset(options={"reset_mask": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ShapeError, match=r"\[5\] bool, got \[5\] torch.float32"):
        env.reset(options={"reset_mask": torch.ones(5)})
    with pytest.raises(SettingsError, match=r"Did you mean 'reset_mask'"):
        env.reset(options={"mask": torch.ones(5, dtype=torch.bool)})
