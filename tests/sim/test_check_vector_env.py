"""Every mistake that a vector environment can make, made by one that makes no other."""

import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from benchmarks.plain_navigation import PlainNavigation2D
from metarl.errors import TaskError
from metarl.sim import TorchVectorEnv, WorldNoise, check_vector_env
from tests.sim.families import Drift

MODES = ("same_step", "disabled")


@pytest.mark.parametrize("autoreset", MODES)
def test_a_right_environment_passes(autoreset):
    check_vector_env(TorchVectorEnv(Drift(), 5, autoreset=autoreset))


def spoiled(index, spoil):
    """An environment that spoils one of the values that `step` returns."""

    class Mistaken(TorchVectorEnv):
        def step(self, actions):
            values = list(super().step(actions))
            values[index] = spoil(values[index])
            return tuple(values)

    return Mistaken


def without_final(info):
    del info["final_obs"]
    return info


class Numbers(TorchVectorEnv):
    """Returns arrays from reset."""

    def reset(self, **options):
        return super().reset(**options)[0].numpy(), {}


class NoInfo(TorchVectorEnv):
    """Returns no dict."""

    def reset(self, **options):
        return super().reset(**options)[0], None


class NoMode(TorchVectorEnv):
    """Does not say when it resets worlds."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.metadata = {"autoreset_mode": "next_step"}


class OneSpace(TorchVectorEnv):
    """Has the action space of one world for all."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.action_space = self.single_action_space


class Unseeded(TorchVectorEnv):
    """Does not heed the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class Deaf(TorchVectorEnv):
    """Follows no prepared numbers."""

    def follow(self, noise):
        pass


class Restless(TorchVectorEnv):
    """Starts all worlds with any mask."""

    def start(self, noise, mask):
        return super().start(noise, None)


class Forgetful(TorchVectorEnv):
    """Draws new tasks at each reset."""

    def reset(self, **options):
        tasks = self.family.sample(self.num_envs, torch.Generator().manual_seed(9))
        self.set_tasks(tasks.values)
        return super().reset(**options)


class Open(TorchVectorEnv):
    """Gives away its own tasks."""

    def get_tasks(self):
        return self._tasks


class Stubborn(TorchVectorEnv):
    """Keeps its tasks."""

    def set_tasks(self, tasks):
        pass


class HalfSaved(TorchVectorEnv):
    """Saves no generator."""

    def load_state_dict(self, values):
        super().load_state_dict({**values, "generator": self._noise.generator.get_state()})


class Late(TorchVectorEnv):
    """Truncates one step late."""

    def _begin(self, mask):
        super()._begin(mask)
        self._ends.elapsed = self._ends.elapsed - (1 if mask is None else mask.long())


class WrongStart(TorchVectorEnv):
    """Says that worlds go on where others are."""

    def _begin(self, mask):
        super()._begin(mask)
        self._state = {n: v.flip(0) for n, v in self._state.items()}


BOTH = [
    (spoiled(0, torch.Tensor.double), "observation of `step` must be [5, 2] float32 on cpu"),
    (spoiled(0, lambda o: o / 0), "observation of `step` leaves the observation space"),
    (spoiled(1, torch.Tensor.tolist), "`reward` must be [5] torch.float32 on cpu, got list"),
    (spoiled(1, lambda r: r.unsqueeze(1)), "`reward` must be [5] torch.float32 on cpu, got [5, 1]"),
    (spoiled(2, torch.Tensor.float), "`terminated` must be [5] torch.bool on cpu"),
    (spoiled(3, torch.Tensor.int), "`truncated` must be [5] torch.bool on cpu"),
    (spoiled(3, torch.zeros_like), "`truncated` must be true from step 6 of an episode on"),
    (spoiled(3, torch.ones_like), "`truncated` must be true from step 6 of an episode on"),
    (spoiled(4, without_final), '`step` must return info["final_obs"]'),
    (Numbers, "observation of `reset` must be [5, 2] float32 on cpu, got ndarray"),
    (NoInfo, "`reset` must return an observation and a dict, got NoneType"),
    (NoMode, 'metadata["autoreset_mode"] must be an AutoresetMode of gymnasium'),
    (OneSpace, "`action_space` must have the shape (5, 1), got (1,)"),
    (Unseeded, "the same seed and actions give another episode"),
    (Deaf, "the same numbers of `follow` and actions give another episode"),
    (Forgetful, "tasks do not survive `reset` and `step`"),
    (Stubborn, "`get_tasks` does not return what `set_tasks` was given"),
    (Open, "`get_tasks` gives away the tasks themselves"),
    (HalfSaved, "after `load_state_dict` the episode continues in another way"),
    (Late, "`truncated` must be true from step 6"),
]
ONLY = [
    (Restless, "disabled", "a reset with a mask changes worlds that it does not mark"),
    (spoiled(0, torch.zeros_like), "disabled", "observation must be what the step led to"),
    (WrongStart, "same_step", "worlds that are not done must go on"),
]


@pytest.mark.parametrize(
    ("kind", "autoreset", "message"),
    [(kind, mode, message) for kind, message in BOTH for mode in MODES] + ONLY,
)
def test_a_mistake_is_told(kind, autoreset, message):
    with pytest.raises(TaskError) as error:
        check_vector_env(kind(Drift(), 5, autoreset=autoreset))
    told = str(error.value).split("\n- ")
    assert told[0] == f"{kind.__name__} is not a usable vector environment:"
    assert any(message in t for t in told[1:]), told


def test_a_mistake_of_the_family_is_told_first():
    kind = type("Mistaken", (Drift,), {"reward": lambda self, *a: torch.zeros(3)})
    with pytest.raises(TaskError, match=r"TorchVectorEnv is not .*\n- `reward` must return \[8\]"):
        check_vector_env(TorchVectorEnv(kind(), 5))


def test_values_that_are_not_finite_are_told():
    class Mistaken(TorchVectorEnv):
        def advance(self, actions, noise):
            after = super().advance(actions, noise)
            return {**after, "place": after["place"] + torch.tensor([0, 0, float("nan"), 0, 0])}

    with pytest.raises(TaskError, match=r"leaves the observation space .* or is not finite"):
        check_vector_env(Mistaken(Drift(), 5))


def test_other_vector_environments_are_told():
    with pytest.raises(TaskError, match="derived from TensorVectorEnv, SyncVectorEnv is not"):
        check_vector_env(SyncVectorEnv([PlainNavigation2D]))


def test_the_generator_is_followed_again_afterwards():
    env = TorchVectorEnv(Drift(), 5)
    env.follow(WorldNoise(torch.rand(5, 1), torch.rand(5, 6, 2)))
    check_vector_env(env)
    assert not torch.equal(env.reset()[0], env.reset()[0])
