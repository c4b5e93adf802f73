"""The `metarl` command: what there is, how good a run is, what its adaptation looks like."""

try:
    from metarl.commands.main import main
except KeyboardInterrupt:  # Ctrl-C while the packages are imported
    raise SystemExit(130) from None

__all__ = ["main"]
