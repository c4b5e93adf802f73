"""Module files with steps and options of a stranger: they reach data, and no code."""

import json

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from metarl.models import load_module, save_module
from metarl.models.modules.rebuilt import StoredModule
from metarl.models.modules.vocabulary import ATTRIBUTES, FUNCTIONS, METHODS, is_layer_class
from tests.fuzz.outcomes import explore
from tests.models.modules.test_stored import changed

LAYERS = sorted({n for n in dir(nn) if is_layer_class(getattr(nn, n))} - {"Container"})
NAMES = ["__class__", "__globals__", "__init__", "__reduce__", "apply_", "forward", "os", "system"]
FUNCTION_NAMES = ["getattr", "eval", "os.system", *sorted(FUNCTIONS)]
DATA = (
    Tensor, torch.Size, torch.dtype, torch.device, torch.layout, slice, bool, int, float, complex,
    str, type(None), type(Ellipsis),
)  # fmt: skip


class Net(nn.Module):
    """Reads attributes, calls methods, functions and layers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU())
        self.head = nn.Linear(2, 1)

    def forward(self, inputs):
        hidden = self.body(inputs).mean(-1)
        return self.head(torch.relu(hidden).reshape(hidden.shape[0], -1))


def is_data(value):
    """Returns whether a value can reach no code."""
    if isinstance(value, list | tuple):
        return all(map(is_data, value))
    if isinstance(value, dict):
        return all(map(is_data, value.values()))
    return isinstance(value, DATA) or value in FUNCTIONS.values()


names = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(sorted(METHODS)), st.sampled_from(sorted(ATTRIBUTES))
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), names,
    st.sampled_from(FUNCTION_NAMES).map(lambda name: {"function": name}),
    st.sampled_from(["float32", "load"]).map(lambda name: {"dtype": name}),
)  # fmt: skip


@st.composite
def layers(draw):
    """A layer of torch with options of any name, those of its methods among them."""
    kind = draw(st.sampled_from(["Conv1d", "Conv2d", "Linear"]) | st.sampled_from(LAYERS))
    bases = getattr(nn, kind).__mro__[:-2]  # without Module and object
    methods = [n for c in bases for n in vars(c) if not n.startswith("__")] or ["forward"]
    functions = st.sampled_from(["getattr", "operator.getitem", "torch.add"])
    options = {name: draw(values | names) for name in ("weight", "bias")}
    options |= draw(st.dictionaries(st.sampled_from(methods) | names, values, max_size=3))
    if draw(st.booleans()):
        options[draw(st.sampled_from(methods))] = {"function": draw(functions)}
    return {"training": True, "layer": kind, "attributes": options, "tensors": {}, "modules": {}}


@st.composite
def edits(draw):
    """New layers, and steps that call them, functions and methods, from the first step on."""
    added = draw(st.lists(layers(), max_size=2))
    known, steps = ["inputs"], []
    if added and draw(st.booleans()):
        steps.append(["called", "layer", "added0", [{"node": "inputs"}], {"dict": {}}])
        known.append("called")
    for number in range(draw(st.integers(1, 5))):
        node = st.sampled_from(known).map(lambda name: {"node": name})
        kind = draw(st.sampled_from(["layer", "function", "function", "method", "value"]))
        targets = {
            "layer": [f"added{i}" for i in range(len(added))] or ["head"],
            "function": FUNCTION_NAMES,
            "method": [*sorted(METHODS), *NAMES],
            "value": [draw(values)],
        }[kind]
        target = draw(st.sampled_from(targets))
        arguments = [draw(node), *draw(st.lists(node | values | names, max_size=2))]
        options = {"dict": draw(st.dictionaries(names, values, max_size=1))}
        rest = [] if kind == "value" else [arguments, options]
        steps.append([f"new{number}", kind, target, *rest])
        known.append(f"new{number}")
    return added, steps


@pytest.mark.filterwarnings("ignore")  # layers that torch deprecates, broadcasts, ...
@pytest.mark.parametrize("inputs", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_module_files_reach_data_only(inputs, outcomes, tmp_path, monkeypatch):
    path, original = tmp_path / "net.safetensors", tmp_path / "original.safetensors"
    save_module(Net(), original)
    compute = StoredModule._value

    def checked(self, step, values):
        value = compute(self, step, values)
        assert is_data(value), f"{step} gives {value!r}"
        return value

    monkeypatch.setattr(StoredModule, "_value", checked)

    def check(case):
        added, steps = json.loads(json.dumps(case))
        path.write_bytes(original.read_bytes())

        def change(module):
            module["tree"]["modules"] |= {f"added{i}": layer for i, layer in enumerate(added)}
            for mode in module["graphs"].values():
                mode["inputs"]["steps"][:0] = steps

        changed(path, change)
        with outcomes.one():
            net = load_module(path)
            for mode in (True, False):
                _call(net.train(mode))

    explore(edits(), inputs, check)


def _call(net):
    """Calls a module; what torch refuses is no matter of the file."""
    try:
        net(torch.zeros(2, 1, 3))
    except AssertionError as error:
        if "gives" in str(error):
            raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return
    except (KeyError, OverflowError, ZeroDivisionError, ImportError):
        return
