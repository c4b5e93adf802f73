"""Tasks that environments sample and set themselves."""

import gymnasium
import numpy as np
import pytest
import torch

from metarl.errors import SettingsError, SimulationError, TaskError
from metarl.sim import GymTaskPool, check_family, check_vector_env, make_vec
from metarl.tasks.base import SPLITS
from tests.sim.families import task_size
from tests.sim.gymnasium.environments import Slide


class Opaque:
    """A task that only its environment understands."""

    def __init__(self, speed):
        self.secret = {"velocity": speed}


class OpaqueSlide(Slide):
    """Its tasks are objects; they are drawn from NumPy's global state, as older ones do."""

    def sample_tasks(self, count):
        return [Opaque(v) for v in np.random.uniform(-0.2, 0.2, count)]

    def set_task(self, task):
        super().set_task(task.secret)


class Sided(Slide):
    """Two tasks, arrays."""

    def sample_tasks(self, count):
        return [np.array([s, 0.0]) for s in self.np_random.choice([-0.1, 0.1], count)]

    def set_task(self, task):
        self.speed = task[0]


def sampled(family, count=500):
    return family.sample(count, torch.Generator().manual_seed(0)).values


@pytest.mark.parametrize(
    ("env", "workers"), [(Slide, 0), (Sided, 0), (OpaqueSlide, 0), (OpaqueSlide, 1)]
)
def test_the_contracts_are_kept(env, workers):
    family = GymTaskPool(env, 30, horizon=6)
    if not workers:
        for part in SPLITS:
            check_family(family.split(part))
    vec = make_vec(family, 3, device="cpu", workers=workers)
    check_vector_env(vec)
    vec.close()


class Ignoring(Slide):
    """Its `set_task` does nothing."""

    def set_task(self, task):
        pass


class Redrawing(Slide):
    """Its `reset` draws the task again."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.speed = self.np_random.uniform(-0.2, 0.2)
        return result


class Rare(Slide):
    """Its task is where a reward is that no random episode finds."""

    goal = 0.0

    def set_task(self, task):
        self.goal = 100 + task["velocity"]

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.place > self.goal), *rest


@pytest.mark.parametrize(
    ("env", "message"), [(Ignoring, "the tasks change nothing"), (Redrawing, "the tasks change no")]
)
def test_tasks_without_effect_are_found(env, message):
    with pytest.raises(TaskError, match=message):
        check_family(GymTaskPool(env, 30, horizon=6))


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (float, float),
        (str, float),
        (lambda v: {"velocity": v, "name": "slope"}, lambda task: task["velocity"]),
        (lambda v: np.array([v]), lambda task: task[0]),
        (lambda v: (v, np.zeros(2)), lambda task: task[0]),
    ],
)
def test_pools_of_a_generator_without_a_seed_are_found(make, read):
    """A resumed run had other tasks: its test tasks may be those that it was trained on."""

    class Drawn(Slide):
        def sample_tasks(self, count):
            return [make(v) for v in self.source(count)]

        def source(self, count):
            return np.random.default_rng().uniform(-0.2, 0.2, count)

        def set_task(self, task):
            super().set_task({"velocity": float(read(task))})

    class Seeded(Drawn):
        def source(self, count):
            return self.np_random.uniform(-0.2, 0.2, count)

    with pytest.raises(TaskError, match="`sample_tasks` draws other tasks with the same seed, 0"):
        check_family(GymTaskPool(Drawn, 9, horizon=6))
    check_family(GymTaskPool(Seeded, 9, horizon=6))


def test_tasks_that_show_rarely_are_no_mistake():
    check_family(GymTaskPool(Rare, 30, horizon=6))


def test_a_pool_of_one_task_is_found():
    class Same(Slide):
        def sample_tasks(self, count):
            return [{"velocity": 0.1}] * count

    with pytest.raises(TaskError, match="all tasks of the pool are the same"):
        check_family(GymTaskPool(Same, 30, horizon=6))


def test_tasks_of_numbers_are_task_values_and_the_environment_gets_its_own():
    family = GymTaskPool(Slide, 30, horizon=6)
    tasks = sampled(family)
    assert tasks.keys() == {"index", "velocity"}
    assert tasks["index"].unique().tolist() == list(range(10))
    assert len(tasks["velocity"].unique()) == 10
    assert torch.equal(family.task_vector(tasks), tasks["velocity"].unsqueeze(1))
    env = make_vec(family, 2, device="cpu", autoreset="disabled")
    env.set_tasks({name: value[:2] for name, value in tasks.items()})
    env.reset()
    for index, world in zip(tasks["index"], env._host._envs, strict=False):
        assert world.speed == family.pool[index]["velocity"]  # in float64, as it was drawn
    assert sampled(family.split("test"))["index"].unique().tolist() == list(range(20, 30))
    assert "velocity; a pool of 10 train, 10 validation, 10 test" in str(family.card())
    assert family.card().disjoint


def test_opaque_tasks_are_told_apart_by_their_place_and_seeded():
    state = np.random.get_state()[1].copy()
    family, other = (GymTaskPool(OpaqueSlide, 6, horizon=6, seed=s) for s in (0, 1))
    assert np.array_equal(state, np.random.get_state()[1])
    tasks = sampled(family.split("validation"))
    assert tasks.keys() == {"index"} and tasks["index"].unique().tolist() == [2, 3]
    assert family.task_vector({"index": torch.tensor([4])}).tolist() == [[0, 0, 0, 0, 1, 0]]
    assert "of type Opaque" in str(family.card())
    again = GymTaskPool(OpaqueSlide, 6, horizon=6)
    speeds = [[t.secret["velocity"] for t in f.pool] for f in (family, again, other)]
    assert speeds[0] == speeds[1] != speeds[2]


def test_arrays_and_the_same_tasks_in_all_splits():
    family = GymTaskPool(Sided, 30, horizon=6)
    assert sampled(family)["task"].shape == (500, 2)
    assert task_size(family) == 2
    assert not family.card().disjoint


def test_given_tasks_and_wrapped_environments():
    pools = {"train": [{"velocity": 0.1}], "validation": [{"velocity": 0.0}]}
    pools["test"] = [{"velocity": -0.1}, {"velocity": -0.2}]
    family = GymTaskPool(wrapped, pools, horizon=6)
    assert family.pools["test"] == pools["test"]
    assert sampled(family)["velocity"].unique().tolist() == [pytest.approx(0.1)]
    assert sampled(family.split("test"))["index"].unique().tolist() == [2, 3]
    check_vector_env(make_vec(family.split("test"), 3, device="cpu"))


def wrapped():
    return gymnasium.wrappers.RescaleAction(Slide(), np.float32(-2), np.float32(2))


@pytest.mark.parametrize(
    ("tasks", "told_apart"),
    [
        ([2**53 + i for i in range(6)], False),
        ([1.7e9 + i for i in range(6)], False),
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], True),
        ([1.7e9 + 1000 * i for i in range(6)], True),
        (torch.arange(6.0, requires_grad=True), True),
        ([1j] * 6, False),
    ],
)
def test_numbers_that_float32_does_not_tell_apart_are_no_task_values(tasks, told_apart):
    pools = {part: tasks[2 * i : 2 * i + 2] for i, part in enumerate(SPLITS)}
    family = GymTaskPool(Slide, pools, horizon=6)
    values = family.sample(4, torch.Generator().manual_seed(0)).values
    assert ("task" in values) == told_apart
    assert family.task_vector(values).shape == (4, 1 if told_apart else 6)


@pytest.mark.parametrize("index", [-1, 9])
def test_a_task_is_the_place_in_the_pool(index):
    family = GymTaskPool(Slide, 9, horizon=6)
    env = make_vec(family, 1, device="cpu")
    env.set_tasks({**env.get_tasks(), "index": torch.tensor([index])})
    with pytest.raises(SimulationError, match=f"the index of one of 9 tasks, got {index}"):
        env.reset(seed=0)


class Waiting(Slide):
    """Needs a task before its first reset."""

    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no task is set")


class Indexed(gymnasium.Env):
    """Sets its task by another method, as the environments of PEARL."""

    observation_space, action_space = Slide.observation_space, Slide.action_space

    def reset_task(self, index):
        self.index = index


class Few(Slide):
    """Samples too few tasks."""

    def sample_tasks(self, count):
        return super().sample_tasks(count)[1:]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GymTaskPool(Indexed, horizon=5), "call it from a wrapper with `def set_task"),
        (lambda: GymTaskPool("Pendulum-v1"), "has no method set_task nor sample_tasks"),
        (lambda: GymTaskPool(Slide, 2, horizon=6), "at least 3 tasks, got 2"),
        (
            lambda: GymTaskPool(Slide, {"train": [1]}, horizon=6),
            "the tasks of train, validation, t",
        ),
        (
            lambda: GymTaskPool(Slide, {part: [] for part in SPLITS}, horizon=6),
            "at least one task for each",
        ),
        (lambda: GymTaskPool(Slide, [1, 2, 3], horizon=6), r"the tasks of each split.*got \[1"),
        (lambda: GymTaskPool(Waiting, 9, horizon=6), "before any task is set: RuntimeError: no ta"),
        (lambda: GymTaskPool(Few, 9, horizon=6), r"sample_tasks\(9\) of 'Few' .*got 8"),
    ],
)
def test_mistakes_are_told(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
