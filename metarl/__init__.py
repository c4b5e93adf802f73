"""MetaRL: meta-learning and robot adaptation in PyTorch, tasks as a tensor dimension."""

from metarl.gymnasium_ids import register_families

__version__ = "0.2.0.dev0"

register_families()
