"""The graph of learners of streams, which adapt by reading: state in, state out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.deploy.export.capture import Graph, Port, graph_of
from metarl.deploy.export.kinds import Exported, Request, exported, first_task, refuse_horizon
from metarl.deploy.export.state import nested_tensors
from metarl.deploy.export.theta import NEW, Start, start_of
from metarl.learners.memory.stream_reader import StreamReader
from metarl.trees import map_tensors


@exported.register(StreamReader)
def _(learner: StreamReader, request: Request) -> Exported:
    """Returns the graph "read".

    Raises:
        SettingsError: The request has a horizon.
    """
    refuse_horizon(request)
    example = first_task(request.tasks()).query.inputs[0, 0]
    learner = learner.eval()
    with torch.no_grad():
        begun = learner.network.start(1, example.new_zeros(1, 1))
    start = start_of({}, {n: t[0] for n, t in nested_tensors(begun).items()})
    notes = {**learner.code._asdict(), "longest": learner.network.longest}
    return Exported("stream", start, [_read(learner, start, begun, example)], {"stream": notes})


def _read(learner: StreamReader, start: Start, begun: Any, example: Tensor) -> Graph:
    code, network = learner.code, learner.network

    def read(*tensors: Tensor) -> list[Tensor]:
        rows = iter([t.unsqueeze(0) for t in tensors])
        state = map_tensors(lambda _: next(rows), begun)
        inputs, label, started = rows
        features = learner.embedding(inputs.unsqueeze(1), None).squeeze(1)
        # y_{t-1}, one-hot letters; 0 at the first step
        one_hot = code.spell(label).unsqueeze(2) == torch.arange(code.letters)
        previous = one_hot.flatten(1).to(features.dtype) * started.unsqueeze(1)
        encoded = network.encode(torch.cat((features, previous), 1))
        logits, state = network.step(encoded, state)
        moved = nested_tensors(state).values()
        return [t.squeeze(0).detach() for t in (logits.unflatten(1, code), *moved)]

    free: dict[int, str] = {}
    text = "scores of the letters of each character of its label"
    outputs = [("scores", text, free), *((NEW + n, "the next state", free) for n in start.named())]
    ports = [
        *start.ports("state of the memory"),
        Port("inputs", example, "the next example"),
        Port("previous", torch.tensor(code.size - 1), "the label of the example before, or 0"),
        Port("begun", torch.ones(()), "0 at the first example of a stream, else 1"),
    ]
    return graph_of("read", read, ports, outputs, calls=network.longest or 10)
