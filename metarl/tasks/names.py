"""Registry of supervised task distributions."""

from __future__ import annotations

from collections.abc import Callable

from metarl.registry import Registry
from metarl.tasks.base import TaskDistribution
from metarl.tasks.glyphs import Glyphs
from metarl.tasks.image_folder import ImageFolder
from metarl.tasks.omniglot import Omniglot
from metarl.tasks.sine import Sine

DISTRIBUTIONS: Registry[Callable[..., TaskDistribution]] = Registry("task distribution")
"""Name -> function or class that builds the distribution."""

DISTRIBUTIONS.register("sine", Sine)
DISTRIBUTIONS.register("omniglot", Omniglot)
DISTRIBUTIONS.register("glyphs", Glyphs)
DISTRIBUTIONS.register("image-folder", ImageFolder)
