"""Fixtures of the fuzz tests."""

import pytest
from hypothesis import configuration

from tests.commands.conftest import train
from tests.fuzz.outcomes import Outcomes


@pytest.fixture(autouse=True, scope="session")
def nothing_is_stored(tmp_path_factory):
    """Keeps hypothesis's own files out of the repository."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture
def outcomes(request):
    """The outcomes of a test's inputs, which the summary adds up."""
    outcomes = Outcomes()
    yield outcomes
    request.node.user_properties.append(("fuzz", dict(outcomes.counts)))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run of sine regression and one of bandits; inputs change copies."""
    small = ("--gradients.trajectories", "2", "--hidden", "4", "--test-steps", "1")
    bandit = train("bandit", tmp_path_factory.mktemp("bandit"), *small)
    return {"bandit": bandit, "sine": train("sine", tmp_path_factory.mktemp("sine"))}
