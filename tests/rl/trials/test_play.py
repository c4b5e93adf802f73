"""Trials: what a agent is told, what it remembers, and how early ends are dealt with."""

import pytest
import torch
from metarl_envs import Bandit, TabularMDP

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.rl.trials.play import AgentStep, draw_trial_noise, play
from metarl.sim import TorchVectorEnv
from metarl.trees import take_tasks
from tests.sim.families import Drift

T, N, E = 3, 2, 4


class Witness:
    """Acts by chance, counts its steps, and keeps all that it is told."""

    def __init__(self, actions=0):
        self.actions = actions
        self.began = 0

    def noise(self, shape, generator):
        return torch.rand(*shape, generator=generator)

    def begin(self, tasks):
        self.began += 1
        return torch.zeros(len(next(iter(tasks.values()))))

    def act(self, state, agent_input, noise):
        action = (noise * self.actions).long() if self.actions else 4 * noise.unsqueeze(1) - 2
        return AgentStep(action, state + 1, (state, agent_input))


def played(family, actions=0, seed=0, episodes=E, **options):
    generator = torch.Generator().manual_seed(seed)
    agent = Witness(actions)
    tasks = family.sample(T, generator).values
    noise = draw_trial_noise(agent, family, T, N, episodes, generator)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    return play(env, agent, tasks, noise, **options), agent, tasks, noise


def test_every_step_is_told_what_the_one_before_gave_and_no_more():
    trials, agent, _, _ = played(TabularMDP(horizon=5), 5)
    count, agent_input = trials.record
    assert agent.began == 1
    steps = 5 * E
    assert trials.mask.all() and trials.actions.shape == (T, N, steps)
    assert torch.equal(count, torch.arange(float(steps)).expand(T, N, -1))  # of the whole trial
    assert torch.equal(agent_input.action[..., 1:], trials.actions[..., :-1])
    assert torch.equal(agent_input.reward[..., 1:], trials.rewards[..., :-1])
    for first in (agent_input.action, agent_input.reward, agent_input.begun):
        assert (first[..., 0] == 0).all()
    assert (agent_input.begun[..., 1:] == 1).all()
    ends = torch.zeros(steps)
    ends[[5, 10, 15]] = 1
    assert torch.equal(agent_input.ended, ends.expand(T, N, -1))
    assert (
        agent_input.observation.argmax(3)[..., ::5] == 0
    ).all()  # every episode starts in state 0
    torch.testing.assert_close(
        trials.returns, trials.rewards.unflatten(2, (E, 5)).sum(3), rtol=0, atol=0
    )


def test_a_world_keeps_its_task_and_gets_new_numbers_in_every_episode():
    trials, _, tasks, noise = played(Bandit(arms=2, horizon=50), 2)
    assert noise.steps.shape == (T, N, E, 50, 1)
    pays = tasks["probabilities"].unsqueeze(1).expand(-1, N, -1).gather(2, trials.actions.flatten(1)
        .view(T, N, -1))  # fmt: skip
    expected = (noise.steps.flatten(2) < pays).float()
    assert torch.equal(trials.rewards, expected)
    assert not torch.equal(noise.steps[:, :, 0], noise.steps[:, :, 1])


def test_what_follows_an_early_end_joins_on_without_a_gap():
    family = Drift()
    trials, _, _, _ = played(family)
    count, agent_input = trials.record
    lengths = trials.mask.sum(2)
    assert (lengths < E * family.horizon).any() and (lengths > E).all()
    assert (trials.mask.diff(dim=2) <= 0).all()  # first all steps, then the rest
    for t in range(T):
        for n in range(N):
            length = int(lengths[t, n])
            assert torch.equal(count[t, n, :length], torch.arange(float(length)))
            elapsed = agent_input.observation[t, n, :length, 1]
            starts = elapsed == 0
            assert int(starts.sum()) == E
            ended = starts & (count[t, n, :length] > 0)
            assert torch.equal(agent_input.ended[t, n, :length], ended.float())
            actions, rewards = trials.actions[t, n], trials.rewards[t, n]
            assert torch.equal(agent_input.action[t, n, 1:length], actions[: length - 1])
            assert torch.equal(agent_input.reward[t, n, 1:length], rewards[: length - 1])
            assert (rewards[length:] == 0).all()
            episode = starts.cumsum(0) - 1
            own = torch.zeros(E).index_add(0, episode, rewards[:length])
            torch.testing.assert_close(trials.returns[t, n], own)


def test_the_observation_after_a_step_is_that_before_a_reset():
    trials, *_ = played(Drift(), keep_next=True)
    count, agent_input = trials.record
    before, after, mask = agent_input.observation, trials.next_observations, trials.mask
    assert after.shape == before.shape and played(Drift())[0].next_observations is None
    place, steps = before.unbind(3)
    later, number = after.unbind(3)
    assert torch.equal(number[mask > 0], steps[mask > 0] + 1)
    torch.testing.assert_close((later - place)[mask > 0], trials.rewards[mask > 0])
    within = (mask[..., 1:] > 0) & (agent_input.ended[..., 1:] == 0)
    assert torch.equal(after[..., :-1, :][within], before[..., 1:, :][within])
    assert count.max() > 0 and not within.all()


def test_a_task_gets_the_same_trials_alone():
    family = Drift()
    together, agent, tasks, noise = played(family)
    for t in range(T):
        env = TorchVectorEnv(family, N, autoreset="disabled", seed=99)
        alone = play(env, agent, *take_tasks((tasks, noise), t, t + 1))
        assert torch.equal(alone.rewards[0], together.rewards[t])
        assert torch.equal(alone.mask[0], together.mask[t])


@pytest.mark.parametrize("counts", [(0, 1), (1, 0)])
def test_there_must_be_something_to_play(counts, generator):
    with pytest.raises(SettingsError, match="at least 1 trial of at least 1 episode"):
        draw_trial_noise(Witness(), Drift(), T, counts[0], counts[1], generator)


def test_the_number_of_worlds_must_fit(generator):
    noise = draw_trial_noise(Witness(), Drift(), T, N, 1, generator)
    env = TorchVectorEnv(Drift(), 7, autoreset="disabled")
    with pytest.raises(ShapeError, match="3 tasks x 2 trials = 6 worlds, got 7"):
        play(env, Witness(), Drift().sample(T, generator).values, noise)


def test_rewards_that_are_not_numbers_are_told(generator):
    tasks = Drift().sample(T, generator).values
    tasks["speed"][1] = torch.nan
    noise = draw_trial_noise(Witness(), Drift(), T, N, 1, generator)
    with pytest.raises(SimulationError, match="World 2"):
        play(TorchVectorEnv(Drift(), T * N, autoreset="disabled"), Witness(), tasks, noise)
