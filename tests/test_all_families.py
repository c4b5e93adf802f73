"""The contract that every family of control tasks keeps: add yours to the registry."""

import pytest
import torch

from metarl.sim import (
    FAMILIES,
    WorldNoise,
    check_family,
    check_vector_env,
    make_family,
    make_vec,
)
from metarl.sim.check_family import sample_actions
from metarl.tasks.base import SPLITS

NAMES = FAMILIES.names()
MODES = ("same_step", "disabled")


@pytest.fixture(params=NAMES)
def family(request):
    return make_family(request.param)


def test_check_family_finds_nothing(family):
    for part in SPLITS:
        check_family(family.split(part))


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("autoreset", MODES)
def test_check_vector_env_finds_nothing(family, autoreset, observe_task):
    check_vector_env(
        make_vec(family, 4, device="cpu", autoreset=autoreset, observe_task=observe_task)
    )


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
    assert "arXiv:" in card.source
    text = str(card)
    assert text.startswith(f"{family.name}: ")
    assert all(value in text for value in told.values())
    assert ("train equals" in text) == (not card.disjoint)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_episodes(family):
    tasks = family.sample(8, torch.Generator().manual_seed(0)).values
    generator = torch.Generator().manual_seed(1)
    noise = WorldNoise(
        torch.rand(8, family.reset_noise, generator=generator),
        torch.rand(8, family.horizon, family.step_noise, generator=generator),
    )
    runs = []
    for device in ("cpu", "cuda"):
        env = make_vec(family, 8, device=device, autoreset="disabled")
        env.set_tasks(tasks)
        env.follow(noise)
        runs.append([env.reset()[0]])
        for actions in sample_actions(family.action_space, (5, 8), 2):
            runs[-1] += env.step(actions)[:4]
        env.check()
    for first, second in zip(*runs, strict=True):
        torch.testing.assert_close(second.cpu(), first, rtol=1e-4, atol=1e-5)
