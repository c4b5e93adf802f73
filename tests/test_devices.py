"""Choice of the device."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner, MetaSGD
from metarl.devices import resolve_device, set_deterministic, set_matmul_precision
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.learners import Siamese
from metarl.models import MLP, Conv4, ResNet12
from metarl.tasks import Background, FewShotData, GroupedExamples, Sine


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto").type == expected


def test_missing_and_misspelt_devices_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="cuda:1"):
        resolve_device("cuda:1")
    with pytest.raises(SettingsError, match="gpuu"):
        resolve_device("gpuu")
    for name in ("mps", "xpu:0", "meta"):
        with pytest.raises(SettingsError, match=f"cuda:N, got '{name}': MetaRL runs on"):
            resolve_device(name)


def test_another_default_device_of_torch_is_refused():
    torch.set_default_device("meta")
    try:
        with pytest.raises(SettingsError, match="to be the CPU, it is meta"):
            resolve_device("cpu")
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(("count", "rest"), [(1, "cuda:0, auto"), (2, "cuda:0 to cuda:1, auto")])
def test_a_device_beyond_those_there_is_refused(count, rest, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("auto") == resolve_device(torch.device("cuda")) == torch.device("cuda:0")
    assert resolve_device(f"cuda:{count - 1}").index == count - 1
    with pytest.raises(SettingsError, match=rf"cuda:7.* {count} CUDA.*{rest}"):
        resolve_device("cuda:7")


@pytest.fixture
def torchs_settings(monkeypatch):
    """Torch's settings of the process, as they were, after the test."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = (
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
    )  # fmt: skip
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]
    torch.set_float32_matmul_precision(before[2])
    torch.backends.cudnn.allow_tf32 = before[3]


def test_deterministic_algorithms_are_torchs_and_cublas(torchs_settings):
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    torch.backends.cudnn.benchmark = True
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cudnn.benchmark
    set_deterministic(False)  # what a user has chosen stays
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("high", True)])
def test_the_precision_is_that_of_products_and_convolutions(precision, tf32, torchs_settings):
    set_matmul_precision(precision)
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == tf32


FAULTS = """
import resource, torch
from metarl.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(1 << 18) for _ in range(40)]  # 40 MB, as a graph holds them
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
changed = keep_freed_memory()
faults(), faults()
print(changed, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_unless_the_environment_says_something_else():
    def run(**environment):
        command = [sys.executable, "-c", FAULTS]
        environment = {**os.environ, **environment}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        changed, faults = result.stdout.split()
        return changed, int(faults)

    assert os.sysconf("SC_PAGESIZE") == 4096 or pytest.skip("counts pages of 4 KiB")
    changed, kept = run()
    if changed == "False":
        pytest.skip("not glibc, or set by the environment")
    unchanged, given_back = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert unchanged == "False" and kept < 500 < 5000 < given_back


TABLE = {"unit": np.arange(40) % 2, "x": np.linspace(0, 1, 40), "y": np.linspace(1, 2, 40)}
DROPOUT = GradientLearner(MAML(nn.Sequential(nn.Linear(1, 1), nn.Dropout())))
TAKE_GENERATORS = {
    "MLP": lambda g: MLP((1, 4, 1), g),
    "by name": lambda g: MLP((1, 4, 1), generator=g),
    "Conv4": lambda g: Conv4(5, g),
    "ResNet12": lambda g: ResNet12(5, g),
    "Siamese": lambda g: Siamese(nn.Linear(2, 3), 3, g),
    "MetaSGD": lambda g: MetaSGD(nn.Linear(2, 3), g),
    "Sine": lambda g: Sine().sample(2, g),
    "Background": lambda g: Background(Sine()).sample(2, g),
    "FewShotData": lambda g: FewShotData(np.eye(40), TABLE["unit"], way=2).sample(2, g),
    "GroupedExamples": lambda g: GroupedExamples(TABLE, "unit", "x", "y").sample(2, g),
    "collect": lambda g: DROPOUT.collect(Sine().sample(2, torch.Generator()), g, 0),
    "curve": lambda g: adaptation_curve(DROPOUT, Sine(), num_tasks=2, steps=1, generator=g),
}


@pytest.mark.parametrize("name", TAKE_GENERATORS)
@pytest.mark.parametrize("given", [3, None, np.random.default_rng(0)])
def test_what_is_no_generator_is_refused(name, given):
    with pytest.raises(
        SettingsError, match=r"Expected `generator`.*torch\.Generator\(\)\.manual_se"
    ):
        TAKE_GENERATORS[name](given)
