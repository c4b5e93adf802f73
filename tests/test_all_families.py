"""The contract that every family of control tasks keeps: add yours to the registry."""

from dataclasses import replace

import pytest
import torch

from metarl.sim import (
    FAMILIES,
    MujocoFamily,
    TorchFamily,
    WorldNoise,
    check_family,
    check_vector_env,
    make_family,
    make_vec,
)
from metarl.sim.sample_actions import sample_actions
from metarl.tasks.base import SPLITS
from metarl.trees import take_tasks
from tests.graph_recorder import Waits
from tests.installed import skip_unless_installed

NAMES = FAMILIES.names()
MODES = ("same_step", "disabled")
MOST_STEPS = 12  # robots take their time


@pytest.fixture(params=NAMES)
def family(request):
    skip_unless_installed(request.param)
    family = make_family(request.param)
    return replace(family, horizon=min(family.horizon, MOST_STEPS))


def prepared(family, worlds):
    """Tasks and numbers for one episode of each of `worlds` worlds."""
    generator = torch.Generator().manual_seed(1)
    noise = WorldNoise(
        torch.rand(worlds, family.reset_noise, generator=generator),
        torch.rand(worlds, family.horizon, family.step_noise, generator=generator),
    )
    return family.sample(worlds, generator).values, noise


def test_check_family_finds_nothing(family):
    for part in SPLITS:
        check_family(family.split(part))


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("autoreset", MODES)
def test_check_vector_env_finds_nothing(family, autoreset, observe_task):
    check_vector_env(
        make_vec(family, 4, device="cpu", autoreset=autoreset, observe_task=observe_task)
    )


def test_no_function_waits_for_the_device(family):
    generator = torch.Generator()
    actions = sample_actions(family.action_space, (3,), 0)
    noise = torch.rand(3, family.reset_noise), torch.rand(3, family.step_noise)
    complete = None
    if isinstance(family, MujocoFamily):  # what engines add
        tasks = family.sample(3, generator).values
        complete = family.completed(family.reset(tasks, noise[0]), tasks)
    for waits in (Waits(), Waits()):  # constants are made once
        with waits:
            tasks = family.sample(3, generator).values
            state = family.reset(tasks, noise[0])
            after = state = state if complete is None else complete
            if isinstance(family, TorchFamily):
                after = family.step(state, actions, tasks, noise[1])
            if isinstance(family, MujocoFamily):
                family.controls(actions, tasks)
                family.model_fields(tasks)
                family.remember(state, after, tasks)
                if family.derived:
                    family.mocap(state, actions, tasks)
            family.observe(after, tasks)
            family.reward(state, actions, after, tasks)
            family.terminated(after, tasks)
            family.task_vector(tasks)
    assert not waits.found


def test_the_name_is_the_one_it_is_found_by(family):
    assert family.name in NAMES
    assert type(make_family(family.name)) is type(family)
    assert family.part == "train"
    assert family.split("test").part == "test"


def test_the_card_tells_everything_that_is_needed(family):
    card = family.card()
    told = {f.what: f.value for f in card.facts}
    needed = {"tasks", "start", "observation", "action", "dynamics", "reward", "termination"}
    assert needed <= told.keys()
    assert all(told.values())
    assert str(family.horizon) in told["horizon"]
    assert "arXiv:" in card.source or "doi:" in card.source
    text = str(card)
    assert text.startswith(f"{family.name}: ")
    assert all(value in text for value in told.values())
    assert ("train equals" in text) == (not card.disjoint)


def episode(family, noise, tasks, actions):
    """Everything that an episode with prepared numbers gives, [W, *] each."""
    env = make_vec(family, len(noise.reset), device="cpu", autoreset="disabled")
    env.set_tasks(tasks)
    env.follow(noise)
    return [env.reset()[0], *(value for a in actions for value in env.step(a)[:4])]


def test_prepared_numbers_give_the_same_episode_whatever_the_number_of_worlds(family):
    tasks, noise = prepared(family, 9)
    actions = sample_actions(family.action_space, (family.horizon, 9), 2)
    together = episode(family, noise, tasks, actions)
    for low, high in ((0, 1), (1, 5), (5, 9)):
        few, own = take_tasks((noise, tasks), low, high)
        alone = episode(family, few, own, actions[:, low:high])
        for value, expected in zip(alone, together, strict=True):
            assert torch.equal(value, expected[low:high])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_episodes(family):
    tasks, noise = prepared(family, 8)
    engine = "mujoco" if isinstance(family, MujocoFamily) else "auto"  # Warp: its own tests
    runs = []
    for device in ("cpu", "cuda"):
        env = make_vec(family, 8, device=device, engine=engine, autoreset="disabled")
        env.set_tasks(tasks)
        env.follow(noise)
        runs.append([env.reset()[0]])
        for actions in sample_actions(family.action_space, (5, 8), 2):
            runs[-1] += env.step(actions)[:4]
        env.check()
    for first, second in zip(*runs, strict=True):
        torch.testing.assert_close(second.cpu(), first, rtol=1e-4, atol=1e-5)
