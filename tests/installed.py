"""Skips tests of families whose models are in a package that is not installed."""

import pytest
from metarl_envs.metaworld_package import INSTALL, is_installed


def skip_unless_installed(name: str) -> None:
    """Skips a test of a family of Meta-World where Meta-World is not installed."""
    if name.startswith("MetaWorld") and not is_installed():
        pytest.skip(f"Meta-World is not installed: {INSTALL}")
