"""The entry point of `metarl`: one subcommand per module beside this."""

from __future__ import annotations

import tyro

from metarl.commands.evaluate import evaluate
from metarl.commands.export import export
from metarl.commands.list import names
from metarl.commands.play import play
from metarl.lab.command_line import run_script

COMMANDS = {"list": names, "evaluate": evaluate, "export": export, "play": play}


def main() -> None:
    """Runs the subcommand that the command line names; errors are printed, without a traceback."""
    run_script(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="metarl", description="Meta-learning in PyTorch."
        )
    )
