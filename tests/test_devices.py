"""Choice of the device."""

import pytest
import torch

from metarl.devices import resolve_device
from metarl.errors import SettingsError


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto").type == expected


def test_missing_and_misspelt_devices_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="cuda:1"):
        resolve_device("cuda:1")
    with pytest.raises(SettingsError, match="gpuu"):
        resolve_device("gpuu")


@pytest.mark.parametrize(("count", "rest"), [(1, "cuda:0, auto"), (2, "cuda:0 to cuda:1, auto")])
def test_a_device_beyond_those_there_is_refused(count, rest, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("auto") == resolve_device(torch.device("cuda")) == torch.device("cuda:0")
    assert resolve_device(f"cuda:{count - 1}").index == count - 1
    with pytest.raises(SettingsError, match=rf"cuda:7.* {count} CUDA.*{rest}"):
        resolve_device("cuda:7")
