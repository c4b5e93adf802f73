"""Pictures by gymnasium environments: of the very episodes, or what is observed with a note."""

import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from metarl.sim import Choice, GymTaskPool, GymTasks, Uniform, make_renderer, make_vec
from metarl.sim.family_renderer import DrawnRenderer
from metarl.sim.gymnasium.rendering import GymnasiumRenderer
from tests.sim.gymnasium.environments import Painted, Slide

SPEED = {"speed": Uniform(-0.2, 0.2)}
WIDE = {"wide": Choice(40, 80)}


def rendered(family, worlds=3, size=(60, 60), **settings):
    env = make_vec(family, worlds, device="cpu", autoreset="disabled", **settings)
    renderer = make_renderer(env, *size)
    env.reset(seed=0)
    return env, renderer


def shown(picture):
    """Where the bright column is, as `Painted` has its place."""
    return picture[15, :, 0].argmax() / (picture.shape[1] - 1) * 4 - 2


def push(env, by=1.0):
    env.step(torch.full((env.num_envs, 1), by))


@pytest.mark.parametrize(
    ("family", "workers"),
    [
        (GymTasks(Painted, SPEED, horizon=6), 0),
        (GymTasks(Painted, SPEED, horizon=6), 2),
        (GymTaskPool(Painted, 9, horizon=6), 0),
        (GymTasks(Painted, {"speed": Uniform(-0.2, 0.2), "fault": Choice("", "x")}, horizon=6), 0),
    ],
)
def test_pictures_show_the_worlds_where_they_are(family, workers):
    env, renderer = rendered(family, workers=workers)
    assert isinstance(renderer, GymnasiumRenderer)
    for step in range(8):  # past the ends of some and the horizon of all
        for world in (0, 2, 0)[: 1 + step % 3]:  # some are looked at late, and in turns
            picture = renderer.frame(world)
            assert picture.shape == (30, 60, 3) and picture.dtype == np.uint8
            place = env.snapshot(world)[0]["observation"][0, 0]
            assert abs(shown(picture) - float(place)) < 4 / 59
        push(env, 0.4)
    env.reset()
    place = env.snapshot(1)[0]["observation"][0, 0]
    assert abs(shown(renderer.frame(1)) - float(place)) < 4 / 59
    assert not renderer.note
    renderer.close()
    renderer.close()
    env.close()


def test_an_episode_is_played_on_not_again():
    env, renderer = rendered(GymTasks(Painted, SPEED, horizon=6), 1)
    for _ in range(3):
        renderer.frame(0)
        push(env, 0.1)
    renderer.frame(0)
    assert renderer._replays._envs[0].unwrapped.stepped == 3
    env.set_tasks({"speed": torch.tensor([0.15])})  # of the next episode
    env.reset(seed=0)
    renderer.frame(0)
    assert renderer._replays._envs[0].unwrapped.speed == pytest.approx(0.15)


def test_pictures_keep_their_proportions_and_their_size():
    _, renderer = rendered(GymTasks(Painted, SPEED, horizon=4), size=(200, 80))
    assert renderer.frame().shape == (80, 160, 3)
    assert (renderer.width, renderer.height) == (160, 80)
    renamed = GymTasks(lambda wide=60, **k: Painted(width=wide, **k), WIDE, horizon=4)
    _, renderer = rendered(renamed, 8, (80, 80))
    assert len({renderer.frame(w).shape for w in range(8)}) == 1


def test_their_time_is_real():
    assert GymTasks(Painted, SPEED, horizon=4).step_seconds == pytest.approx(0.04)
    assert GymTasks(Slide, SPEED, horizon=4).step_seconds is None


@pytest.mark.parametrize(
    ("build", "settings", "reason"),
    [
        (Slide, {}, r"'Slide': Expected .* the render mode 'rgb_array', its metadata has none"),
        (lambda speed=0: Painted(), {}, "cannot be built with .*render_mode.*TypeError"),
        (Painted, {"fault": "raise"}, "RuntimeError: the screen broke"),
        (Painted, {"fault": "list"}, "gives list"),
        (Painted, {"fault": "grey"}, r"gives \(30, 60, 1\), not"),
    ],
)
def test_what_has_no_pictures_is_drawn_with_a_note(build, settings, reason):
    _, renderer = rendered(GymTasks(build, SPEED, horizon=4, settings=settings))
    assert isinstance(renderer, DrawnRenderer)
    assert renderer.frame().shape == (60, 60, 3)
    assert renderer.note.startswith("What is observed is drawn instead of pictures by")
    assert re.search(reason, renderer.note), renderer.note


@pytest.mark.parametrize(
    ("fault", "reason"), [("late", "the screen broke"), ("chance", "self.np_random")]
)
def test_pictures_that_fail_or_would_be_of_another_episode_are_drawn_from_then_on(fault, reason):
    env, renderer = rendered(GymTasks(Painted, SPEED, horizon=6, settings={"fault": fault}))
    assert isinstance(renderer, GymnasiumRenderer)
    for _ in range(4):
        assert renderer.frame().shape == (30, 60, 3)
        push(env, 0.1)
    assert reason in renderer.note


@pytest.mark.parametrize("fault", ["raise", "late"])
def test_environments_whose_pictures_fail_are_closed(fault, monkeypatch):
    closed = []
    monkeypatch.setattr(Painted, "close", lambda self: closed.append(self.render_mode))
    env, renderer = rendered(GymTasks(Painted, SPEED, horizon=6, settings={"fault": fault}))
    for _ in range(3):
        renderer.frame()
        push(env, 0.1)
    assert closed.count("rgb_array") == 1  # others may be collected and closed meanwhile


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_gymnasiums_own_environments_paint_or_name_what_to_install(name):
    parameter = {"CartPole-v1": "force_mag", "Pendulum-v1": "g"}[name]
    env, renderer = rendered(GymTasks(name, {parameter: Uniform(5, 15)}, horizon=4), 1)
    if find_spec("pygame") is None:
        assert re.search(r"pip install .gymnasium.classic.control", renderer.note)
        return
    first = renderer.frame()
    for _ in range(4):
        env.step(env.action_space.sample())
    assert not renderer.note and (renderer.frame() != first).any()


def test_an_environment_that_exists_once_is_rendered_as_it_is():
    slide, calls = Painted(), []
    slide.render_mode = "rgb_array"
    for name in ("reset", "step"):
        method = getattr(slide, name)
        setattr(slide, name, lambda *a, m=method, n=name, **k: (calls.append(n), m(*a, **k))[1])
    family = GymTasks(lambda: slide, SPEED, horizon=6, worlds=1)
    env, renderer = rendered(family, worlds=1)
    assert isinstance(renderer, GymnasiumRenderer)
    for step in range(4):
        picture = renderer.frame()
        assert picture.shape == (30, 60, 3)
        place = env.snapshot(0)[0]["observation"][0, 0]
        assert abs(shown(picture) - float(place)) < 4 / 59
        assert calls == ["reset"] + step * ["step"] and not renderer.note
        push(env, 0.4)
    renderer.close()
