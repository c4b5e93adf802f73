"""The engines that step MuJoCo's models, for the tests that they share."""

import pytest

from tests.sim.warp.devices import prepare_warp

ENGINES = (
    ("mujoco", "cpu"),
    ("warp", "cpu"),
    pytest.param(("warp", "cuda"), marks=pytest.mark.gpu),
)


@pytest.fixture(params=ENGINES, ids=lambda e: f"{e[0]}-{e[1]}")
def engine(request):
    """The engine and the device of `make_vec`; skips without the extra that it needs."""
    name, device = request.param
    if name == "warp":
        prepare_warp(device)
    return {"engine": name, "device": device}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def warp_device(request):
    """A device for the warp engine; skips without its extra."""
    prepare_warp(request.param)
    return request.param
