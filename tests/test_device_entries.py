"""Every public entry that takes a device gives torch and Warp one with an index.

Two CUDA devices seem to be there, of which the second is torch's current one; the work is done on
the CPU, and its results are those of the CPU.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from metarl_envs.half_cheetah import HalfCheetahVelocity
from metarl_envs.navigation import Navigation2D

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithms import MAML
from metarl.devices import resolve_device, seeded_generator
from metarl.errors import SettingsError
from metarl.evaluation.control_protocol import ControlProtocol, protocol_curve
from metarl.evaluation.few_shot_protocol import few_shot_curves, lake_errors
from metarl.evaluation.lake import LakeRuns
from metarl.evaluation.sine_protocol import sine_curves, sine_panels
from metarl.models import MLP, Conv4
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.runs.checkpoints import Checkpoints, load_checkpoint
from metarl.sb3 import SB3VecEnv
from metarl.sim import (
    BatchedVectorEnv,
    GymTasks,
    GymVectorEnv,
    MujocoVectorEnv,
    Uniform,
    VectorEnvTasks,
    make_vec,
)
from metarl.sim.sample_actions import sample_actions
from metarl.sim.single_env import make_worlds
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.warp import engine as warp_engine
from metarl.sim.warp.engine import WarpVectorEnv
from metarl.tasks import Glyphs, Sine
from metarl.tasks.streams import Streams
from metarl.training import OuterLoop, TrainingSettings
from tests import gradient_learners
from tests.fake_cuda import fake_cuda
from tests.sim.batched.simulators import Points, set_gains
from tests.sim.families import Cart
from tests.sim.gymnasium.environments import Slide

SLIDES = GymTasks(Slide, {"speed": Uniform(-0.2, 0.2)}, horizon=6)
POINTS = VectorEnvTasks(Points, set_gains, {"gain": Uniform(0.5, 2)}, horizon=6)
GLYPHS = {"alphabets": 4, "characters": 4, "drawings": 6}


def generator():
    return torch.Generator().manual_seed(0)


def played(env):
    """The observations and rewards of some steps."""
    env = getattr(env, "env", env)
    seen = [env.reset(seed=0)[0]]
    for actions in sample_actions(env.family.action_space, (3, env.num_envs), 0):
        seen += env.step(actions)[:2]
    env.check()
    return seen


def sampled(tasks):
    tasks = tasks.sample(2, generator())
    return [tasks.support.inputs, tasks.query.targets]


def lake_runs():
    images = torch.rand(1, 20, 1, 28, 28, generator=generator())
    return LakeRuns(images, images, torch.arange(20)[None], ("run01",))


def lake(device):
    return lake_errors(images_learner(20), lake_runs(), ["Latin"], steps=1, device=device)


def images_learner(way):
    return gradient_learners.MAML(Conv4(way, generator(), filters=4, pooling="stride"), 0.4)


def accuracies(device):
    test = Glyphs(3, 1, 2, **GLYPHS).split("test").to(device)
    curves = few_shot_curves(images_learner(3), test, num_tasks=2, steps=1, device=device)
    return [curve.values for curve in curves.values()]


def returns(device):
    family = Navigation2D(horizon=5)
    learner = PolicyLearner(
        MAML(policy_for(family, generator(), (8,)), 0.1), family, PolicyGradientSettings(3)
    )
    tasks = family.sample(2, generator())
    return [
        protocol_curve(learner, ControlProtocol("test", tasks, 1, trajectories=3), device).values
    ]


def errors(device):
    learner = gradient_learners.MAML(MLP((1, 8, 1), generator()), 0.01)
    return [c.values for c in sine_curves(learner, num_tasks=2, steps=1, device=device).values()]


def panels(device):
    learner = gradient_learners.MAML(MLP((1, 8, 1), generator()), 0.01)
    panels = sine_panels(learner, steps=(0, 1), num_tasks=1, device=device)
    return [torch.from_numpy(p.predictions[1]) for p in panels]


def trained(device, tmp_path):
    adaptation: Adaptation = MAML(MLP((1, 8, 1), generator()), 0.01)
    folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "maml" / "run"
    settings = TrainingSettings(iterations=2, meta_batch_size=2, eval_tasks=2, device=str(device))
    loop = OuterLoop(adaptation, Sine(), settings, folder, validation=Sine())
    loop.run()
    again = loop.checkpoints.load(device=device)
    both = (loop.learner.state_dict(), again.weights)
    return [weights[name] for weights in both for name in sorted(weights)]


def saved(device, tmp_path):
    path = Checkpoints(tmp_path / "kept", 1).save(1, {"w": torch.ones(2)}, {})
    return list(load_checkpoint(path, device).weights.values())


ENTRIES = {
    "seeded_generator": lambda d, _: [torch.rand(2, generator=seeded_generator(d, 3))],
    "make_vec, torch": lambda d, _: played(make_vec("Navigation2D-v1", 2, d)),
    "make_vec, mujoco": lambda d, _: played(make_vec(Cart(), 2, d, engine="mujoco")),
    "make_vec, gymnasium": lambda d, _: played(make_vec(SLIDES, 2, d)),
    "make_worlds": lambda d, _: played(make_worlds("Navigation2D-v1", 2, device=d)),
    "TorchVectorEnv": lambda d, _: played(TorchVectorEnv(Navigation2D(), 2, device=d)),
    "MujocoVectorEnv": lambda d, _: played(
        MujocoVectorEnv(HalfCheetahVelocity(), 2, device=d, threads=1)
    ),
    "GymVectorEnv": lambda d, _: played(GymVectorEnv(SLIDES, 2, device=d)),
    "BatchedVectorEnv": lambda d, _: played(BatchedVectorEnv(POINTS, 2, device=d)),
    "SB3VecEnv": lambda d, _: played(
        SB3VecEnv(make_vec(Navigation2D(), 2, d, autoreset="disabled"))
    ),
    "FewShot.to": lambda d, _: sampled(Glyphs(3, 1, 2, **GLYPHS).to(d)),
    "ImagePool.to": lambda d, _: [Glyphs(3, 1, 2, **GLYPHS).pool.to(d).images],
    "Streams.to": lambda d, _: sampled(Streams(Glyphs(3, 1, 2, **GLYPHS)).to(d)),
    "LakeRuns.to": lambda d, _: [lake_runs().to(d).test],
    "lake_errors": lambda d, _: [torch.tensor(list(lake(d).values()))],
    "few_shot_curves": lambda d, _: accuracies(d),
    "sine_curves": lambda d, _: errors(d),
    "sine_panels": lambda d, _: panels(d),
    "protocol_curve": lambda d, _: returns(d),
    "OuterLoop": trained,
    "load_checkpoint": saved,
}
SLOW = ("OuterLoop", "lake_errors", "few_shot_curves")
DEVICES = ("auto", "cuda", torch.device("cuda"), "cuda:0", torch.device("cuda", 1))


@pytest.mark.parametrize("entry", ENTRIES)
def test_torch_gets_devices_with_an_index(entry, tmp_path):
    expected = ENTRIES[entry]("cpu", tmp_path)
    for device in DEVICES[:4:3] if entry in SLOW else DEVICES:
        with fake_cuda() as fake:
            values = ENTRIES[entry](device, tmp_path)
            wanted = torch.device("cuda", 0 if device == "cuda:0" else 1)
        assert fake.devices and not fake.without_index(), fake.without_index()
        assert {torch.device(d) for d in fake.devices} == {wanted}
        assert not fake.non_blocking, "a copy is not waited for"
        for value, right in zip(values, expected, strict=True):
            assert torch.equal(value, right)


class Physics:
    """Stands for `WarpPhysics`, and keeps what it was given."""

    asked = ()

    def __init__(self, model, worlds, frame_skip, device, fields, *, deterministic, **settings):
        self.deterministic = deterministic
        Physics.asked = (*Physics.asked, device)
        self.state = torch.zeros(worlds, model.nq + model.nv + model.nu)
        self.ctrl, self.mocap = torch.zeros(worlds, model.nu), {}
        self.fields = dict.fromkeys(fields)

    def update(self, fields):
        assert fields.keys() == self.fields.keys()


@pytest.fixture
def physics(monkeypatch):
    """Warp's module of physics, which keeps the devices that it is given."""
    monkeypatch.setattr(Physics, "asked", ())
    module = SimpleNamespace(
        WarpPhysics=Physics, warp_device=lambda d: setattr(Physics, "asked", (*Physics.asked, d))
    )
    monkeypatch.setattr(warp_engine, "import_extra", lambda *_: module)
    monkeypatch.setattr(warp_engine, "find_spec", lambda _: True)
    return Physics


@pytest.mark.parametrize("device", DEVICES)
def test_warp_gets_devices_with_an_index(device, physics):
    with fake_cuda():
        make_vec(Cart(), 2, device)
        WarpVectorEnv(Cart(), 2, device=device)
        WarpVectorEnv(Cart(), 2, device="cpu", physics_device=device)
        assert warp_engine.runs_on(resolve_device(device))
    wanted = torch.device("cuda", 0 if device == "cuda:0" else 1)
    assert physics.asked == (wanted,) * 5  # `make_vec` asks whether Warp has it


@pytest.mark.parametrize(("on", "asked", "expected"), [
    (False, None, False), (True, None, True), (True, False, False), (False, True, True),
])  # fmt: skip
def test_warp_is_as_deterministic_as_torch_unless_it_is_asked(on, asked, expected, physics):
    torch.use_deterministic_algorithms(on)
    try:
        env = WarpVectorEnv(Cart(), 2, device="cpu", deterministic=asked)
    finally:
        torch.use_deterministic_algorithms(False)
    assert env.physics.deterministic is expected


@pytest.mark.parametrize("device", DEVICES)
def test_warps_own_functions_resolve_the_device(device, monkeypatch):
    pytest.importorskip("mujoco_warp", reason="needs `pip install metarl[warp]`")
    from metarl.sim.warp import physics

    asked = []
    monkeypatch.setattr(physics.wp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(physics.wp, "device_from_torch", lambda d: asked.append(d) or "found")
    with fake_cuda():
        assert physics.warp_device(device) == "found"
    assert asked == [torch.device("cuda", 0 if device == "cuda:0" else 1)]


def test_a_device_that_warp_lacks_is_named(monkeypatch):
    pytest.importorskip("mujoco_warp", reason="needs `pip install metarl[warp]`")
    from metarl.sim.warp import physics

    def missing(device):
        raise IndexError("list index out of range")

    monkeypatch.setattr(physics.wp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(physics.wp, "device_from_torch", missing)
    with fake_cuda():
        with pytest.raises(SettingsError, match="has no device cuda:1"):
            physics.warp_device(torch.device("cuda:1"))
        assert not warp_engine.runs_on(torch.device("cuda:1"))


def test_no_copy_goes_on_behind_the_hosts_back():
    """A pinned buffer or a copy that is not waited for is read or reused too early."""
    found = [
        f"{path.name}: {word}"
        for room in ("metarl", "envs", "experiments")
        for path in (Path(__file__).parents[1] / room).rglob("*.py")
        for word in ("non_blocking=True", "pin_memory")
        if word in path.read_text()
    ]
    assert not found
