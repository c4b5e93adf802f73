"""Task distributions by name."""

import pytest

from metarl.errors import UnknownNameError
from metarl.tasks import DISTRIBUTIONS, Sine


def test_distributions_are_found_by_name():
    assert DISTRIBUTIONS.get("sine")(shots=3) == Sine(shots=3)


def test_an_unknown_distribution_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'omniglot'\? Known: sine, omniglot"):
        DISTRIBUTIONS.get("omniglott")
