"""Runs a traced module for T tasks at once, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import map_arg
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from metarl.models.functional import batch_norm
from metarl.models.modules import layers
from metarl.models.modules.functions import FUNCTIONS, METHODS, Form
from metarl.models.modules.observed import tensors_of
from metarl.models.modules.passes import Pass
from metarl.models.modules.routes import Tensors, vmapped
from metarl.models.modules.skeleton import BATCH_NORMS, Skeletons, call, kind_of
from metarl.models.modules.tracing import constants_of, path_of, traced
from metarl.models.modules.values import Folded, GraphRun, Layer, NoForm, Value, dimensions_of

Compute = Callable[[GraphRun, dict[fx.Node, Value]], Value]
"""Computes the value of a node from those of the nodes before it."""


class Step(NamedTuple):
    """A node or a group of nodes, computed at once.

    Attributes:
        node: The node, the last one of a group.
        compute: Its computation.
        sources: The nodes that it reads.
    """

    node: fx.Node
    compute: Compute
    sources: list[fx.Node]


class GraphRoute:
    """Runs a module as a graph whose nodes have a form for T tasks, or run by `vmap` each.

    Args:
        net: The module.
        with_mask: Whether it receives a mask.

    Attributes:
        by_vmap: Names of the layers and functions that run by `vmap`, in order.

    Raises:
        NotTraceable: The module has no graph.
        SettingsError: The module draws random numbers.
    """

    def __init__(self, net: nn.Module, with_mask: bool) -> None:
        graph, root = traced(net, with_mask)
        self.by_vmap: list[str] = []
        self._modules: dict[str, nn.Module] = dict(root.named_modules())
        self._constants = constants_of(root, graph)
        fused = fusable(graph, self._modules)
        self._steps: list[Step] = []
        self._inputs: list[fx.Node] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                self._inputs.append(node)
            elif node.op == "output":
                self._output = node.args[0]
            elif node not in fused:
                self._steps.append(Step(node, self._prepared(node), node.all_input_nodes))
            elif (step := fused[node]) is not None:
                self._steps.append(step)
        self._dead = _last_uses(self._steps, self._output)

    def __call__(
        self, params: Tensors, buffers: Tensors, inputs: Tensor, mask: Tensor | None, here: Pass
    ) -> Any:
        run = GraphRun(inputs.shape[0], params, buffers, here)
        given = [inputs] if mask is None else [inputs, mask]
        values: dict[fx.Node, Value] = dict(zip(self._inputs, given, strict=True))
        for step, dead in zip(self._steps, self._dead, strict=True):
            values[step.node] = step.compute(run, values)
            for old in dead:
                del values[old]
        return _of_python(run_plain(run, map_arg(self._output, values.__getitem__)))

    def _prepared(self, node: fx.Node) -> Compute:
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "call_module":
            return self._layer(node)
        if node.op == "call_method":
            target = str(node.target)
            return self._function(node, METHODS.get(target), getattr(Tensor, target))
        return self._function(node, FUNCTIONS.get(node.target), node.target)

    def _attribute(self, node: fx.Node) -> Compute:
        target = str(node.target)
        if target not in self._constants:
            name = path_of(target)
            return lambda run, values: run.tensor(name)
        constant = self._constants[target]
        if not isinstance(constant, Tensor):
            return lambda run, values: constant
        return lambda run, values: constant.expand(run.num_tasks, *constant.shape)

    def _layer(self, node: fx.Node) -> Compute:
        target = str(node.target)
        module, path = self._modules[target], path_of(target)
        layer, skeletons = Layer(module, path), None
        form, dims = layers.FORMS.get(kind_of(module), (None, None))
        if form is None or not layers.has_form(module) or len(node.args) != 1 or node.kwargs:
            form, skeletons = None, Skeletons(module, path)
            self.by_vmap.append(f"{path or 'module'} ({type(module).__name__})")

        def compute(run: GraphRun, values: dict[fx.Node, Value]) -> Value:
            nonlocal skeletons
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            if form is not None and (dims is None or dimensions_of(args[0]) in dims):
                return form(run, layer, args[0])
            skeletons = skeletons or Skeletons(module, path)
            return _layer_by_vmap(run, layer, skeletons.get(), args, kwargs)

        return compute

    def _function(self, node: fx.Node, form: Form | None, function: Any) -> Compute:
        name = getattr(function, "__name__", str(function))
        if form is None:
            self.by_vmap.append(name)

        def compute(run: GraphRun, values: dict[fx.Node, Value]) -> Value:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            if form is not None:
                try:
                    return form(run, function, *args, **kwargs)
                except (NoForm, TypeError):  # TypeError: of arguments that the form does not take
                    if name not in self.by_vmap:
                        self.by_vmap.append(name)
            return _function_by_vmap(run, function, args, kwargs)

        return compute


def run_plain(run: GraphRun, value: Any) -> Any:
    """Returns nested values with folded tensors unfolded."""
    return tree_map(run.plain, value, is_leaf=lambda v: isinstance(v, Folded))


def fusable(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[fx.Node, Step | None]:
    """Finds convolutions whose normalisation, activation and pooling run together.

    With the sign of the scale moved into the filters, normalisation and ReLU are non-decreasing and
    commute with max-pooling, so they run on a fraction of the pixels. A bias before a normalisation
    by the batch's mean has no effect but on that mean.

    Returns:
        The last node of each group with its computation, the other nodes of the group with None.
    """
    found: dict[fx.Node, Step | None] = {}
    for conv in graph.nodes:
        if not isinstance(_module(conv, modules), layers.CONV):
            continue
        norm = _only_user(conv)
        if not _is_form(conv, modules) or not _is_norm(norm, modules):
            continue
        assert norm is not None
        relu = _only_user(norm)
        pool = _only_user(relu) if _is_relu(relu, modules) else None
        group = [conv, norm]
        if pool is not None and _is_max_pool(pool, modules):
            assert relu is not None
            group += [relu, pool]
        found.update(dict.fromkeys(group[:-1]))
        found[group[-1]] = Step(group[-1], _fused(group, modules), conv.all_input_nodes)
    return found


def _fused(group: list[fx.Node], modules: dict[str, nn.Module]) -> Compute:
    conv, norm = (Layer(modules[str(n.target)], path_of(str(n.target))) for n in group[:2])
    source = group[0].args[0]
    pool = modules[str(group[3].target)] if len(group) > 2 else None

    def compute(run: GraphRun, values: dict[fx.Node, Value]) -> Value:
        inputs, scale = values[source], norm.tensor(run, "weight")  # pyright: ignore[reportArgumentType]
        bias = conv.tensor(run, "bias")
        if pool is None:
            hidden = layers.filtered(run, conv, inputs)
            return layers.normalise(run, norm, hidden, None if bias is None else bias.flatten())
        sign = None
        if scale is not None:
            sign = torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)
            scale = (scale * sign).flatten()
        hidden = layers.filtered(run, conv, inputs, sign)
        shift = None
        if bias is not None:
            shift = (bias if sign is None else bias * sign).flatten()
        mean, variance = layers.moments_of(run, norm, hidden, sign, shift)
        offset = norm.tensor(run, "bias")
        scale = torch.ones_like(mean) if scale is None else scale
        offset = torch.zeros_like(mean) if offset is None else offset.flatten()
        pooled = pool(hidden)
        eps = norm.module.eps
        return Folded(torch.relu(batch_norm(pooled, mean, variance, scale, offset, eps)))

    return compute


def _layer_by_vmap(
    run: GraphRun, layer: Layer, skeleton: nn.Module, args: Any, kwargs: Any
) -> Value:
    own, buffers = (_of_layer(layer, tensors) for tensors in (run.params, run.buffers))

    def one(params: Tensors, own_args: Any, own_kwargs: Any) -> Any:
        return call(skeleton, {**params, **buffers}, own_args, **own_kwargs)

    return _per_task(run, one, own, args, kwargs)


def _function_by_vmap(run: GraphRun, function: Any, args: Any, kwargs: Any) -> Value:
    if tensors_of((args, kwargs)):
        return _per_task(run, lambda _, own, named: function(*own, **named), {}, args, kwargs)
    result = function(*args, **kwargs)
    return result.expand(run.num_tasks, *result.shape) if isinstance(result, Tensor) else result


def _per_task(
    run: GraphRun, one: Callable[[Any, Any, Any], Any], params: Tensors, args: Any, kwargs: Any
) -> Value:
    """Calls one(params, args, kwargs) with the parameters and arguments of each task."""
    leaves, structure = tree_flatten(run_plain(run, (args, kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def of_task(task: dict[str, Any]) -> Any:
        given = list(leaves)
        for i, tensor in zip(places, task["tensors"], strict=True):
            given[i] = tensor
        return one(task["params"], *tree_unflatten(given, structure))

    values = {"params": params, "tensors": [leaves[i] for i in places]}
    return vmapped(of_task, values, run.here)


def _of_layer(layer: Layer, tensors: Tensors) -> dict[str, Tensor]:
    """Returns the tensors of a layer, named as in the layer."""
    prefix = f"{layer.path}." if layer.path else ""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _of_python(value: Any) -> Any:
    """Returns nested outputs with dicts and lists of Python, not those of `torch.fx`."""
    if isinstance(value, immutable_dict):
        return {name: _of_python(v) for name, v in value.items()}
    if isinstance(value, immutable_list):
        return [_of_python(v) for v in value]
    return tuple(map(_of_python, value)) if type(value) is tuple else value


def _last_uses(steps: list[Step], output: Any) -> list[list[fx.Node]]:
    """Returns for each step the nodes whose values no later step reads."""
    kept: set[fx.Node] = set()
    map_arg(output, kept.add)
    last: dict[fx.Node, int] = {}
    for i, step in enumerate(steps):
        last.update(dict.fromkeys((*step.sources, step.node), i))
    dead: list[list[fx.Node]] = [[] for _ in steps]
    for node, i in last.items():
        if node not in kept:
            dead[i].append(node)
    return dead


def _module(node: fx.Node | None, modules: dict[str, nn.Module]) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    return modules[str(node.target)]


def _only_user(node: fx.Node | None) -> fx.Node | None:
    """Returns the only node that reads a node's value."""
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _is_form(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = _module(node, modules)
    if len(node.args) != 1 or node.kwargs:
        return False
    return module is not None and kind_of(module) in layers.FORMS and layers.has_form(module)


def _is_norm(node: fx.Node | None, modules: dict[str, nn.Module]) -> bool:
    module = _module(node, modules)
    return module is not None and kind_of(module) in BATCH_NORMS and layers.has_form(module)


def _is_relu(node: fx.Node | None, modules: dict[str, nn.Module]) -> bool:
    module = _module(node, modules)
    if module is not None and kind_of(module) is nn.ReLU:
        return True
    return node is not None and node.target in (torch.relu, torch.nn.functional.relu, "relu")


def _is_max_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = _module(node, modules)
    kinds = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    return module is not None and kind_of(module) in kinds and layers.has_form(module)
