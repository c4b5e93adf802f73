"""The modules of kernels that a function launches are loaded before it runs."""
# pyright: reportInvalidTypeForm=false

import threading

import pytest

from tests.sim.warp.devices import prepare_warp

prepare_warp("cpu")

import warp as wp  # noqa: E402 - needs the extra

from metarl.sim.warp.loading import load_kernels  # noqa: E402


@wp.kernel(module="unique")
def add_one(numbers: wp.array(dtype=float)):
    """Adds 1."""
    i = wp.tid()
    numbers[i] = numbers[i] + 1.0


@wp.kernel(module="unique")
def add_two(numbers: wp.array(dtype=float)):
    """Adds 2."""
    i = wp.tid()
    numbers[i] = numbers[i] + 2.0


@wp.kernel(module="unique")
def add_three(numbers: wp.array(dtype=float)):
    """Adds 3."""
    i = wp.tid()
    numbers[i] = numbers[i] + 3.0


def test_kernels_are_loaded_and_not_launched(monkeypatch):
    loaded, launch = [], wp.launch
    monkeypatch.setattr(wp, "force_load", lambda device, modules, *_, **__: loaded.extend(modules))
    numbers, going = wp.zeros(3, dtype=float, device="cpu"), wp.ones(1, dtype=int, device="cpu")

    def body():
        wp.launch(add_one, 3, inputs=[numbers], device="cpu")
        wp.launch(add_two, 0, inputs=[numbers], device="cpu")  # launches nothing
        wp.capture_while(going, lambda: wp.launch(add_three, 3, inputs=[numbers], device="cpu"))

    load_kernels(body, "cpu")
    assert loaded == [add_one.module, add_three.module]
    assert numbers.numpy().tolist() == [0, 0, 0]
    assert wp.launch is launch


def test_other_threads_launch_meanwhile():
    numbers = wp.zeros(3, dtype=float, device="cpu")

    def add():
        wp.launch(add_one, 3, inputs=[numbers], device="cpu")

    def body():
        thread = threading.Thread(target=add)
        thread.start()
        thread.join()

    load_kernels(body, "cpu")
    assert numbers.numpy().tolist() == [1, 1, 1]


def test_an_error_of_the_function_restores_warp():
    launch = wp.launch

    def body():
        raise ValueError("no such body")

    with pytest.raises(ValueError, match="no such body"):
        load_kernels(body, "cpu")
    assert wp.launch is launch
