"""MetaRL: meta-learning and robot adaptation in PyTorch, tasks as a tensor dimension."""

__version__ = "0.1.0"
