"""Compiles the kernels of MuJoCo Warp on all CPUs before they are launched.

Only `physics` imports this module, since Warp is optional.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from metarl.console import say

# `Any`: Warp may not be installed when type checkers run.
wp: Any = importlib.import_module("warp")

MOST = 8
"""Modules that are compiled at once; a compiler takes some hundred MB."""


def load_kernels(body: Callable[[], None], device: Any) -> None:
    """Compiles and loads the modules of all kernels that a function launches, in parallel.

    Warp compiles a module when its first kernel is launched, one after the other. Here the function
    is called without launching anything, to find the modules. Those of generic kernels, which
    depend on the arguments, are left to the first launch.

    Args:
        body: A function that launches kernels by `wp.launch` and `wp.launch_tiled` and does not
            read their results.
        device: The Warp device.
    """
    variants: dict[int | None, dict[Any, None]] = {}

    def note(
        kernel: Any, dim: Any, *args: Any, block_dim: int | None = None, **kwargs: Any
    ) -> None:
        launched = all(dim) if isinstance(dim, Sequence) else bool(dim)
        if launched and not kernel.is_generic:
            variants.setdefault(block_dim, {})[kernel.module] = None

    def repeat(condition: Any, while_body: Any, stream: Any = None, **kwargs: Any) -> None:
        while_body(**kwargs)

    def branch(
        condition: Any, on_true: Any = None, on_false: Any = None, stream: Any = None, **kwargs: Any
    ) -> None:
        for run in (on_true, on_false):
            if run is not None:
                run(**kwargs)

    with _replaced(launch=note, launch_tiled=note, capture_while=repeat, capture_if=branch):
        body()
    workers = min(os.cpu_count() or 1, MOST)
    try:
        for block_dim, modules in variants.items():
            wp.force_load(device, list(modules), block_dim, max_workers=workers)
    except RuntimeError as error:  # the launches compile them too, and say what is wrong
        say(f"Warp's kernels are compiled one after the other: {error}")


@contextmanager
def _replaced(**functions: Callable[..., None]) -> Iterator[None]:
    """Replaces functions of Warp in this thread while a block runs."""
    originals, owner = {name: getattr(wp, name) for name in functions}, threading.get_ident()

    def replaced(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mine = threading.get_ident() == owner
            return (functions if mine else originals)[name](*args, **kwargs)

        return call

    for name in functions:
        setattr(wp, name, replaced(name))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(wp, name, function)
