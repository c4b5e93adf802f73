"""Runs of the experiments that ship are opened without `--script`."""

import pytest

from metarl.lab.installed import EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_an_installed_experiment_is_known_by_its_name(name):
    assert EXPERIMENTS.get(name)._script() is None
