import torch
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.training.graph_split import split


def targets(module):
    return [n.target for n in module.graph.nodes if n.op == "call_function"]


def test_the_second_part_does_what_waits_for_the_last_input_and_no_more(generator):
    def function(a, b, c, v):
        early = (a @ b).tanh()
        unused = c.exp() * v
        del unused
        return [early.mT @ (c * v).view(3, 1) + b, early.sum()]

    inputs = [torch.randn(*s, generator=generator) for s in ((3, 3), (3, 3), (3,), (3,))]
    first, second, direct = split(make_fx(function)(*inputs))
    assert direct == [1, 2]  # b is added and c multiplied late
    values = first(*inputs[:-1])
    found = second(*(inputs[i] for i in direct), *values, inputs[-1])
    for a, b in zip(found, function(*inputs), strict=True):
        assert torch.equal(a, b)
    aten = torch.ops.aten
    assert {aten.tanh.default, aten.sum.default} <= set(targets(first))
    assert aten.exp.default not in targets(first) + targets(second)
    assert aten.tanh.default not in targets(second)
    # A transposition is made late, of what was multiplied early.
    assert not any(getattr(t, "is_view", False) for t in targets(first))
    assert all(value.is_contiguous() for value in values)
