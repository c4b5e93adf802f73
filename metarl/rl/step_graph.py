"""One CUDA graph for all between two steps of a physics engine, and what it records of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from metarl.cuda_graphs import Driver, Replay, capture_in_place
from metarl.sim.family import WorldState
from metarl.sim.physics_env import PhysicsVectorEnv
from metarl.trees import map_tensors, tensors_of


class StepMemory(Protocol):
    """Interface of the memory of a graph: nested tensors, those of the engine among them."""

    @property
    def engine(self) -> dict[str, Tensor]:
        """The engine's memory; see `PhysicsVectorEnv.engine`."""
        ...


M = TypeVar("M", bound=StepMemory)


class StepGraph(Generic[M]):
    """Plays episodes with two launches per step: that of the physics, and a graph.

    The graph is captured in the first episode and compared with the function; where it cannot be
    captured, or differs, the function runs as it is, and a line says why.

    Args:
        what: What is played, for the messages: "rollouts".
        env: The worlds.
        driver: What captures; None for CUDA.

    Attributes:
        refused: Why the steps run without a graph; None if they have one, or were not played.
    """

    def __init__(self, what: str, env: PhysicsVectorEnv, driver: Driver | None) -> None:
        self.refused: str | None = None
        self._what = what
        self._env = env
        self._driver = driver
        self._memory: M | None = None
        self._key: Any = None
        self._replay: Replay | None = None

    def memory(self, inputs: Any, fixed: Iterable[Tensor], allocate: Callable[[], M]) -> M:
        """Returns the memory of the graph; new one if the inputs have another structure.

        Args:
            inputs: What an episode is played with, nested tensors.
            fixed: Tensors that the graph reads where they are.
            allocate: Returns new memory.
        """
        key = [(t.shape, t.dtype) for t in tensors_of(inputs)], [t.data_ptr() for t in fixed]
        if self._memory is None or self._key != key:
            self._memory, self._key, self._replay = allocate(), key, None
        return self._memory

    def play(
        self,
        memory: M,
        horizon: int,
        choose: Callable[[M], None],
        look: Callable[[M], object],
        between: Callable[[M], None],
    ) -> None:
        """Plays an episode of `horizon` steps in memory that holds its inputs.

        Args:
            memory: What `memory` returned; the environment holds it.
            horizon: Number of steps, H.
            choose: Writes the controls of the first step.
            look: Reads the last state.
            between: Reads a state and writes the controls of the next step.
        """
        choose(memory)
        self._env.run()
        for _ in range(horizon - 1):
            if self._replay is None:
                self._replay = self._capture(memory, between)
            self._replay()
            self._env.run()
        look(memory)

    def _capture(self, memory: M, between: Callable[[M], None]) -> Replay:
        def on(memory: M) -> None:
            engine, self._env.engine = self._env.engine, memory.engine
            between(memory)
            self._env.engine = engine

        replay, self.refused = capture_in_place(self._what, on, memory, self._driver)
        return replay


def empty_rows(values: Any, count: int) -> Any:
    """Returns memory for `count` nested values, with a first dimension of the steps."""
    return map_tensors(lambda tensor: tensor.new_empty(count, *tensor.shape), values)


def record(records: Any, values: Any, step: Tensor) -> None:
    """Writes nested values into the row `step`, [1] int64, of records."""
    map_tensors(lambda r, v: r.index_copy_(0, step, v.unsqueeze(0)), records, values)


def write(memory: Any, values: Any) -> None:
    """Copies the tensors of a nested value into memory; a tensor is not copied onto itself."""
    both = zip(tensors_of(memory), tensors_of(values), strict=True)
    pairs = [(t, s) for t, s in both if t is not s]
    if pairs:
        targets, sources = (list(column) for column in zip(*pairs, strict=True))
        torch._foreach_copy_(targets, sources)


def rows_of(records: WorldState, count: int) -> list[WorldState]:
    """Returns the states of all steps as copies: the next episode overwrites the records."""
    copies = map_tensors(Tensor.clone, records)
    return [map_tensors(lambda t, i=i: t[i], copies) for i in range(count)]
