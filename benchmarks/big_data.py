"""Few-shot tasks from a file that does not fit into the memory: memory and rates.

    python -m benchmarks.big_data                            # a NumPy file of 20 GB
    python -m benchmarks.big_data --source arrow
    python -m benchmarks.big_data --gigabytes 2 --batches 20

Makes a file of uint8 examples of 256 KiB in a temporary folder. The file is sparse: only the page
with the number of each example takes space on the disk (about 1.6 % of the size), so that the rates
are those of reading from the page cache and of copying, not those of a disk. Prints the peak of the
resident memory, anonymous (what the program holds) and of mapped files (clean pages, which the
system takes back at any time), and batches per second: sampling alone, with some training after
each batch, and the same with `Background`. The tasks of the last two are compared bit by bit.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from metarl.tasks import Background, FewShotData
from metarl.tasks.base import TaskBatch, TaskSource

EXAMPLE_BYTES = 1 << 18
PAGE = 1 << 12
CLASS_SIZE = 64
TASKS = 4
ROWS_PER_BATCH = 32  # of the Arrow file
Source = Literal["numpy", "arrow"]


@dataclass
class Memory:
    """The peaks of the resident memory since the first call of `look`, in MiB.

    Attributes:
        anonymous: Peak of what is not of files.
        files: Peak of the pages of mapped files.
    """

    anonymous: float = 0.0
    files: float = 0.0

    def look(self) -> None:
        """Reads the present values (Linux)."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        values = {
            name: int(kib) / 1024 for name, kib in re.findall(r"(Rss\w+):\s+(\d+) kB", status)
        }
        self.anonymous = max(self.anonymous, values["RssAnon"])
        self.files = max(self.files, values["RssFile"])


class SparseFile(io.RawIOBase):
    """A file in which pages of zeros take no space.

    Args:
        path: The file, which is created.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.open("wb")
        self.position = 0

    def writable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the number of bytes that were written."""
        return self.position

    def write(self, data: Any) -> int:
        """Writes the pages that are not zero."""
        values = np.frombuffer(data, dtype=np.uint8)
        for start in range(0, len(values), PAGE):
            page = values[start : start + PAGE]
            if page.any():
                self.file.seek(self.position + start)
                self.file.write(page.tobytes())
        self.position += len(values)
        return len(values)

    def close(self) -> None:
        """Sets the length of the file and closes it."""
        if not self.closed:
            self.file.truncate(self.position)
            self.file.close()
        super().close()


def numpy_examples(folder: Path, count: int) -> np.memmap:
    """Returns `count` examples as a NumPy file, mapped; each begins with its number."""
    path = folder / "examples.npy"
    shape = (count, EXAMPLE_BYTES)
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    mapped = np.load(path, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    with path.open("r+b") as file:
        for row in range(count):
            os.pwrite(file.fileno(), row.to_bytes(8, "little"), mapped.offset + row * EXAMPLE_BYTES)
    return mapped


def arrow_examples(folder: Path, count: int) -> Any:
    """Returns `count` examples as an Arrow file, mapped; each begins with its number."""
    import pyarrow as pa

    path = folder / "examples.arrow"
    kind = pa.list_(pa.uint8(), EXAMPLE_BYTES)
    schema = pa.schema([("example", kind)])
    with SparseFile(path) as file, pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
        for start in range(0, count, ROWS_PER_BATCH):
            number = min(ROWS_PER_BATCH, count - start)
            values = np.zeros((number, EXAMPLE_BYTES), np.uint8)
            values[:, :8] = np.arange(start, start + number)[:, None].view(np.uint8).reshape(-1, 8)
            flat = pa.array(values.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, EXAMPLE_BYTES)
            writer.write_batch(pa.record_batch([column], schema=schema))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def big_tasks(folder: Path, source: Source, gigabytes: float) -> Any:
    """Returns 5-way 1-shot tasks with 3 queries of the examples of a new file."""
    count = int(gigabytes * 1e9) // EXAMPLE_BYTES
    labels = np.arange(count) // CLASS_SIZE
    kinds: dict[str, Any] = {"way": 5, "shots": 1, "queries": 3, "min_images": CLASS_SIZE}
    if source == "numpy":
        return FewShotData(numpy_examples(folder, count), labels, **kinds)
    data = arrow_examples(folder, count)
    return FewShotData(data, labels, inputs="example", in_memory=False, **kinds)


def train(tasks: TaskBatch, weight: torch.Tensor, repeats: int) -> None:
    """Stands for training on a batch: matrix products."""
    inputs = tasks.support.inputs.flatten(0, 1)[:, : weight.shape[0]]
    for _ in range(repeats):
        torch.mm(inputs, weight)


def run(tasks: TaskSource, batches: int, repeats: int, memory: Memory) -> tuple[float, int]:
    """Samples batches and trains on each.

    Returns:
        Batches per second, after the first, and a checksum of all tasks.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(4096, 4096, generator=torch.Generator().manual_seed(1))
    checksum, started = 0, 0.0
    for number in range(batches + 1):
        batch = tasks.sample(TASKS, generator)
        train(batch, weight, repeats)
        checksum = hash((checksum, *_numbers(batch)))
        memory.look()
        if number == 0:
            started = time.perf_counter()
    return batches / (time.perf_counter() - started), checksum


def _numbers(batch: TaskBatch) -> Iterator[int]:
    """Yields the number of each example, from its first bytes, and the sum of its values."""
    for part in (batch.support, batch.query):
        first = (part.inputs[..., :8] * 255).round().long()
        yield from (first * 256 ** torch.arange(8)).sum(-1).flatten().tolist()
        yield round(float(part.inputs.sum()) * 255)


def main() -> None:
    """Makes the file, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=get_args(Source), default="numpy")
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=20, help="matrix products after each batch")
    parser.add_argument("--ahead", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        tasks = big_tasks(Path(name), options.source, options.gigabytes)
        batch_mib = TASKS * 20 * EXAMPLE_BYTES * 4 / 2**20
        print(
            f"{options.source}, {options.gigabytes:g} GB, {len(tasks.pool.source)} examples; a "
            f"batch of {TASKS} tasks: {TASKS * 20} examples, {batch_mib:.0f} MiB as float32"
        )
        start = Memory()
        start.look()
        print(f"before: {start.anonymous:.0f} MiB anonymous, {start.files:.0f} MiB of files")
        background = Background(tasks, options.ahead)
        cases = (
            ("sampling alone", tasks, 0),
            ("with training", tasks, options.repeats),
            ("with training, sampled ahead", background, options.repeats),
        )
        checksums = set()
        for label, source, repeats in cases:
            memory = Memory()
            rate, checksum = run(source, options.batches, repeats, memory)
            checksums.add(checksum)
            print(
                f"{label:30} {rate:7.2f} batches/s   peak {memory.anonymous:6.0f} MiB anonymous, "
                f"{memory.files:6.0f} MiB of files"
            )
        background.close()
        print("the tasks are the same" if len(checksums) == 1 else "THE TASKS DIFFER")


if __name__ == "__main__":
    main()
