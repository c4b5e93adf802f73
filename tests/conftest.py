"""Fixtures shared by all tests: no test reads or writes the user's data and caches."""

from collections import Counter
from pathlib import Path

import pytest
import torch

OFFICIAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "omniglot"


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory):
    """Keeps caches in a folder of this run, and data where each test says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("METARL_DATA", raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(autouse=True, scope="session")
def drawn_archives_are_official():
    """Accepts archives that the tests draw under official names, next to the official ones."""
    from metarl.tasks import omniglot
    from tests.tasks.drawn_archives import DRAWN

    is_official = omniglot.is_official
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            omniglot, "is_official", lambda name, sha: sha in DRAWN or is_official(name, sha)
        )
        yield


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """Gives a test an empty cache folder."""
    folder = tmp_path / "fresh_cache"
    monkeypatch.setenv("METARL_CACHE", str(folder))
    return folder


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def official_data():
    """The folder of real Omniglot data; skips where there is none."""
    if not OFFICIAL_DATA.is_dir():
        pytest.skip("no official Omniglot data next to the repository")
    return OFFICIAL_DATA


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tests' tensors are small: more threads only wait for each other."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """Prints what became of the inputs of tests/fuzz."""
    reports = [r for found in terminalreporter.stats.values() for r in found]
    ends = [r for r in reports if getattr(r, "when", "") == "teardown"]
    counts = [Counter(value) for r in ends for name, value in r.user_properties if name == "fuzz"]
    if counts:
        from tests.fuzz.outcomes import figure

        terminalreporter.write_line(f"fuzzing: {figure(counts)}")
