"""MetaRL: meta-learning and robot adaptation in PyTorch, with tasks as a tensor dimension.

- `metarl.load` opens a trained run to adapt it to a new task.
- `metarl.tasks` has supervised tasks, `metarl.sim` families of control tasks.
- `metarl.models` has networks, `metarl.rl` policies.
- `metarl.adaptation` has the gradient algorithms, `metarl.learners` metric and memory learners.
- `metarl.training` has the outer loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from metarl.startup import end_at_interrupts

end_at_interrupts()

from metarl.gymnasium_ids import register_families  # noqa: E402 - takes half a second

__version__ = "0.2.0"

register_families()

_LAZY = {"load": "metarl.deploy.loading"}


def __getattr__(name: str) -> Any:
    """Imports what is heavy when it is used: `metarl.load`."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
