"""Warp in tests: skipped where it is not installed, compiled in a hurry on the CPU."""

import pytest


def prepare_warp(device):
    """Skips without the extra; makes kernels that only tests run compile four times as fast."""
    pytest.importorskip("mujoco_warp", reason="needs `pip install metarl[warp]`")
    import warp

    warp.config.optimization_level = 0 if device == "cpu" else None
