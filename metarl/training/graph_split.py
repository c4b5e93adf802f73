"""Splits a traced graph of `torch.fx` into what does not depend on the last input and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg


def split(module: GraphModule) -> tuple[GraphModule, GraphModule, list[int]]:
    """Splits a graph by whether a node depends on the last input.

    Args:
        module: A graph from tensors to a sequence of tensors, without side effects.

    Returns:
        The first part, which maps all inputs except the last to a tuple of intermediate values; the
        second part, which maps a selection of these inputs, the intermediate values and the last
        input to the outputs; and the indices of the selected inputs.
    """
    module.graph.eliminate_dead_code()
    *nodes, output = module.graph.nodes
    inputs = [n for n in nodes if n.op == "placeholder"]
    late = {inputs[-1]}
    for node in nodes:
        if late.intersection(node.all_input_nodes):
            late.add(node)
    views, handed = _needed([*late, output], late)
    direct = [i for i, n in enumerate(inputs) if n in handed]
    values = [n for n in nodes if n in handed and n.op != "placeholder"]
    first = _part(module, inputs[:-1], [n for n in nodes if n not in late], tuple(values))
    given = [*(inputs[i] for i in direct), *values, inputs[-1]]
    return (
        first,
        _part(module, given, [n for n in nodes if n in late | views], output.args[0]),
        direct,
    )


def _needed(users: Sequence[Node], late: set[Node]) -> tuple[set[Node], set[Node]]:
    """Returns the nodes outside `late` that the users depend on.

    Returns:
        The views, which cost nothing to compute again, and all other nodes. The inputs of the views
        are included.
    """
    views: set[Node] = set()
    others: set[Node] = set()
    queue = [i for n in users for i in n.all_input_nodes if i not in late]
    while queue:
        node = queue.pop()
        if getattr(node.target, "is_view", False):
            views.add(node)
            queue.extend(node.all_input_nodes)
        else:
            others.add(node)
    return views, others


def _part(
    module: GraphModule, inputs: Sequence[Node], body: Sequence[Node], output: Any
) -> GraphModule:
    """Builds a graph from `inputs` to `output` that consists of the nodes in `body`."""
    graph = Graph()
    copies = {n: graph.placeholder(n.name) for n in inputs}
    for node in body:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(map_arg(output, copies.__getitem__))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
