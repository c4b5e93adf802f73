"""`metarl pull`: a run folder from what `metarl push` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def pull(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")],
    runs: Path = Path("runs"),
    revision: str | None = None,
) -> None:
    """Gets a run that was pushed, checks its files, and makes a run folder of it.

    Args:
        source: A folder; or hf://OWNER/NAME of the Hugging Face hub.
        runs: Folder of the run folders.
        revision: A branch, tag or commit of the hub's repository.
    """
    from metarl.console import OutputConsole
    from metarl.deploy.hub.sharing import pull as pull_run

    folder = pull_run(source, runs, revision)
    OutputConsole().print(f"Wrote {folder}.", markup=False, soft_wrap=True)
