"""Cuts a captured graph in two: what can be computed before the last input is known; the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg


def split(module: GraphModule) -> tuple[GraphModule, GraphModule, list[int]]:
    """Cuts a graph by what depends on its last input.

    Args:
        module: From tensors to a sequence of tensors, without side effects.

    Returns:
        The first part, from all inputs but the last to a tuple of values; the second, from some of
        these inputs, the values and the last input to the outputs; and the places of these inputs.
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
    """Returns which other nodes the users need: views, free to make again, and all else."""
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
    graph = Graph()
    copies = {n: graph.placeholder(n.name) for n in inputs}
    for node in body:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(map_arg(output, copies.__getitem__))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
