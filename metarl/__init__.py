"""MetaRL: meta-learning and robot adaptation in PyTorch, tasks as a tensor dimension."""

from metarl.gymnasium_ids import register_families

__version__ = "0.1.0"

register_families()
