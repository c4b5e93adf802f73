"""Every mistake that a family can make, made by one that makes no other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import TaskError
from metarl.sim import Card, ControlTasks, check_family
from tests.sim.families import Drift


def box(*shape, dtype=np.float32):
    return spaces.Box(-1, 1, shape, dtype)


def family(horizon=6, **changed):
    """Returns a Drift that does what `changed` says in place of its own."""
    return type("Mistaken", (Drift,), changed)(horizon)


def original(self):
    return Drift(self.horizon, self.part)


def test_a_right_family_passes():
    check_family(Drift())
    check_family(family())


SETTINGS = [
    ({"name": "Drift"}, "`name` must end with a version, as \"Mistaken-v1\", got 'Drift'"),
    ({"name": 3}, "`name` must end with a version"),
    ({"horizon": 0}, "`horizon` must be a whole number of at least 1, got 0"),
    ({"horizon": 2.5}, "`horizon` must be a whole number of at least 1, got 2.5"),
    ({"reset_noise": -1}, "`reset_noise` must be a whole number of at least 0, got -1"),
    ({"step_noise": None}, "`step_noise` must be a whole number of at least 0, got None"),
    ({"observation_space": box(2, 2)}, "`observation_space` must be a Box of [O] float32"),
    ({"observation_space": box(2, dtype=np.float64)}, "`observation_space` must be a Box of [O]"),
    ({"observation_space": spaces.Discrete(2)}, "`observation_space` must be a Box of [O]"),
    ({"action_space": box(0)}, "`action_space` must be a Box of [A] float32 or a Discrete"),
    ({"action_space": spaces.MultiBinary(2)}, "`action_space` must be a Box of [A] float32 or"),
    ({"action_space": spaces.Discrete(3, start=1)}, "`action_space` must start at 0"),
]


def sampled(values):
    return {"sample": lambda self, n, generator: ControlTasks(values(n, generator))}


def draw(n, generator):
    return 0.1 * torch.rand(n, generator=generator)


def global_draw(n, _generator):
    return {"speed": 0.1 * torch.rand(n)}


SAMPLING = [
    ({"sample": lambda self, n, g: {"speed": draw(n, g)}}, "must return ControlTasks, got dict"),
    (sampled(lambda n, g: {}), "at least one value that distinguishes tasks"),
    (sampled(lambda n, g: {"speed": [0.1] * n}), "'speed' must be a tensor, got list"),
    (sampled(lambda n, g: {"speed": draw(2, g)}), "'speed' must be [1, ...], as many rows as"),
    (sampled(lambda n, g: {"speed": draw(n, g) / 0}), "'speed' is infinite or not a number"),
    (sampled(global_draw), "it draws from a global random state"),
    (
        sampled(lambda n, g: {"speed": torch.linspace(0, 0.1, n)}),
        "that has moved on gives the same",
    ),
    (sampled(lambda n, g: {"speed": draw(1, g).expand(n)}), "all tasks of a batch are the same"),
    (
        sampled(lambda n, g: {"speed": torch.randint(4, (n,), generator=g) / 10}),
        "splits 'train' and 'validation' share tasks",
    ),
    ({"split": lambda self, name: self}, "split must refuse a name that is no split"),
]


def spoiled(name, spoil):
    """Changes what a function of Drift returns."""
    return {name: lambda self, *arguments: spoil(getattr(original(self), name)(*arguments))}


def failing(self, *arguments):
    raise RuntimeError("no such luck")


def named(state, name, change):
    return {**state, name: change(state[name])}


FUNCTIONS = [
    ({"reset": failing}, "`reset` fails: RuntimeError: no such luck"),
    ({"observe": failing}, "`observe` fails: RuntimeError: no such luck"),
    (spoiled("reset", lambda s: {}), "`reset` must return a dict with at least one tensor"),
    (spoiled("reset", lambda s: s["place"]), "`reset` must return a dict with at least one"),
    (
        spoiled("reset", lambda s: named(s, "place", lambda p: 1.0)),
        "`reset`'s 'place' must be a",
    ),
    (spoiled("reset", lambda s: named(s, "place", lambda p: p[:3])), "must be [8, ...], as many"),
    (spoiled("step", lambda s: {"place": s["place"]}), "`step` must return a state like reset's"),
    (spoiled("step", lambda s: named(s, "place", torch.Tensor.double)), "a state like reset's"),
    (
        spoiled("observe", lambda o: o[:, :1]),
        "`observe` must return [8, 2] torch.float32, got",
    ),
    (spoiled("observe", torch.Tensor.double), "got [8, 2] torch.float64"),
    (
        spoiled("reward", lambda r: r.unsqueeze(1)),
        "`reward` must return [8] torch.float32, got",
    ),
    (spoiled("reward", lambda r: r.tolist()), "`reward` must return a tensor, got list"),
    (spoiled("terminated", torch.Tensor.float), "`terminated` must return [8] torch.bool, got"),
    (spoiled("task_vector", lambda v: v[:, 0]), "`task_vector` must return [8, D] torch.float32"),
]


def random_reward(self, before, actions, after, tasks):
    return torch.rand(len(actions), generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(0)


def changing_step(self, state, actions, tasks, noise):
    state["place"] += 0.1
    return original(self).step(state, actions, tasks, noise)


def changing_reward(self, before, actions, after, tasks):
    after["place"] *= 2
    return after["place"].clone()


def changing_actions(self, before, actions, after, tasks):
    return actions.clamp_(-1, 1)[:, 0].clone()


def mixing_reward(self, before, actions, after, tasks):
    return after["place"] - after["place"].mean()


def drawn_state(self, tasks, noise):
    both = torch.stack([noise[:, 0] - 0.5, torch.zeros(len(noise))], 1)
    return {"both": both}


VIEW = {
    "reset": drawn_state,
    "step": lambda self, state, actions, tasks, noise: {"both": state["both"] + actions},
    "observe": lambda self, state, tasks: state["both"],
    "reward": lambda self, before, actions, after, tasks: after["both"].sum(1),
    "terminated": lambda self, state, tasks: state["both"][:, 0] > 1,
}

CONTENTS = [
    ({"observation_space": box(2)}, "`observe` leaves the observation space"),
    (spoiled("observe", lambda o: o / 0), "`observe` leaves the observation space Box(-inf"),
    (spoiled("reward", lambda r: r / 0), "`reward` returns values that are infinite or not a nu"),
    (spoiled("task_vector", lambda v: v / 0), "`task_vector` r"),
    ({"reward": random_reward}, "`reward` gives other values for the same arguments"),
    ({"reward": mixing_reward}, "`reward` mixes worlds: 3 of them alone have other values"),
    *(
        (spoiled(name, lambda value, world=world: value - value[world]), f"`{name}` mixes worlds")
        for name in ("reward", "observe")
        for world in (0, -1)
    ),
    ({"reward": changing_actions}, "a function changes its arguments"),
    ({"step": changing_step}, "`step` changes the state that it is given"),
    ({"reward": changing_reward}, "`reward` or `terminated` changes the state"),
    (VIEW, "`observe` returns a part of the state itself"),
    ({"card": lambda self: Card("Drift-v2", "", "", ())}, "card's name must be the family's, 'Dr"),
]


@pytest.mark.parametrize(("changed", "message"), SETTINGS + SAMPLING + FUNCTIONS + CONTENTS)
def test_a_mistake_is_told(changed, message):
    with pytest.raises(TaskError) as error:
        check_family(family(**changed))
    told = str(error.value).split("\n- ")
    assert told[0] == "Mistaken is not a usable family:"
    assert message in told[1], told
    assert len(told) == 2 or (changed, message) in SAMPLING, told


def with_values(*names):
    """Tasks of Drift with further values."""
    return {
        "sample": lambda self, n, g: ControlTasks({m: draw(n, g) for m in ("speed", *names)}),
        "task_vector": lambda self, tasks: torch.stack([tasks[m] for m in ("speed", *names)], 1),
    }


@pytest.mark.parametrize(
    "method",
    [
        {"reward": lambda self, before, actions, after, tasks: after["place"] - tasks["goal"]},
        {"reward": lambda self, before, actions, after, tasks: after["place"] - tasks.get("goal")},
        {"reward": lambda self, before, actions, after, tasks: {**tasks}["goal"]},
        {"reward": lambda self, before, actions, after, tasks: [*tasks.values()][1]},
        {"terminated": lambda self, state, tasks: state["place"] > 9 + tasks["goal"]},  # rarely
        {
            "metrics": {"far": "any"},
            "measure": lambda self, before, actions, after, tasks: {"far": tasks["goal"]},
        },
        {
            "latency": lambda self, tasks: (tasks["goal"] > 0.05).long(),
            "longest_latency": 1,
        },
    ],
)
def test_a_value_of_a_task_that_no_method_reads_is_found(method):
    check_family(family(**with_values("goal"), **method))
    with pytest.raises(TaskError, match="the task value 'unread' changes nothing: no method reads"):
        check_family(family(**with_values("goal", "unread"), **method))


def test_a_finite_family_may_say_that_train_equals_test():
    values = sampled(lambda n, g: {"speed": torch.randint(4, (n,), generator=g) / 10})
    open_about_it = Card("Drift-v1", "", "", (), disjoint=False)
    check_family(family(**values, card=lambda self: open_about_it))


def counted(self, state, actions, tasks, noise):
    """Counts the steps as an environment of gymnasium does."""
    vars(self)["steps"] += 1  # Drift is frozen
    return Drift.step(self, state, actions, tasks, noise)


def started_to_count(self, tasks, noise):
    """Begins to count."""
    vars(self)["steps"] = 0
    return Drift.reset(self, tasks, noise)


def progress(self, before, actions, after, tasks):
    """Rewards the change of a number that it keeps on the family."""
    last = vars(self).get("last", 0)
    vars(self)["last"] = after["place"].clone()
    return last - after["place"]


def remade(self, state, tasks):
    """Makes constants again at each call, which changes nothing."""
    vars(self).update(scale=2.0, limits=torch.ones(2), gap=float("nan"))
    return Drift.observe(self, state, tasks)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("steps", {"reset": started_to_count, "step": counted}),
        ("last", {"reward": progress}),
    ],
)
def test_numbers_that_methods_keep_on_the_family_are_found(name, methods):
    """Ends and rewards are computed after the episode: all steps had the counter's last value."""
    with pytest.raises(TaskError, match=rf"a method sets `self\.{name}`, which all worlds share"):
        check_family(family(**methods))
    check_family(family(observe=remade))


def test_all_mistakes_are_told_at_once():
    with pytest.raises(TaskError) as error:
        check_family(family(horizon=0, step_noise=-1, name="x"))
    assert str(error.value).count("\n- ") == 3


def test_what_is_no_family_is_told():
    with pytest.raises(TaskError, match="must be derived from TaskFamily, int is not"):
        check_family(3)


def test_other_splits_are_checked_too():
    with pytest.raises(TaskError, match=r"split\('test'\) cannot be sampled"):
        check_family(family(split=lambda self, name: replace(Drift(), part=name, **refuse(name))))


def refuse(name):
    """Stands for a family that has no test tasks."""
    if name == "test":
        raise TaskError("no test tasks")
    return {}
