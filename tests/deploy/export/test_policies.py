import json
import sys

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.half_cheetah import HalfCheetahVelocity
from stable_baselines3 import PPO
from torch import nn

from metarl.deploy.export.policies import FORMATS, NOTE_FILE, export_policy
from metarl.errors import CheckpointError, ExportError, SettingsError
from metarl.rl.plain_policy import plain_policy
from metarl.rl.policies import policy_for

FAMILIES = (HalfCheetahVelocity(), Bandit())
NOTE = {"family": "Some-v1", "action": "numbers"}


def make_policy(family, generator):
    policy = policy_for(family, generator, (8, 8), init_std=0.3)
    params = policy.initial(generator, 1)
    params = {n: p + 0.3 * torch.randn(p.shape, generator=generator) for n, p in params.items()}
    return plain_policy(policy, params, family.observation_space, family.action_space)


CASES = [(to, family) for to in FORMATS for family in FAMILIES]


@pytest.mark.parametrize(("to", "family"), CASES, ids=lambda v: getattr(v, "name", v))
def test_files_act_as_the_policy_and_say_what_they_are(to, family, generator, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    policy = make_policy(family, generator)
    observations = torch.randn(50, policy.observation_size, generator=generator)
    path = tmp_path / "new" / {"sb3": "policy.zip", "onnx": "p.onnx", "torch": "p.pt2"}[to]
    assert export_policy(policy, path, to, observations, NOTE) < 1e-5
    found = FORMATS[to][1](path, observations[:7].numpy())
    assert list(found) == list(policy.outputs)
    for name, expected in zip(policy.outputs, policy(observations[:7]), strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-6, rtol=1e-6)
    assert noted(path, to).items() >= NOTE.items()


def test_a_name_without_a_dot_is_completed(generator, tmp_path):
    policy = make_policy(Bandit(), generator)
    export_policy(policy, tmp_path / "p", "sb3", torch.ones(1, 1), NOTE)
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def noted(path, to):
    """What a file says of itself."""
    if to == "sb3":
        return vars(PPO.load(path, device="cpu"))["metarl"]
    if to == "onnx":
        model = pytest.importorskip("onnx").load(path)
        return {p.key: p.value for p in model.metadata_props}
    files = {NOTE_FILE: ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files[NOTE_FILE])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_file_that_acts_otherwise_is_refused(family, generator, tmp_path, monkeypatch):
    policy = make_policy(family, generator)
    observations = torch.randn(50, policy.observation_size, generator=generator)
    write, read = FORMATS["torch"]

    def write_another(policy, path, note):
        nn.init.constant_(policy.linear[-1].bias, 0.1 if family.name != "Bandit-v1" else 0)
        policy.linear[-1].bias[0] += 0.1
        write(policy, path, note)
        policy.linear[-1].bias[0] -= 0.1

    monkeypatch.setitem(FORMATS, "torch", (write_another, read))
    with pytest.raises(ExportError, match="does not act as the original"):
        export_policy(policy, tmp_path / "p.pt2", "torch", observations, NOTE)
    assert not list(tmp_path.iterdir())
    (tmp_path / "p.pt2").write_text("an earlier one")
    with pytest.raises(ExportError, match="not written"):
        export_policy(policy, tmp_path / "p.pt2", "torch", observations, NOTE)
    assert (tmp_path / "p.pt2").read_text() == "an earlier one"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot write the policy"):
        export_policy(policy, tmp_path / "file" / "p.pt2", "torch", observations, NOTE)


def test_what_cannot_be_written_is_told(generator, tmp_path, monkeypatch):
    policy = make_policy(Bandit(), generator)
    with pytest.raises(SettingsError, match="Did you mean 'torch'"):
        export_policy(policy, tmp_path / "p", "pytorch", torch.ones(1, 1), NOTE)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingsError, match=r"pip install 'metarl\[onnx\]'"):
        export_policy(policy, tmp_path / "p.onnx", "onnx", torch.ones(1, 1), NOTE)
