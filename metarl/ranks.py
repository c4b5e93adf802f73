"""Several processes that share the tasks of a meta-batch; on one process, all does nothing.

Every rank draws the same random numbers and computes on its own slice of the tasks. All ranks
call the functions that exchange something ("exchanges") the same number of times and in the same
order.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.console import say
from metarl.errors import MetarlError, RankError, SettingsError
from metarl.rank_meeting import meet
from metarl.rank_watch import RankWatch
from metarl.trees import filled, take_tasks, tensors_of

T = TypeVar("T")

TIMEOUT = timedelta(days=30)
"""Of torch's own exchanges. `RankWatch` has the time limit, as it can say which rank hangs."""
LARGEST_DRIFT = 1e-3
"""Difference between ranks, relative to the largest number, that rounding does not explain."""
LAUNCHERS = {"SLURM_STEP_NUM_TASKS": "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
"""What `srun` and `mpirun` say: the variables of the number of processes and of this one."""
_watch: RankWatch | None = None
_count, _rank = 1, 0


def start() -> None:
    """Joins the other processes that `torchrun` has started; does nothing without them.

    The second call does nothing either. The output of all ranks but the first is discarded, except
    errors.

    Raises:
        SettingsError: The environment variables of torchrun are incomplete.
        RankError: The other processes cannot be reached.
    """
    global _watch, _count, _rank
    if _watch is not None or not _has_others():
        return
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
    if missing:
        raise SettingsError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {', '.join(missing)} not set: start "
            "several processes by `torchrun -m metarl train ...`, or unset WORLD_SIZE."
        )
    try:
        common, rank, count = next(dist.rendezvous("env://", timeout=timedelta(minutes=10)))
        store = dist.PrefixStore(meet(common, rank, count), common)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        watch = RankWatch(dist.PrefixStore("metarl", store), rank, count)
        with watch.waiting():
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT
            )
            dist.barrier()
    except (RuntimeError, ValueError, OSError) as error:
        raise RankError(f"The other processes cannot be reached: {error}") from error
    _watch, _count, _rank = watch, count, rank
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def _has_others() -> bool:
    """Returns whether torchrun has started several processes; warns of others that did so.

    Raises:
        SettingsError: WORLD_SIZE is no number.
    """
    size = os.environ.get("WORLD_SIZE")
    if size:
        if not size.isdecimal():
            raise SettingsError(f"Expected WORLD_SIZE to be a number of processes, got {size!r}.")
        return int(size) > 1
    for total, number in LAUNCHERS.items():
        if os.environ.get(total, "1") != "1" and os.environ.get(number) == "0":
            say(
                f"RuntimeWarning: {os.environ[total]} processes were started ({total}) without "
                "torchrun: each trains a separate run, with the same numbers where the settings "
                "are the same. To share the tasks, see docs/scaling.md."
            )
    return False


def leave() -> None:
    """Leaves the other processes; from here on there is one."""
    global _watch, _count
    if _watch is not None:
        _watch.stop()
        dist.destroy_process_group()
        _watch, _count = None, 1


def count() -> int:
    """Returns the number of processes."""
    return _count


def rank() -> int:
    """Returns the number of this process, from 0; the first one writes the run folder."""
    return _rank


def is_first() -> bool:
    """Returns whether this is the process that writes and reports."""
    return _rank == 0


def limit_waiting(seconds: float) -> None:
    """Sets after how long a wait for another rank ends all processes; see `RankWatch`."""
    if _watch is not None:
        _watch.limit(seconds)


def bounds(total: int, number: int | None = None) -> tuple[int, int]:
    """Returns the tasks [low, high) of a rank; their numbers differ by at most 1.

    Args:
        total: Number of tasks of all ranks.
        number: The rank; None for this one.

    Raises:
        SettingsError: There are fewer tasks than ranks.
    """
    if total < _count:
        raise SettingsError(
            f"Expected at least one task for each of {_count} processes, got {total}: raise "
            "--training.meta-batch-size, or start fewer processes."
        )
    number = _rank if number is None else number
    size, rest = divmod(total, _count)
    low = number * size + min(number, rest)
    return low, low + size + (number < rest)


def own(value: T, total: int) -> T:
    """Returns this rank's tasks of a value whose tensors have all tasks leading.

    Args:
        value: Nested tensors [total, *].
        total: Number of tasks.

    Raises:
        SettingsError: There are fewer tasks than ranks.
    """
    return value if _count == 1 else take_tasks(value, *bounds(total))


def gather(value: T, total: int) -> T:
    """Returns the tasks of all ranks, in their order: the inverse of `own`.

    Args:
        value: Nested tensors of any types, this rank's tasks leading; the same structure on all
            ranks.
        total: Number of tasks of all ranks.

    Raises:
        RankError: A tensor does not have this rank's number of tasks, or the connection is lost.
    """
    if _count == 1:
        return value
    leaves = tensors_of(value)
    if not leaves:
        return value
    counts = [high - low for low, high in (bounds(total, r) for r in range(_count))]
    _check_rows(leaves, counts[_rank])
    device = leaves[0].device
    rows = [_bytes_per_task(t) for t in leaves]
    packed = torch.zeros(max(counts) * sum(rows), dtype=torch.uint8, device=device)
    flat = [_as_bytes(t).to(device) for t in leaves]
    torch.cat(flat, out=packed[: counts[_rank] * sum(rows)])
    received = [torch.empty_like(packed) for _ in range(_count)]
    with _exchange():
        dist.all_gather(received, packed)
    parts = [_unpacked(r, n, rows, leaves) for r, n in zip(received, counts, strict=True)]
    return filled(value, [torch.cat(tensors) for tensors in zip(*parts, strict=True)])


def total_tasks(mine: int, expected: int) -> int:
    """Returns the number of tasks of all ranks.

    Args:
        mine: Tasks of this rank.
        expected: Tasks of a meta-iteration; on one process, `mine` counts.

    Raises:
        RankError: This rank does not have its share of the tasks.
    """
    if _count == 1:
        return mine
    low, high = bounds(expected)
    if mine != high - low:
        raise RankError(
            f"Expected {high - low} of the {expected} tasks (`meta_batch_size`) on rank {_rank} of "
            f"{_count}, got {mine}. Pass `metarl.ranks.own(inputs, {expected})` to an update."
        )
    return expected


def add_up(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the sums over all ranks, by one message per type of number.

    Args:
        tensors: Of any shapes; the same shapes on all ranks.

    Raises:
        RankError: The connection to another rank is lost.
    """
    if _count == 1:
        return list(tensors)
    sums: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].reshape(-1) for i in places])
        with _exchange():
            dist.all_reduce(flat)
        parts = flat.split([tensors[i].numel() for i in places])
        sums |= {i: part.view(tensors[i].shape) for i, part in zip(places, parts, strict=True)}
    return [sums[i] for i in range(len(tensors))]


def any_true(flag: bool) -> bool:
    """Returns whether a flag is set on any rank.

    Raises:
        RankError: The connection to another rank is lost.
    """
    if _count == 1:
        return flag
    value = torch.tensor([flag], dtype=torch.int32)
    with _exchange():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def from_first(make: Callable[[], T]) -> T:
    """Returns what a function returns on the first rank; the others do not call it.

    Args:
        make: Returns a value that can be pickled, with tensors on the CPU.

    Raises:
        RankError: The function has failed on the first rank, where its own error is raised.
    """
    if _count == 1:
        return make()
    message: list[Any] = [False, None]
    failure: BaseException | None = None
    if is_first():
        try:
            message = [True, make()]
        except BaseException as error:
            failure = error
    with _exchange():
        dist.broadcast_object_list(message)
    if failure is not None:
        raise failure
    if not message[0]:
        raise RankError("Rank 0 has failed; its error says why.")
    return message[1]


def from_all(value: T) -> list[T]:
    """Returns the values of all ranks, in their order.

    Args:
        value: Can be pickled, with tensors on the CPU.

    Raises:
        RankError: The connection to another rank is lost.
    """
    values: list[Any] = [value] * _count
    if _count > 1:
        with _exchange():
            dist.all_gather_object(values, value)
    return values


def take_over(tensors: Sequence[Tensor]) -> None:
    """Copies the first rank's numbers into tensors that were equal but for rounding.

    Equal computers compute the same bits. Different ones drift apart by rounding.

    Args:
        tensors: Float tensors, changed in place.

    Raises:
        RankError: They differ by more than rounding, or the connection is lost.
    """
    tensors = [t for t in tensors if t.is_floating_point() and t.numel()]
    if _count == 1 or not tensors:
        return
    mine = torch.cat([t.detach().reshape(-1).double() for t in tensors])
    first = mine.clone()
    with _exchange():
        dist.broadcast(first, 0)
    scale = first.abs().max().clamp(min=1e-12)
    drift = float((mine - first).abs().max() / scale)
    if drift > LARGEST_DRIFT:  # comparisons with NaN are false: those are found elsewhere
        raise RankError(
            f"The parameters of rank {_rank} and rank 0 differ by {drift:.2g} of the largest one. "
            "All ranks must begin with the same weights and run the same code: draw the weights "
            "from a generator with the seed of the settings."
        )
    if drift:
        parts = first.split([t.numel() for t in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    assert _watch is not None
    try:
        with _watch.waiting():
            yield
    except RuntimeError as error:
        if isinstance(error, MetarlError):
            raise
        raise RankError(
            f"Rank {_rank} lost the connection to another rank, which has ended or cannot be "
            "reached. The run can go on from its last checkpoint with --resume auto; torchrun "
            f"--max-restarts N does that by itself. ({error})"
        ) from error


def _check_rows(leaves: Sequence[Tensor], mine: int) -> None:
    wrong = [list(t.shape) for t in leaves if t.dim() == 0 or t.shape[0] != mine]
    if wrong:
        raise RankError(
            f"Expected tensors with {mine} tasks leading on rank {_rank}, got the shape {wrong[0]}."
        )


def _as_bytes(tensor: Tensor) -> Tensor:
    # A copy, as a tensor of one row counts as contiguous with any stride.
    copy = tensor.clone(memory_format=torch.contiguous_format)
    return copy.reshape(-1).view(torch.uint8)


def _bytes_per_task(tensor: Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()


def _unpacked(
    received: Tensor, tasks: int, rows: Sequence[int], leaves: Sequence[Tensor]
) -> list[Tensor]:
    """Returns the tensors [tasks, *] of one rank from its bytes."""
    parts = received[: tasks * sum(rows)].split([tasks * row for row in rows])
    # A copy of a part begins where numbers of any type may begin.
    return [
        part.clone().view(leaf.dtype).view(tasks, *leaf.shape[1:]).to(leaf.device)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
