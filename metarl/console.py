"""Scripts and commands: an error ends them with its message, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from metarl.errors import MetarlError


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's `main`; prints an error of MetaRL without a traceback and exits with 1."""
    try:
        main()
    except MetarlError as error:
        message = f"{type(error).__name__}: {error}"
        Console(stderr=True).print(
            message, style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)
