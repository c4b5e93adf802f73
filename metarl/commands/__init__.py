"""The `metarl` command: what there is, how good a run is, what its adaptation looks like."""

from metarl.commands.main import main

__all__ = ["main"]
