"""Learners, policies, families and task batches can be copied and pickled at any time."""

import copy
import pickle
import threading
from functools import partial

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML
from metarl.errors import SettingsError, SimulationError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import FAMILIES, Choice, GymTaskPool, GymTasks, Uniform, make_family, make_vec
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors
from tests import test_all_algorithms as supervised
from tests import test_all_policy_algorithms as control
from tests.installed import skip_unless_installed
from tests.sim.gymnasium.environments import Slide


def pickled(value):
    return pickle.loads(pickle.dumps(value))


copied = pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


def continued(learner, tasks, outer, generator_state, iteration):
    """Runs one meta-iteration and returns the weights."""
    generator = torch.Generator()
    generator.set_state(generator_state)
    inputs = learner.collect(tasks, generator, iteration)
    learner.after_update(outer(learner)(inputs, iteration).carry)
    return {n: p.clone() for n, p in learner.state_dict().items()}


def check_learner(learner, sample, outer, generator, copied):
    """Copies before, during and after two iterations; the copy takes the steps of the learner."""
    for iteration in range(2):
        tasks, state = sample(), generator.get_state()
        before = copied(learner)
        inputs = learner.collect(tasks, generator, iteration)
        learner(inputs).losses.mean()
        during = copied(learner)
        weights = [
            continued(each, copied(tasks), outer, state, iteration)
            for each in (before, during, learner)
        ]
        for other in weights[:2]:
            assert all(torch.equal(p, other[n]) for n, p in weights[2].items())


@copied
@pytest.mark.parametrize("name", [*supervised.ALGORITHMS, *supervised.COMPARING])
def test_supervised_learners(name, copied):
    problem = "glyphs" if name in supervised.COMPARING else "sine"
    learner, generator = supervised.build(name, problem)
    tasks = supervised.tasks_of(problem)
    check_learner(
        learner, lambda: tasks.sample(5, generator),
        lambda each: supervised.meta_step(name, each), generator, copied,
    )  # fmt: skip


@copied
@pytest.mark.parametrize("name", control.ALGORITHMS)
def test_learners_of_policies_with_open_environments(name, copied):
    family = Navigation2D(horizon=5)
    learner, generator = control.build(name, family)
    settings = TrainingSettings(outer_lr=0.01)
    check_learner(
        learner, lambda: family.sample(4, generator),
        lambda each: control.UPDATES["adam"].build(each, settings), generator, copied,
    )  # fmt: skip


def local_slides():
    return GymTasks(lambda: Slide(), {"speed": Uniform(-0.2, 0.2)}, horizon=4, name="L-v1")


@copied
@pytest.mark.parametrize(
    "family",
    [
        lambda: make_family("HalfCheetahVelocity-v1", horizon=4), local_slides,
        lambda: GymTaskPool(Slide, tasks=9, horizon=4),
    ],
    ids=["mujoco", "local function", "pool"],
)  # fmt: skip
def test_learners_of_every_engine(family, copied):
    family, generator = family(), torch.Generator().manual_seed(0)
    learner = PolicyLearner(
        MAML(policy_for(family, generator), 0.1), family, PolicyGradientSettings(trajectories=2)
    )
    tasks, state = family.sample(2, generator), generator.get_state()
    paths = []
    for each in (learner, copied(learner), learner):
        generator.set_state(state)
        paths.append([r.clone() for r in each.returns(tasks, 1, generator)])
        learner = copied(learner)  # with open environments
    assert all(torch.equal(a, b) for path in paths[1:] for a, b in zip(path, paths[0], strict=True))


@copied
@pytest.mark.parametrize("name", FAMILIES.names())
def test_families_and_their_tasks(name, copied):
    skip_unless_installed(name)
    family = make_family(name)
    make_vec(family, 2, device="cpu").reset(seed=0)
    family.card()
    tasks = family.sample(3, torch.Generator().manual_seed(0))
    again = copied(family).sample(3, torch.Generator().manual_seed(0))
    for other in (copied(tasks), again):
        assert all(torch.equal(v, other.values[n]) for n, v in tasks.values.items())


def test_what_cannot_be_copied_says_why():
    env = make_vec(make_family("HalfCheetahVelocity-v1"), 2, device="cpu")
    for copied_by in (copy.deepcopy, pickled):
        with pytest.raises(SimulationError, match=r"MujocoVectorEnv cannot be copied .*state_dict"):
            copied_by(env)
    # A deep copy shares functions; a pickle needs all that they hold.
    generator = (number for number in range(3))
    family = GymTasks(
        lambda: Slide(0 * len(str(generator))), {"speed": Uniform(-0.2, 0.2)}, horizon=4,
        name="L-v1",
    )  # fmt: skip
    copy.deepcopy(family)
    with pytest.raises(SettingsError, match=r"cannot be pickled: .*at the top of a module"):
        pickle.dumps(family)
    handle, speed = threading.Lock(), Uniform(-0.2, 0.2)
    for env, settings, grip in (
        (partial(with_handle, handle), {}, 0), (with_handle, {"handle": handle}, 0),
        (with_handle, {}, handle),
    ):  # fmt: skip
        choices = {"speed": speed, "handle": Choice(grip, grip)} if grip else {"speed": speed}
        held = GymTasks(env, choices, horizon=4, name="L-v1", settings=settings)
        copy.deepcopy(held).build()


def with_handle(handle=None):
    return Slide()


def test_copies_share_no_memory():
    learner, _ = control.build("metasgd", Navigation2D(horizon=5))
    other = copy.deepcopy(learner)
    map_tensors(torch.Tensor.zero_, {n: p.data for n, p in other.named_parameters()})
    assert all(p.abs().sum() > 0 for n, p in learner.named_parameters() if "weight" in n)
