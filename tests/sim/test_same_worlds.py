"""Tasks of other worlds than those that a learner plays in."""

from dataclasses import replace

import pytest
from metarl_envs import HalfCheetahVelocity
from metarl_envs.navigation import Navigation2D

from metarl.errors import SettingsError
from metarl.sim import Choice, GymTaskPool, GymTasks, Mass, Uniform
from metarl.sim.same_worlds import check_same_worlds
from tests.sim.families import Cart
from tests.sim.gymnasium.environments import Slide
from tests.sim.robots import ARM, Arms

SLIDES = GymTasks(Slide, {"speed": Uniform(0, 1)}, horizon=6)
CHOICES = GymTasks(Slide, {"speed": Choice(0.1, 0.2)}, horizon=6)


class Other(Slide):
    """Another environment with the same spaces."""


class Near(Navigation2D):
    """Other tasks in the same worlds."""

    def sample(self, num_tasks, generator):
        tasks = super().sample(num_tasks, generator)
        return replace(tasks, values={"goal": 0.1 * tasks.values["goal"]})


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (SLIDES, SLIDES.split("validation")),
        (SLIDES, GymTasks(Slide, {"speed": Uniform(5, 6)}, horizon=6, workers=1)),
        (CHOICES, GymTasks(Slide, {"speed": Choice(0.1, 0.2)}, horizon=6)),
        (Navigation2D(), Near(part="test")),
        (HalfCheetahVelocity(), HalfCheetahVelocity(fastest=3.0, part="test")),
        (Arms(), Arms(model=f"{ARM} ", parameters={**Arms.parameters, "angle": Uniform(2, 3)})),
        (None, SLIDES),
        (SLIDES, object()),
        (GymTaskPool(Slide, 9, horizon=6), GymTaskPool(Slide, 9, horizon=6, part="test")),
    ],
)
def test_tasks_of_the_same_worlds_pass(own, other):
    check_same_worlds(own, other, "tasks")


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        (Navigation2D(9), Navigation2D(10), "tasks of the family .* whose horizon is 9; .* is 10"),
        (SLIDES, GymTasks(Other, {"speed": Uniform(0, 1)}, horizon=6), "environment is 'Slide'"),
        (SLIDES, replace(SLIDES, metrics={"success": "any"}), "metrics is {}"),
        (SLIDES, replace(SLIDES, settings={"slope": 0.5}), "settings is {}"),
        (CHOICES, GymTasks(Slide, {"speed": Choice(0.1, 0.3)}, horizon=6), "choices of 'speed'"),
        (SLIDES, CHOICES, "choices of 'speed' is None"),
        (SLIDES, Navigation2D(6), "action space is"),
        (Arms(), Arms(model=ARM.replace('mass="0.6"', 'mass="6"')), "checksum of the model is"),
        (Cart(), Cart(integrator="RK4"), "checksum of the model is"),
        (Cart(), Cart(frame_skip=5), "frame_skip is 4; .* is 5"),
        (Arms(), Arms(start_noise=0.0), "start_noise is 0.05"),
        (
            Arms(),
            Arms(parameters={**Arms.parameters, "load": Mass("*", Uniform(0.5, 2))}),
            "change of 'load' is 'mass of fore'",
        ),
        (GymTaskPool(Slide, 9, horizon=6), GymTaskPool(Slide, 9, horizon=6, seed=1), "pool is"),
    ],
)
def test_tasks_of_other_worlds_are_refused(own, other, message):
    with pytest.raises(SettingsError, match=message):
        check_same_worlds(own, other, "tasks")
