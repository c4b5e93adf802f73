"""`metarl push`: a run with a model card, as a folder or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.options import Run


def push(
    run: Run,
    destination: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DESTINATION")],
    licence: str = "unknown",
    public: bool = False,
    runs: Path = Path("runs"),
) -> None:
    """Writes a run with a model card: JSON and safetensors only, for others to pull.

    Neither the command line, nor git's state, nor paths of this machine are written.

    Args:
        run: A run folder, whose newest valid checkpoint is used; `RUN/best`, that of the best
            value on validation tasks; a checkpoint; or `latest`.
        destination: A folder; or hf://OWNER/NAME for the Hugging Face hub, with the account that
            its client is logged in with.
        licence: Identifier of the licence of the weights, for the card: mit, cc-by-4.0, ...
        public: Makes a new repository of the hub public.
        runs: Folder of the run folders, for `latest`.
    """
    from metarl.console import OutputConsole
    from metarl.deploy.hub.sharing import push as push_run
    from metarl.runs.run_search import run_path

    files = push_run(run_path(run, runs), destination, licence=licence, private=not public)
    OutputConsole().print(
        f"Wrote {', '.join(files)} to {destination}.", markup=False, soft_wrap=True
    )
