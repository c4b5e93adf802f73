"""Suites of environments: each installed one trains for a moment; what does not fit is said."""

import sys
import types
import warnings

import gymnasium
import numpy as np
import pytest
import torch

from metarl.adaptation import MAML
from metarl.errors import SettingsError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import GymTasks, Integers, Latency, Uniform, check_family, make_vec
from metarl.sim.gymnasium import suites
from tests.sim.gymnasium.suite_families import FAMILIES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_policy_learns_in_an_installed_suite(name):
    package, build = FAMILIES[name]
    pytest.importorskip(package)
    family = build()
    check_family(family)
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (8,))
    learner = PolicyLearner(MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=2))
    inputs = learner.collect(family.sample(2, generator), generator, 0)
    loss = learner.forward(inputs)
    loss.losses.sum().backward()
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert {f"train/{m}/step_1" for m in family.metrics} <= loss.metrics.keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_import_and_mend_a_suite_too():
    pytest.importorskip("gymnasium_robotics")
    family = FAMILIES["Fetch"][1]()
    rows = [make_vec(family, 2, device="cpu", workers=n).reset(seed=0)[0] for n in (0, 1)]
    assert torch.equal(*rows)


def test_an_id_may_name_the_package_that_registers_it(monkeypatch):
    module = types.ModuleType("my_suite")
    monkeypatch.setitem(sys.modules, "my_suite", module)
    family = GymTasks("my_suite:Pendulum-v1", {"g": Uniform(5, 15)})
    assert family.name == "Pendulum(g)-v1" and family.horizon == 200
    assert "environment Pendulum-v1" in family.card().source


def test_a_package_that_is_not_there_comes_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(SettingsError, match="pip install minigrid"):
        GymTasks("minigrid:MiniGrid-Empty-5x5-v0", {"late": Latency(0, 1)})


def module_of(monkeypatch, name, **values):
    """Puts a module and its packages in place, as if they were installed."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    module = types.ModuleType(name)
    vars(module).update(values)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_joint_types_compare_with_numbers_of_a_model_once_mended(monkeypatch):
    mujoco = pytest.importorskip("mujoco")
    utilities = module_of(monkeypatch, "gymnasium_robotics.utils.mujoco_utils", mujoco=mujoco)
    suites.mend_gymnasium_robotics()
    kinds = utilities.mujoco.mjtJoint
    assert np.int32(3) in (kinds.mjJNT_SLIDE, kinds.mjJNT_HINGE)
    assert np.int32(0) not in (kinds.mjJNT_SLIDE, kinds.mjJNT_HINGE)
    assert utilities.mujoco.MjModel is mujoco.MjModel
    mended = utilities.mujoco
    suites.mend_gymnasium_robotics()
    assert utilities.mujoco is mended


def test_dm_control_reads_only_fields_that_there_are(monkeypatch):
    fields = {"mjmodel": {"qpos0": 1, "gone": 2}, "mjdata": {"qpos": 1, "lost": 2}}
    module_of(monkeypatch, "dm_control.mujoco.wrapper.mjbindings.sizes", array_sizes=fields)
    suites.mend_dm_control()
    assert fields == {"mjmodel": {"qpos0": 1}, "mjdata": {"qpos": 1}}


def test_an_assertion_without_words_is_shown_with_its_line(tmp_path, monkeypatch):
    folder = tmp_path / "dm_control"
    folder.mkdir()
    (folder / "broken.py").write_text("def build():\n    assert 1 == 2\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    import broken  # pyright: ignore[reportMissingImports]

    with pytest.raises(SettingsError, match=r"assert 1 == 2.*\"shimmy:\.\.\.\"") as caught:
        GymTasks(broken.build, {"late": Latency(0, 1)}, horizon=5)
    assert "broken.py" in str(caught.value)


def test_layouts_of_seeds_are_disjoint_in_the_splits():
    class Layout(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)
        seed = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            assert isinstance(self.seed, int)
            return np.random.default_rng(self.seed).random(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 0.0, False, False, {}

    family = GymTasks(Layout, {"seed": Integers(0, 5000)}, horizon=3)
    check_family(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = [
            set(family.split(p).sample(900, torch.Generator()).values["seed"].tolist())
            for p in ("train", "validation", "test")
        ]
    assert not (drawn[0] & drawn[1] | drawn[0] & drawn[2] | drawn[1] & drawn[2])
    assert all(0 <= n <= 5000 for n in set.union(*drawn))
    assert Integers(np.int32(0), np.int64(5000)) == Integers(0, 5000)
    for low, high in ((0, 5), (0.0, 5000.0), (0, 2**24)):
        with pytest.raises(SettingsError):
            Integers(low, high)
