"""Modules in files: the same outputs, gradients and names, without the module's code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from metarl.errors import CheckpointError, SettingsError
from metarl.models import from_module, load_module, save_module
from metarl.models.base import task_params
from metarl.models.modules.stored import KEY
from tests.models.modules.nets import CASES, Outputs, Tied, draw, initialised
from tests.models.modules.odd_nets import ODD

ALL = {**CASES, **ODD}
ROOT = Path(__file__).resolve().parents[3]
NOT_STORED = {
    "branches": "torch.fx cannot trace", "loops": "torch.fx cannot trace",
    "parametrised": "ParametrizedLinear", "low rank": "ParametrizedLinear",
    "squeeze and excitation": "a memory_format", "weights as functions": "the attribute `values`",
    "derived norm": "ScaledNorm", "kept by a hook": "body has hooks",
    "stopped gradients": r"it computes under torch\.no_grad",
}  # fmt: skip


def through_a_file(net, tmp_path):
    path = tmp_path / "net.safetensors"
    save_module(net, path)
    return load_module(path)


def results(net, inputs):
    """Outputs and gradients, in the mode that the module is in."""
    outputs = torch.utils._pytree.tree_flatten(net(inputs))[0]
    loss = torch.stack([o.sin().sum() for o in outputs]).sum()
    params = [p for p in net.parameters() if p.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, params, allow_unused=True)]


@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_STORED])
def test_a_stored_module_computes_the_same(name, tmp_path):
    case = ALL[name]()
    generator = torch.Generator().manual_seed(0)
    net = initialised(case.net, generator).double()
    inputs = draw(case, 1, 5, generator)[0]
    other = through_a_file(net, tmp_path)
    assert list(other.state_dict()) == list(net.state_dict())
    assert [p.requires_grad for p in other.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    for training in (net.training, not net.training):
        net.train(training)
        other.train(training)
        for found, expected in zip(results(other, inputs), results(net, inputs), strict=True):
            torch.testing.assert_close(found, expected)
    for a, b in zip(other.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)  # running statistics, too


@pytest.mark.parametrize("name", ["resnet", "vit", "lstm", "tied"])
def test_it_runs_for_many_tasks_in_the_same_way(name, tmp_path):
    case = CASES[name]()
    net = case.net.double()
    models = [from_module(net), from_module(through_a_file(net, tmp_path))]
    inputs = draw(case, 2, 4, torch.Generator().manual_seed(0))
    outputs = [model(task_params(model, 2), inputs) for model in models]
    torch.testing.assert_close(*outputs)
    kinds = [next(iter(model._choices.values())).kind for model in models]
    assert kinds[0] == kinds[1] == case.kind


@pytest.mark.parametrize(("name", "reason"), NOT_STORED.items())
def test_what_cannot_be_stored_is_refused(name, reason, tmp_path):
    with pytest.raises(SettingsError, match=reason):
        save_module(ALL[name]().net, tmp_path / "net")
    assert not any(tmp_path.iterdir())


def test_outputs_tied_weights_and_single_layers(tmp_path):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    net = Outputs()
    torch.testing.assert_close(through_a_file(net, tmp_path)(x), net(x))
    tied = through_a_file(Tied(), tmp_path)
    assert tied.second.weight is tied.first.weight
    linear = through_a_file(nn.Linear(3, 2, bias=False), tmp_path)
    assert type(linear) is nn.Linear and linear.bias is None and linear.in_features == 3


class Modes(nn.Module):
    """Computes something else in training; holds a table that is no buffer, and one that is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.table = torch.arange(2.0)
        self.register_buffer("scale", torch.tensor([2.0, 3.0]), persistent=False)

    def forward(self, x, mask=None):
        x = self.linear(x) + self.table
        x = x if mask is None else x * mask
        return x * self.scale if self.training else x


def test_modes_masks_constants_and_buffers(tmp_path):
    net = Modes()
    other = through_a_file(net, tmp_path)
    x, mask = torch.randn(4, 3), torch.tensor([[True, False]] * 4)
    for mode in (True, False):
        net.train(mode)
        other.train(mode)
        torch.testing.assert_close(other(x), net(x))
        torch.testing.assert_close(other(x, mask=mask), net(x, mask=mask))
    assert list(other.state_dict()) == ["linear.weight", "linear.bias"]


class Called(nn.Module):
    """Applies a function to the outputs of a layer."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


def test_functions_that_do_more_than_compute_are_not_stored(tmp_path):
    for function in (lambda y: y.requires_grad_(), lambda y: y.data, torch.linalg.inv):
        with pytest.raises(SettingsError, match=r"it (calls|reads)"):
            save_module(Called(function), tmp_path / "net")
    hooked = nn.Sequential(nn.Linear(3, 2))
    hooked[0].register_forward_hook(print)
    with pytest.raises(SettingsError, match="0 has hooks"):
        save_module(hooked, tmp_path / "net")


def changed(path, change):
    """Rewrites a stored module with another description."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    change(header["modules"][""])
    safetensors.torch.save_file(tensors, path, {KEY: json.dumps(header)})


def steps(module):
    return module["graphs"]["training"]["inputs"]["steps"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: steps(m).append(["x", "function", "os.system", ["true"], {"dict": {}}]),
        lambda m: steps(m).append(["x", "function", "torch.load", ["file"], {"dict": {}}]),
        lambda m: steps(m).append(["x", "method", "__reduce__", [{"node": "x"}], {"dict": {}}]),
        lambda m: steps(m).append(
            ["y", "function", "getattr", [{"node": "inputs_1"}, "__class__"], {"dict": {}}]
        ),
        lambda m: steps(m).append(["x", "layer", "nothing", [], {"dict": {}}]),
        lambda m: steps(m).append(["x", "tensor", "__class__"]),
        lambda m: steps(m).append(["x", "value", {"node": "later"}]),
        lambda m: steps(m).append(["x", "anything", "y"]),
        lambda m: m["tree"]["modules"]["0"].update(layer="Module.__subclasses__"),
        lambda m: m["tree"]["modules"]["0"].update(layer="LazyLinear"),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(forward=1),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(_forward_hooks={"dict": {}}),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(__class__=1),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(a={"function": "eval"}),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(a={"function": "getattr"}),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(_compiled_call_impl=None),
        lambda m: m["tree"]["modules"]["0"]["attributes"].update(extra_repr="text"),
        lambda m: m["tree"]["modules"]["0"].update(
            layer="Conv1d", attributes={"_conv_forward": {"function": "operator.add"}}
        ),
        lambda m: steps(m).append(["x", "value", {"function": "getattr"}]),
        lambda m: m["tree"]["modules"]["0"]["tensors"]["weight"].update(shape=[1, 2]),
        lambda m: m["tree"]["modules"]["0"]["tensors"]["weight"].update(dtype="load"),
        lambda m: m.pop("tree"),
        lambda m: m.update(graphs=3),
    ],
)
def test_files_that_name_anything_else_are_refused(change, tmp_path):
    path = tmp_path / "net.safetensors"
    save_module(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), path)
    changed(path, change)
    with pytest.raises(CheckpointError, match="Expected a file that `save_module` wrote"):
        load_module(path)


@pytest.mark.parametrize(
    "step",
    [
        ["method", "split", ["a text", " "], {"dict": {}}],
        ["method", "repeat", [{"function": "torch.add"}], {"dict": {}}],
        ["function", "getattr", [{"tuple": [1, 2]}, "shape"], {"dict": {}}],
        ["function", "getattr", [{"dtype": "float32"}, "T"], {"dict": {}}],
    ],
)
def test_members_of_other_objects_than_tensors_are_not_read(step, tmp_path):
    path = tmp_path / "net.safetensors"
    save_module(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), path)
    changed(path, lambda m: steps(m).append(["x", *step]))
    with pytest.raises(SettingsError, match="expected of a tensor: its file is damaged"):
        load_module(path).train()(torch.zeros(1, 3))


PROGRAM = """
import json, sys
from pathlib import Path
import timeit, torch
from torch import nn
from metarl.errors import MetarlError
from metarl.models import load_module, save_module
from tests.models.modules.test_stored import changed, steps

def reads(name):  # a layer whose `forward` would be getattr(input, name, None)
    return {"training": True, "layer": "Conv1d", "tensors": {}, "modules": {}, "attributes": {
        "_conv_forward": {"function": "getattr"}, "weight": name, "bias": None}}

def forge(module):
    names = ["__repr__", "__globals__", "sys", "modules"]
    module["tree"]["modules"] |= {f"g{i}": reads(name) for i, name in enumerate(names)}
    none, node = {"dict": {}}, lambda name: [{"node": name}]
    item = lambda value, key: ["function", "operator.getitem", [*node(value), key], none]
    steps(module)[:0] = [
        ["a", "layer", "g0", node("inputs"), none], ["b", "layer", "g1", node("a"), none],
        ["c", *item("b", "torch")], ["d", "layer", "g2", node("c"), none],
        ["e", "layer", "g3", node("d"), none], ["f", *item("e", "timeit")],
        ["g", "method", "repeat", [*node("f"), "open('ran', 'w')"], {"dict": {"number": 1}}],
    ]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv1d(1, 1, 1)
    def forward(self, inputs):
        return self.c(inputs)

save_module(Net(), "net.safetensors")
changed(Path("net.safetensors"), forge)
try:
    load_module("net.safetensors").train()(torch.zeros(2, 1, 3))
except MetarlError:
    print("refused")
"""


def test_a_forged_module_runs_no_code(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert result.stdout == "refused\n", result.stderr
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match="There is no file"):
        load_module(path)
    for content in (b"", b"PK\3\4 a pickle", bytes(100), safetensors.torch.save({})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="another one or damaged"):
            load_module(path)
    save_module(nn.Linear(3, 2), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        load_module(path)
