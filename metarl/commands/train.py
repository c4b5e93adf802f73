"""`metarl train`: trains an experiment by its name."""

from __future__ import annotations

from textwrap import fill

HELP = """usage: metarl train EXPERIMENT [OPTIONS]

Trains an experiment and prints its report.

EXPERIMENT is the name of an installed experiment, module:EXPERIMENT, or the path of a script.
`metarl train EXPERIMENT --help` lists its options. Installed:

    {names}
"""


def train(*arguments: str) -> None:
    """Trains an experiment by its name, module:EXPERIMENT or the path of its script.

    A script does the same: `python experiments/sine.py --algorithm reptile`.

    Args:
        arguments: The experiment, and its options.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        from metarl.lab.installed import EXPERIMENTS

        names = fill(", ".join(EXPERIMENTS.names()) or "none", 80, subsequent_indent=" " * 4)
        print(HELP.format(names=names), end="")
        return
    from metarl.lab.lookup import find_experiment

    name, *options = arguments
    find_experiment(name).main(options, prog=f"metarl train {name}")
