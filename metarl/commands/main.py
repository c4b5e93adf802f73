"""The entry point of `metarl`: one subcommand per module of this package.

The modules import what is heavy when they run, so that `metarl --help` is quick.
"""

from __future__ import annotations

import sys

import tyro

import metarl
from metarl.commands.adapt import adapt
from metarl.commands.compare import compare
from metarl.commands.evaluate import evaluate
from metarl.commands.export import export
from metarl.commands.list import list_names
from metarl.commands.play import play
from metarl.commands.pull import pull
from metarl.commands.push import push
from metarl.commands.runs import runs
from metarl.commands.train import train
from metarl.commands.tune import tune
from metarl.console import run_script
from metarl.help_texts import with_joined_help

COMMANDS = {
    "train": train,
    "list": list_names,
    "runs": runs,
    "compare": compare,
    "evaluate": evaluate,
    "play": play,
    "export": export,
    "adapt": adapt,
    "push": push,
    "pull": pull,
    "tune": tune,
}


def main() -> None:
    """Runs the subcommand of the command line; prints errors without a traceback."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        run_script(lambda: print(f"metarl {metarl.__version__}"))
    elif arguments[:1] == ["train"]:
        run_script(lambda: train(*arguments[1:]))
    elif arguments[:1] == ["tune"]:
        run_script(lambda: tune(*arguments[1:]))
    else:
        commands = {name: with_joined_help(command) for name, command in COMMANDS.items()}
        run_script(
            lambda: tyro.extras.subcommand_cli_from_dict(
                commands,
                args=arguments,
                prog="metarl",
                description=metarl.__doc__,
            )
        )
