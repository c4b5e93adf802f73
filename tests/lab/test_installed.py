"""Runs of the experiments that ship are opened without `--script`; others name their script."""

from functools import partial
from pathlib import Path

import pytest

from metarl.lab import Experiment
from metarl.lab.installed import EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_an_installed_experiment_is_known_by_its_name(name):
    assert EXPERIMENTS.get(name)._script() is None


class Built:
    """Builds components when it is called."""

    def __call__(self, settings):
        raise NotImplementedError

    def build(self, settings):
        raise NotImplementedError


@pytest.mark.parametrize("build", [Built(), partial(Built()), Built().build, partial(Built.build)])
def test_the_script_is_that_of_any_callable(build):
    assert Experiment("mine", {}, build)._script() == Path(__file__).resolve()
