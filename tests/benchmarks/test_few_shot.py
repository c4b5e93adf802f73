"""The table of few-shot learners: settings of its tasks, budgets, rows."""

import dataclasses

import pytest

from benchmarks.few_shot import HEADINGS, FewShotBenchmark, affordable, row, settings_of

SHORT = FewShotBenchmark(minutes=1e-5, data_dir=None, test_tasks=20)


def test_every_learner_gets_the_tasks_of_the_benchmark():
    wide = dataclasses.replace(SHORT, way=20, shots=2)
    for name in wide.algorithms:
        tasks = settings_of(name, wide).tasks
        assert (tasks.way, tasks.shots) == (20, 2)
        assert (tasks.train_way or 20) >= 20 and (tasks.train_shots or 2) >= 2


def test_a_budget_buys_iterations_by_their_time(monkeypatch):
    monkeypatch.setattr("benchmarks.few_shot.PROBE_SECONDS", 0.05)
    few = affordable(settings_of("maml", SHORT), 1e-5)
    many = affordable(settings_of("maml", SHORT), 1.0)
    assert few == 1 < many
    assert affordable(settings_of("nearest-neighbour", SHORT), 1.0) == 0


@pytest.mark.parametrize("name", ["maml", "siamese"])
def test_a_row_tells_what_was_measured(name, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.few_shot.PROBE_SECONDS", 0.0)
    cells = row(name, dataclasses.replace(SHORT, runs=tmp_path))
    values = dict(zip(HEADINGS, cells, strict=True))
    assert values["iterations"] == "1"
    assert 15 < float(values["non-transductive"].split()[0]) <= 100
    assert bool(values["transductive"]) == (name == "maml")
    assert not values["Lake, not"]
