"""What tests on a GPU share: the device, deterministic algorithms, results up to rounding."""

from contextlib import contextmanager

import pytest
import torch

from metarl.devices import resolve_device, set_deterministic, set_matmul_precision


def on_cuda():
    """Returns the CUDA device, in float32; skips without one (`-m slow` chooses slow GPU tests)."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    set_matmul_precision("highest")
    return resolve_device("cuda")


@contextmanager
def deterministic_algorithms():
    """Makes results on CUDA the same in every run; torch warns where it cannot, which fails."""
    set_deterministic(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_rounding(expected, got, gradients=True):
    """Checks losses, gradient norms and meta-gradients of a CPU's run against another device's.

    Weights are not compared: Adam makes whole steps of gradients that are nothing but rounding.

    Args:
        expected: The learner and its results, on the CPU.
        got: The same on the other device.
        gradients: Whether the meta-gradients are compared.
    """
    close = {"rtol": 1e-3, "atol": 1e-4}
    for right, result in zip(expected[1], got[1], strict=True):
        assert right.finite and result.finite
        torch.testing.assert_close(result.losses.cpu(), right.losses, **close)
        torch.testing.assert_close(result.grad_norm.cpu(), right.grad_norm.cpu(), **close)
    if not gradients:
        return
    others = dict(got[0].named_parameters())
    for n, p in expected[0].named_parameters():
        if p.grad is None:
            assert others[n].grad is None, n
            continue
        scale = max(1.0, p.grad.abs().max().item())
        error = (others[n].grad.cpu() - p.grad).abs().max().item()
        assert error <= 1e-3 * scale, f"{n} differs by {error}"
