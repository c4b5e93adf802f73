"""Warp in tests: skipped where it or the device is not there, compiled in a hurry on the CPU."""

import pytest
import torch


def prepare_warp(device):
    """Skips without the extra or the device; makes the CPU's kernels compile four times as fast."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")  # slow tests on CUDA are chosen by `-m slow` too
    pytest.importorskip("mujoco_warp", reason="needs `pip install metarl[warp]`")
    import warp

    warp.config.optimization_level = 0 if device == "cpu" else None
