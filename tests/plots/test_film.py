"""Films: a row per task, a column per number of steps, stills after an episode's end."""

import io

import numpy as np
import pytest
import torch
from metarl_envs import HalfCheetahDirection, Navigation2D
from PIL import Image

from metarl.adaptation import MAML
from metarl.errors import SettingsError
from metarl.plots import film as module
from metarl.plots.film import Film, film_adaptation, save_film
from metarl.plots.gif import encode_gif
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import ControlTasks, GymTasks, Uniform
from tests.sim.gymnasium.environments import Painted, Slide


def learner_on(family, trajectories=2):
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden=(4,), init_std=0.5)
    settings = PolicyGradientSettings(trajectories=trajectories)
    return PolicyLearner(MAML(policy, inner_lr=0.1), family, settings)


def filmed(family, tasks, steps):
    return film_adaptation(learner_on(family), tasks, steps, torch.Generator().manual_seed(0))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "DRAWN_SIZE", (64, 64))
    monkeypatch.setattr(module, "ROBOT_SIZE", (64, 48))


GOALS = ControlTasks({"goal": torch.tensor([[0.3, 0.2], [-0.4, 0.1]])})


def test_a_film_has_a_row_per_task_and_a_column_per_number_of_steps(small):
    film = filmed(Navigation2D(horizon=5), GOALS, 2)
    assert len(film.frames) == 6  # the start and every step
    width = 3 * (64 + module._GAP) - module._GAP
    height = module._HEAD + 2 * (64 + module._LINE + module._GAP) - module._GAP
    assert {f.shape for f in film.frames} == {(height, width, 3)}
    assert film.frames[0].dtype == np.uint8
    assert (film.frames[0] != film.frames[5]).any()
    assert film.fps == pytest.approx(1 / module._DRAWN_STEP)


def test_long_episodes_are_thinned_and_shown_as_long(small, monkeypatch):
    monkeypatch.setattr(module, "DRAWN_FRAMES", 4)
    film = filmed(Navigation2D(horizon=10), GOALS, 0)
    assert len(film.frames) == 4  # after 0, 3, 6 and 9 steps
    assert film.fps == pytest.approx(1 / (3 * module._DRAWN_STEP))


def test_nothing_moves_after_the_end_of_an_episode(small):
    class Near(Navigation2D):
        def terminated(self, state, tasks):
            return state["position"].abs().amax(1) > 0  # after the first step

    film = filmed(Near(horizon=6), GOALS, 1)
    assert len(film.frames) == 2


def test_filming_changes_nothing_of_what_is_filmed(small):
    learner = learner_on(Navigation2D(horizon=4))
    seed = torch.Generator().manual_seed
    plain = list(learner.returns(GOALS, 1, seed(3)))
    film_adaptation(learner, GOALS, 1, seed(0))
    assert all(
        torch.equal(a, b) for a, b in zip(plain, learner.returns(GOALS, 1, seed(3)), strict=True)
    )


def test_gymnasiums_environments_are_filmed_in_their_own_pictures_and_time(small):
    parameters = {"speed": Uniform(-0.2, 0.2)}
    tasks = ControlTasks({"speed": torch.tensor([0.1])})
    film = filmed(GymTasks(Painted, parameters, horizon=5), tasks, 0)
    assert film.fps == pytest.approx(Painted.metadata["render_fps"]) and not film.note
    assert film.frames[0].shape[:2] == (module._HEAD + 32 + module._LINE, 64)  # as 30 x 60 pixels
    film = filmed(GymTasks(Slide, parameters, horizon=5), tasks, 0)
    assert film.fps == pytest.approx(1 / module._DRAWN_STEP)
    assert "'Slide'" in film.note


@pytest.mark.slow
def test_robots_are_filmed_in_their_own_time(small):
    tasks = ControlTasks({"direction": torch.tensor([1.0])})
    try:
        film = filmed(HalfCheetahDirection(horizon=8), tasks, 1)
    except SettingsError as error:
        pytest.skip(str(error))
    assert len(film.frames) == 9 and film.fps == pytest.approx(20)


def frames(count=4):
    return [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(count)]


def test_a_gif_moves_and_starts_again(tmp_path):
    film = Film("adaptation", frames(), fps=10)
    save_film(film, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == encode_gif(film.frames, film.fps)
    with Image.open(io.BytesIO(encode_gif(film.frames, film.fps))) as image:
        assert image.n_frames == 4 and image.size == (30, 20)
        assert image.info["duration"] == 100 and image.info["loop"] == 0
        for i in range(4):
            image.seek(i)
            assert abs(int(np.asarray(image.convert("RGB"))[5, 5, 0]) - 40 * i) <= 8


@pytest.mark.parametrize(
    ("fps", "frames", "milliseconds"), [(12.5, 9, 80), (50, 9, 20), (60, 5, 30), (500, 2, 20)]
)
def test_a_gif_has_no_frames_that_browsers_slow_down(fps, frames, milliseconds):
    pictures = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(9)]
    with Image.open(io.BytesIO(encode_gif(pictures, fps))) as image:
        assert (getattr(image, "n_frames", 1), image.info["duration"]) == (frames, milliseconds)
        image.seek(frames - 1)
        assert np.asarray(image.convert("RGB")).max() == 160


def test_an_mp4_is_written_with_the_extra(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra: metarl[video]")
    save_film(Film("adaptation", [np.full((65, 97, 3), 90, np.uint8)] * 5, 10), tmp_path / "a.mp4")
    reader = ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    assert next(reader)["size"] == (96, 64)
    reader.close()


def test_other_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"\.gif or \.mp4, got a\.avi"):
        save_film(Film("adaptation", frames(), 10), tmp_path / "a.avi")
