"""Values that are not finite and actions that do not exist are told with world, step and task."""

from dataclasses import dataclass

import pytest
import torch
from metarl_envs import Bandit

from metarl.errors import MetarlError, SimulationError
from metarl.sim import TorchVectorEnv, step_validator
from tests.sim.families import Drift

NAN, INF = float("nan"), float("inf")
LONG = 1000


@dataclass(frozen=True)
class Faulty(Drift):
    """Gives a wrong value in one world at one step: that of the task with the speed 0.5."""

    wrong: str = "reward"
    value: float = NAN
    at: int = 3

    def _spoil(self, name, values, state, tasks, at):
        chosen = (tasks["speed"] == 0.5) & (state["steps"] == at)
        if name != self.wrong:
            return values
        chosen = chosen.view(-1, *[1] * (values.dim() - 1))
        return torch.where(chosen, self.value, values)

    def reward(self, before, actions, after, tasks):
        values = super().reward(before, actions, after, tasks)
        return self._spoil("reward", values, before, tasks, self.at)

    def observe(self, state, tasks):
        # What step 3 leads to is observed after 4 steps.
        return self._spoil("observation", super().observe(state, tasks), state, tasks, self.at + 1)


def make(autoreset="disabled", **settings):
    env = TorchVectorEnv(Faulty(**{"horizon": LONG, **settings}), 4, autoreset=autoreset)
    env.set_tasks({"speed": torch.tensor([0.1, 0.2, 0.5, 0.3])})
    env.reset(seed=0)
    return env


def run(env, steps):
    for _ in range(steps):
        env.step(-torch.ones(4, 1))


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("wrong", ["reward", "observation"])
def test_the_first_wrong_value_is_told_with_world_step_and_task(wrong, value, autoreset):
    env = make(autoreset, wrong=wrong, value=value)
    run(env, 12)
    with pytest.raises(SimulationError) as error:
        env.check()
    shown = f"[{value}, {value}]" if wrong == "observation" else str(value)
    expected = (
        f"World 2 has the {wrong} {shown} in step 3 of its episode, with the task speed 0.5; "
        "expected finite numbers."
    )
    # Started again, the world reaches its step 3 later, yet it is step 3 of its episode.
    assert str(error.value) == expected
    assert isinstance(error.value, MetarlError)


def test_a_wrong_first_observation_is_told():
    env = make(wrong="observation", at=-1)
    with pytest.raises(SimulationError, match=r"World 2 .*observation.* after a reset"):
        env.check()


def test_what_is_told_was_before_the_tasks_changed():
    env = make()
    run(env, 5)
    env.set_tasks({"speed": torch.zeros(4)})
    with pytest.raises(SimulationError, match=r"speed 0\.5"):
        env.check()


def test_nothing_is_told_twice_and_finite_values_never():
    env = make()
    run(env, 5)
    with pytest.raises(SimulationError):
        env.check()
    env.check()
    run(env, 5)
    env.check()
    fine = make(value=3e38)  # its sum with others overflows, which is no error
    for _ in range(3):
        fine.reset()
        run(fine, 5)
    fine.check()


def test_an_action_that_is_not_a_number_is_told_before_what_it_brings_about():
    env = make(at=-5)
    env.step(torch.zeros(4, 1))
    env.step(torch.tensor([[0.0], [NAN], [0.0], [0.0]]))
    with pytest.raises(SimulationError, match=r"World 1 has the action \[nan\] in step 1 .*space"):
        env.check()


def test_actions_outside_a_box_are_clipped():
    env = make(at=-5)
    env.set_tasks({"speed": torch.zeros(4)})
    _, reward, *_ = env.step(torch.tensor([[1.0], [100.0], [-1.0], [-1e9]]))
    env.check()
    assert reward[1] < 0.5 + 0.2 and reward[3] > -0.5 - 0.2


@pytest.mark.parametrize("action", [-1, 5])
def test_a_discrete_action_out_of_range_is_told(action):
    env = TorchVectorEnv(Bandit(arms=5), 3, autoreset="disabled")
    env.reset()
    env.step(torch.tensor([0, 4, 2]))
    env.check()
    env.step(torch.tensor([0, action, 2]))
    with pytest.raises(SimulationError, match=rf"World 1 has the action {action} in step 1 .*prob"):
        env.check()


def test_it_checks_by_itself_after_an_episode():
    env = make(horizon=6)
    run(env, 6)
    with pytest.raises(SimulationError, match="step 3"):
        run(env, 1)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(step_validator, "MOST_STEPS", 4)
    env = make()
    run(env, 4)
    with pytest.raises(SimulationError, match="step 3"):
        run(env, 1)
    for _ in range(20):
        env.reset()
    assert len(env._validator._resets) <= 5


def test_a_loaded_state_forgets_what_was_before():
    env = make()
    saved = env.state_dict()
    run(env, 5)
    env.load_state_dict(saved)
    env.check()
    assert env._validator._steps == [] and env._validator._resets == []
    run(env, 5)
    with pytest.raises(SimulationError, match="step 3"):
        env.check()
