"""Runs whose description was edited and signed again, opened by `metarl.load` and used."""

import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st

import metarl
from metarl.training.learner_file import LEARNER_FILE, checksum
from tests.fuzz.outcomes import explore
from tests.fuzz.values import dumped, edited

MOST = 2000  # of a number in a description
X = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


def is_small(value):
    """Returns whether a description is one of a network that takes seconds."""
    if isinstance(value, dict | list):
        return all(map(is_small, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or not abs(value) > MOST


@st.composite
def descriptions(draw, runs):
    """A run's name and a learner.json with one to three edits and the right checksum."""
    name = draw(st.sampled_from(sorted(runs)))
    content = json.loads((runs[name] / LEARNER_FILE).read_bytes())
    version = content.pop("format_version")
    del content["sha256"]
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from(["learner", "learner", "learner", "data"]))
        if isinstance(content.get(part), dict) and content[part]:
            content[part] = draw(edited(content[part]))
    signed = {"format_version": version, "sha256": checksum(content), **content}
    return name, dumped(signed)


def used(name, folder):
    """Returns what a loaded run predicts, or the actions that it takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inputs outside of the ranges of training
        adapter = metarl.load(folder)
        if name == "sine":
            adapter.adapt(X, 2 * X)
            return adapter.predict(X)
        return adapter.act(np.zeros(1, np.float32))


@pytest.mark.parametrize("inputs", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_signed_descriptions_of_random_contents(inputs, outcomes, runs, tmp_path):
    good = {name: used(name, run) for name, run in runs.items()}

    def check(case):
        name, data = case
        folder = tmp_path / "run"
        shutil.copytree(runs[name], folder)
        (folder / LEARNER_FILE).write_bytes(data)
        try:
            with outcomes.one():
                found = used(name, folder)
                assert np.isfinite(np.asarray(found, float)).all()
                assert np.shape(found) == np.shape(good[name])
        finally:
            shutil.rmtree(folder)

    explore(descriptions(runs).filter(lambda case: is_small(json.loads(case[1]))), inputs, check)
