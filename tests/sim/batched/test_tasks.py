import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.errors import SettingsError, SimulationError, TaskError
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import Choice, Uniform, VectorEnvTasks, check_family, make_family
from metarl.sim.batched.arrays import flattener, rows
from metarl.sim.make import FAMILIES
from metarl.training import OuterLoop, TrainingSettings
from tests.sim.batched.simulators import LIMIT, TIME_LIMIT, Points, set_gains

GAINS = {"gain": Uniform(0.5, 2)}


def points(set_tasks=set_gains, parameters=None, build=Points, horizon=8, **options):
    return VectorEnvTasks(build, set_tasks, parameters or GAINS, horizon, **options)


def learner_of(family, trajectories=4):
    policy = policy_for(family, torch.Generator().manual_seed(0), hidden=(8,))
    settings = PolicyGradientSettings(trajectories=trajectories)
    return PolicyLearner(MAML(policy, 0.1), family, settings)


def test_the_family_describes_its_simulator():
    family = points()
    assert family.name == "Points(gain)-v1" and family.worlds == 8
    card = str(family.card())
    assert "8 worlds of Points" in card and "gain ~ U(0.5, 2)" in card and "disjoint" in card
    check_family(family)


def test_what_tasks_do_not_change_is_found():
    def nothing(env, tasks):
        pass

    def mean(env, tasks):
        env.gain = tasks["gain"].mean().expand(8)

    for wrong, message in (
        (nothing, "changes neither"),
        (mean, "first 4 worlds changes the other"),
    ):
        with pytest.raises(TaskError, match=message):
            check_family(points(wrong))
    with pytest.raises(TaskError, match="'offset' changes neither"):
        check_family(points(
            lambda env, tasks: set_gains(env, {"gain": tasks["gain"]}),
            {**GAINS, "offset": Uniform(0, 1)},
        ))  # fmt: skip
    with pytest.raises(TaskError, match="`set_tasks` of 'Points' raises KeyError"):
        check_family(points(lambda env, tasks: tasks["mass"]))


def test_choices_are_given_as_values():
    given = []

    def set_tasks(env, tasks):
        given.append(tasks)
        set_gains(env, {"gain": tasks["gain"]})

    family = points(set_tasks, {"gain": Choice(0.5, 2.0), "material": Choice("ice", "sand")})
    learner_of(family).collect(family.sample(2, torch.Generator()), torch.Generator(), 0)
    assert {0.5, 2.0} >= set(given[-1]["gain"].tolist())
    assert {"ice", "sand"} >= set(given[-1]["material"]) and len(given[-1]["material"]) == 8


def test_copies_share_the_simulator_and_pickles_build_their_own():
    family = points()
    simulator = family.simulator.env
    assert family.split("test").simulator.env is simulator
    assert copy.deepcopy(family).simulator.env is simulator
    other = pickle.loads(pickle.dumps(family))
    assert other.simulator.env is not simulator and other.worlds == 8
    assert points(build=simulator).simulator.env is simulator
    train, test = (family.split(s).sample(500, torch.Generator()).values for s in ("train", "test"))
    assert not set(train["gain"].tolist()) & set(test["gain"].tolist())


def test_other_settings_share_the_simulator(monkeypatch):
    monkeypatch.setitem(FAMILIES._values, "Points-v1", points())
    family, longer = make_family("Points-v1"), make_family("Points-v1", horizon=12)
    assert isinstance(family, VectorEnvTasks) and isinstance(longer, VectorEnvTasks)
    assert (family.horizon, longer.horizon) == (8, 12) and longer.simulator is family.simulator
    changed = family.with_settings(metrics={"far": "last"}, horizon=3)
    assert changed.simulator is not family.simulator and changed.horizon == 3
    for wrong in ({"horizon": 0}, {"horizons": 3}):
        with pytest.raises(SettingsError, match="horizon"):
            make_family("Points-v1", **wrong)


@pytest.mark.parametrize(("tasks", "trajectories"), [(2, 4), (5, 3), (3, 8), (2, 13)])
def test_rollouts_are_played_in_as_many_parts_as_are_needed(tasks, trajectories):
    family = points()  # of 8 worlds
    learner, generator = learner_of(family, trajectories), torch.Generator().manual_seed(0)
    drawn = family.sample(tasks, generator)
    inputs = learner.collect(drawn, generator, 0)
    rollouts = inputs.experience[0].rollouts
    assert rollouts.rewards.shape == (tasks, trajectories, 8)
    # x' = x + gain * a and r = -x'^2, with the gain of the task of each row
    scale = learner.policy.units
    seen, actions = rollouts.observations, rollouts.actions
    seen = seen if scale is None else scale.raw_observations(seen)
    moved = seen[..., 0] + drawn.values["gain"].view(-1, 1, 1) * actions[..., 0].clamp(-1, 1)
    alive = rollouts.mask > 0
    torch.testing.assert_close(
        -moved.square()[alive], rollouts.rewards[alive], rtol=1e-3, atol=1e-4
    )
    ended = rollouts.mask.sum(2)
    assert ended.max() <= TIME_LIMIT
    assert bool((rollouts.terminated.any(2) == ((moved.abs() > LIMIT) & alive).any(2)).all())
    assert inputs.environment_steps.tolist() == [
        int(sum(e.rollouts.mask[t].sum() for e in inputs.experience)) for t in range(tasks)
    ]


def test_policies_are_trained_and_evaluated(tmp_path):
    family = points(build=lambda: Points(32, "same_step"))
    learner = learner_of(family)
    settings = TrainingSettings(iterations=3, meta_batch_size=4, eval_every=3, eval_tasks=4)
    run = OuterLoop(learner, family, settings, tmp_path, validation=family.split("validation"))
    before = [p.clone() for p in learner.parameters()]
    assert run.run().finished
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    curve = list(learner.returns(family.sample(6, torch.Generator()), 2, torch.Generator()))
    assert len(curve) == 3 and all(r.shape == (6,) and r.isfinite().all() for r in curve)


class Untold(Points):
    """Does not say when it resets worlds."""

    def __init__(self):
        super().__init__(said=False)


class WithoutWorlds:
    """Lacks a part of the interface."""

    def reset(self): ...
    def step(self): ...


def failing():
    raise OSError("no licence")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"build": WithoutWorlds}, "has no `num_envs`. GymTasks takes"),
        ({"build": failing}, "'failing' cannot be built: OSError: no licence"),
        ({"build": 3}, "a batched simulator, or a function that builds one, got 3"),
        ({"build": Untold}, 'set `autoreset` to "same_step"'),
        ({"autoreset": "disabled"}, "Unknown autoreset 'disabled'"),
        ({"observed": "policy"}, "a Dict, of which `observed` names one"),
        ({"build": lambda: Points(parts=True), "observed": "camera"}, "policy"),
        ({"parameters": {"gain": 3}}, "a Range such as"),
        ({"parameters": {}}, "tell tasks apart"),
        ({"set_tasks": None}, "`set_tasks` to be a function"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        VectorEnvTasks(**{
            "env": options.pop("build", Points), "set_tasks": set_gains, "parameters": GAINS,
            "horizon": 8, **options,
        })  # fmt: skip
    assert points(build=Untold, autoreset="next_step").worlds == 8


def test_other_actions_are_refused():
    simulator = Points()
    simulator.single_action_space = spaces.MultiBinary(3)
    with pytest.raises(SettingsError, match="a Box or Discrete"):
        points(build=simulator)


class OfJax:
    """An array that other packages read by DLPack, as those of JAX."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        """Returns a capsule."""
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        """Returns the kind and the index of the device."""
        return self.tensor.__dlpack_device__()


def test_arrays_of_several_packages():
    numbers = torch.arange(6.0).view(3, 2)
    unsigned = numbers.numpy().astype(np.uint16)
    for value in (numbers, numbers.numpy(), numbers.tolist(), OfJax(numbers), unsigned):
        found = rows("x", value, (3, 2), torch.float32)
        assert torch.equal(found, numbers) and found.data_ptr() != numbers.data_ptr()
    for value in (numbers.flip(0).numpy()[::-1], numbers.numpy().astype(">f8")):
        assert torch.equal(rows("x", value, (3, 2), torch.float32), numbers)
    assert rows("x", numbers[:, :1] > 2, (3,), torch.bool).tolist() == [False, False, True]


def test_observations_are_flattened_as_those_of_one_world():
    space = spaces.Dict(
        image=spaces.Box(0, 255, (8, 8, 3), np.uint8),
        gear=spaces.Discrete(3, start=-1),
        parts=spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
    )
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    expected = np.stack([np.asarray(spaces.flatten(space, sample)) for sample in samples])
    batch = {
        "image": np.stack([s["image"] for s in samples]),
        "gear": np.array([s["gear"] for s in samples]),
        "parts": tuple(np.stack([s["parts"][k] for s in samples]) for k in range(2)),
        "time": np.zeros(5),  # not in the space
    }
    found = flattener(space, 5)(batch)
    assert np.array_equal(found.numpy(), expected)
    for part, wrong, message in (
        ("image", batch["image"] / 255, "pictures as bytes, got torch.float64"),
        ("image", batch["image"].astype(int) + 200, "pictures as bytes, got 2.. to 4"),
        ("gear", batch["gear"] + 3, r"in Discrete\(3, start=-1\), got [234]"),
        ("gear", batch["gear"] + 0.5, "in Discrete"),
        ("gear", batch["gear"] * np.nan, "got nan"),
    ):
        with pytest.raises(SimulationError, match=message):
            flattener(space, 5)({**batch, part: wrong})
