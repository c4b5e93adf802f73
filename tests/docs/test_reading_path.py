"""The reading paths of AGENTS.md: their files exist, their counts and limits hold."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
PATHS = re.findall(
    r"^(From [^\n]*):\n\n(.*?)\n\n(\d+) files, (\d+) lines", PAGE, re.MULTILINE | re.DOTALL
)
ROW = re.compile(r"^\| \[(.*?)\]\((.*?)\) \| (\d+) \|", re.MULTILINE)
LIMITS = {"MAML-TRPO": (9, 1800), "MAML": (6, 1800)}
TOLERANCE = 0.1
"""Relative; so that a reworded docstring does not fail the test."""


@pytest.mark.parametrize(("title", "table", "files", "lines"), PATHS, ids=[p[0] for p in PATHS])
def test_the_files_exist_and_the_sums_hold(title, table, files, lines):
    rows = [(name, link, int(count)) for name, link, count in ROW.findall(table)]
    most_files, most_lines = LIMITS[title.rpartition(" of ")[2]]
    assert len(rows) == int(files) <= most_files
    assert sum(count for *_, count in rows) == int(lines)
    total = 0
    for name, link, count in rows:
        assert name == link
        true_count = (ROOT / link).read_text(encoding="utf-8").count("\n")
        assert true_count == pytest.approx(count, rel=TOLERANCE, abs=10), name
        total += true_count
    assert total <= most_lines


def test_there_are_both_paths():
    assert [title.rpartition(" of ")[2] for title, *_ in PATHS] == list(LIMITS)
