"""Runs that differ only in their seed, as one curve."""

import math

import pytest

from metarl.errors import CheckpointError, SettingsError
from metarl.runs.run_curves import compare_runs
from metarl.runs.seed_groups import merge_seeds
from tests.written_runs import make_run, seeded_run


def test_the_intervals_are_students_over_the_means_of_seeds(tmp_path):
    folders = [
        seeded_run(tmp_path, f"sine/maml/2026071{k}_103000_s{k}", k, float(k), threads=k)
        for k in range(3)
    ]
    other = seeded_run(tmp_path, "sine/reptile/20260712_103000_s0", 0, 5.0, 0.2)
    merged = merge_seeds([*folders, other], compare_runs([*folders, other]))
    assert merged.over == "seeds" and merged.metric == "mse"
    maml, reptile = merged.runs
    assert (maml.label, reptile.label) == ("maml, 3 seeds", "reptile, 1 seed")
    # the means of the seeds are 3, 4, 5 before the first step: 4 +- 4.303 / sqrt(3)
    start = maml.adaptation[0]
    assert (start.mean, start.count) == (4.0, 3)
    assert start.mean_high - 4 == pytest.approx(4.303 / math.sqrt(3)) == 4 - start.mean_low
    assert [s.mean for s in maml.adaptation.values()] == [4.0, 3.0, 1.5]
    assert [(x, s.mean) for x, s in maml.training] == [
        (10, pytest.approx(0.15)), (20, pytest.approx(0.075)),
    ]  # fmt: skip
    assert reptile.adaptation[0].mean == 8.0 and math.isnan(reptile.adaptation[0].mean_low)


def test_runs_of_other_settings_or_without_any_are_not_mixed(tmp_path):
    first = seeded_run(tmp_path, "sine/maml/20260712_103000_s0", 0, 0.0)
    second = seeded_run(tmp_path, "sine/maml/20260713_103000_s1", 1, 0.0, 0.2)
    merged = merge_seeds([first, second], compare_runs([first, second]))
    assert len(merged.runs) == 2 and len({run.label for run in merged.runs}) == 2
    again = seeded_run(tmp_path, "sine/maml/20260714_103000_s0", 0, 0.0)
    with pytest.raises(SettingsError, match=r"two of seed 0 with the same settings.*_s0 and .*_s0"):
        merge_seeds([first, again], compare_runs([first, again]))
    bare = make_run(tmp_path, "mine/1/run")
    with pytest.raises(CheckpointError, match=r"with its seed in .*config\.json.*one by one"):
        merge_seeds([first, bare], compare_runs([first, bare]))
