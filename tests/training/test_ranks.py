"""Training on several processes: the same numbers as on one."""

import json

import pytest
import torch

from metarl import ranks
from metarl.errors import SettingsError
from tests.training.rank_cases import QUICK, run_ranks, train


def trees_close(value, expected, **tolerance):
    """Compares nested tensors and numbers."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(value, expected, **tolerance)
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            trees_close(value[key], expected[key], **tolerance)
    elif isinstance(expected, list | tuple):
        assert len(value) == len(expected)
        for v, e in zip(value, expected, strict=True):
            trees_close(v, e, **tolerance)
    else:
        assert value == expected


def assert_ranges_agree(folder, expected):
    """Compares the ranges of the data that two trainings have seen, of all their tasks."""
    data, whole = (json.loads((f / "learner.json").read_text())["data"] for f in (folder, expected))
    assert data.keys() == whole.keys()
    for name, value in whole.items():
        if isinstance(value, dict) and "low" in value:
            for key in value:
                assert data[name][key] == pytest.approx(value[key], rel=1e-3, abs=1e-4), key
        else:
            assert data[name] == value


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, run_ranks(2, folder, *QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_two_ranks_give_the_numbers_of_one(case, two_ranks, tmp_path):
    folder, (first, second) = two_ranks
    trees_close(second[case], first[case], rtol=0, atol=0)
    trees_close(first[case], train(case, tmp_path), rtol=2e-4, atol=2e-5)
    assert_ranges_agree(folder / case, tmp_path)
    (checkpoint, last) = sorted(p.name for p in (folder / case / "checkpoints").iterdir())[-2:]
    assert (checkpoint, last) == ("step_000002", "step_000003")


@pytest.mark.parametrize("size", ["", "1"])
def test_empty_variables_and_one_process_start_nothing(size, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, size and "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    ranks.start()
    assert ranks.count() == 1 and ranks.is_first()


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingsError, match=r"WORLD_SIZE.*'two'"):
        ranks.start()


@pytest.mark.parametrize(("number", "says"), [("0", True), ("1", False)])
def test_processes_that_share_nothing_are_named_once(number, says, monkeypatch, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", number)
    ranks.start()
    assert ("4 processes were started" in capsys.readouterr().err) == says
