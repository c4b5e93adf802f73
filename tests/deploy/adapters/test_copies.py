"""Copies of adapters act on what they observe themselves."""

import copy
import pickle

import numpy as np
import pytest

import metarl
from tests.deploy.adapters.test_control_adapter import play, point

OBSERVATION = np.array([0.4, -0.9])


def pickled(adapter):
    return pickle.loads(pickle.dumps(adapter))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("run", ["point_run", "memory_run", "belief_run"])
def test_a_copy_acts_as_the_adapter_would(duplicate, run, request):
    adapter = metarl.load(request.getfixturevalue(run)[1])
    play(adapter, point(), 1)
    adapter.act(OBSERVATION)
    adapter.observe(OBSERVATION, None, 0.1, False, False)
    other = duplicate(adapter)
    for place in (OBSERVATION, -OBSERVATION, 3 * OBSERVATION):  # sampled alike
        expected = adapter.act(place)
        assert other.act(place).tolist() == expected.tolist()
        for one in (adapter, other):
            one.observe(place, None, 0.1, False, False)


def test_a_copy_adapts_on_its_own(point_run):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 3)
    other = copy.deepcopy(adapter)
    before = other.state()
    adapter.adapt(background=True).result(20)
    adapter.act(OBSERVATION)
    third = copy.deepcopy(adapter)
    for name, value in other.state().items():
        assert (value == before[name]).all()
    other.adapt(background=True).result(20)
    other.act(OBSERVATION)
    for name, value in other.state().items():
        assert (value == adapter.state()[name]).all() and (value == third.state()[name]).all()


def test_a_supervised_adapter_is_copied(sine_run):
    adapter = metarl.load(sine_run[1])
    x = np.linspace(-1, 1, 6)[:, None]
    adapter.adapt(x, 2 * x)
    for duplicate in (copy.deepcopy, pickled):
        other = duplicate(adapter)
        assert (other.predict(x) == adapter.predict(x)).all()
