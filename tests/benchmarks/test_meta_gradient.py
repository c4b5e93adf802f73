"""What the meta-gradient doctor prints."""

import pytest

from benchmarks.meta_gradient import ROWS, STEPS, Doctor, MetaGradientBenchmark


@pytest.fixture(scope="module")
def doctor():
    return Doctor(MetaGradientBenchmark(problems=2, repetitions=3, horizon=3))


def test_the_enumerated_errors_are_those_of_the_theory(doctor):
    errors = {(row.name, row.estimate): doctor.errors(row, None) for row in ROWS}
    assert len(errors) == len(ROWS)
    for estimate in ("advantages", "returns"):
        assert errors["dice", estimate] == pytest.approx([0] * (1 + len(STEPS)), abs=1e-12)
        assert min(errors["ratio", estimate]) > 1e-3
    assert errors["ratio", "returns"] == pytest.approx(errors["ratio", "advantages"])
    first_order = errors["any, first order", "advantages"]
    assert errors["logprob", "advantages"] == pytest.approx(first_order)
    assert first_order[0] == 1


def test_sampling_adds_to_them(doctor):
    dice = next(row for row in ROWS if row.name == "dice")
    few, many = (doctor.errors(dice, samples) for samples in (50, 5000))
    assert all(f > m > 1e-6 for f, m in zip(few, many, strict=True))
