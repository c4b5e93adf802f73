"""The report on a GPU: what fails, hangs or finds no time leaves the rest as it is."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_iterations, gpu_report, gpu_speed
from benchmarks.gpu_report import Outcome, Part, Report
from benchmarks.gpu_tables import markdown
from benchmarks.gpu_training import SHORT, finished, long_trainings, train

GOOD = """
import json, sys
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({"work": "a", "unit": "ms", "measured": 1.0}) + "\\n")
    file.write(json.dumps({"work": "a", "unit": "ms", "measured": 2.0, "loop": 30.0}) + "\\n")
"""
HANGS = (
    GOOD
    + """
    file.flush()
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
open(sys.argv[1], "a").write('{"work": "cut o')
time.sleep(60)
"""
)
FAILS = GOOD + "raise RuntimeError('no room ' + 'x' * 5000)"
DIES = GOOD + "import os; file.close(); os.kill(os.getpid(), 9)"


@pytest.fixture
def scripts(monkeypatch):
    """Parts that are small programs, in place of measurements."""

    def command(part, report, rows_file, seconds):
        return [sys.executable, "-c", part.command[0], str(rows_file)]

    def use(*parts):
        monkeypatch.setattr(gpu_report, "_command", command)
        monkeypatch.setattr(gpu_report, "plan", lambda report: list(parts))

    return use


def read(folder):
    return json.loads((folder / "report.json").read_text())


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


def test_parts_that_fail_die_or_hang_keep_their_rows(scripts, tmp_path, capsys):
    parts = {"good": GOOD, "fails": FAILS, "dies": DIES, "hangs": HANGS, "last": GOOD}
    scripts(*(Part(name, (text,), 2.5) for name, text in parts.items()))
    started = time.monotonic()
    outcomes = gpu_report.main(Report(minutes=1, out=tmp_path, device="cpu"))
    assert time.monotonic() - started < 30
    row = {"work": "a", "unit": "ms", "measured": 2.0, "loop": 30.0}
    assert [o.rows for o in outcomes] == [[row]] * 5
    assert [o.status for o in outcomes] == [
        "ok", "failed with 1", "failed with -9", "ended after 2 s", "ok"
    ]  # fmt: skip
    assert outcomes[1].error.endswith("x" * 100) and len(outcomes[1].error) == 1500
    assert not is_running(int((tmp_path / "logs" / "hangs.log").read_text()))
    report = read(tmp_path)
    assert report["machine"]["card"] == "none: the CPU"
    assert report["machine"]["torch"] == torch.__version__
    assert [p["name"] for p in report["parts"]] == list(parts)
    table = (tmp_path / "report.md").read_text()
    assert table.count("| a | 2 ms | 30 ms |  |  |  |") == 5
    assert "| hangs | ended after 2 s | " in table


def test_it_keeps_within_its_minutes(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "RESERVE", 0.5)
    monkeypatch.setattr(gpu_report, "SHORTEST", 1.0)
    scripts(*(Part(name, (HANGS,), 60.0) for name in ("first", "second")))
    started = time.monotonic()
    outcomes = gpu_report.main(Report(minutes=4 / 60, out=tmp_path, device="cpu"))
    assert time.monotonic() - started < 9
    assert outcomes[0].status == "ended after 3 s" and len(outcomes[0].rows) == 1
    assert outcomes[1].status == "skipped: no time was left"
    assert read(tmp_path)["machine"]["minutes_taken"] < 0.15


def test_tests_are_counted_as_they_run():
    log = """
tests/a.py::test_one PASSED                [ 25%]
tests/a.py::test_two[cuda] FAILED          [ 50%]
tests/a.py::test_three SKIPPED (no extra)  [ 75%]
tests/a.py::test_four
[gw0] [ 90%] PASSED tests/b.py::test_five
FAILED tests/a.py::test_two[cuda] - AssertionError
"""
    row = gpu_report._test_row(log)
    assert [row[word] for word in ("passed", "failed", "skipped", "error")] == [2, 1, 1, 0]
    assert row["failures"] == ["tests/a.py::test_two[cuda]"]
    table = markdown({"card": "H"}, [vars(Outcome("tests", "ok", 1.0, [row]))])
    assert "| tests | 2 | 1 | 0 | 1 | tests/a.py::test_two[cuda] |" in table


def test_the_plan_has_the_most_valuable_first_and_names_what_it_lacks():
    names = [part.name for part in gpu_report.plan(Report())]
    assert names[0] == "half cheetah" and names.index("tests") < names.index("other robots")
    assert len(set(names)) == len(names)
    for part in gpu_report.plan(Report()):
        if part.command[0] == "speed":
            name = part.command[1]
            assert callable(gpu_iterations.PARTS.get(name) or getattr(gpu_speed, name))
        elif part.command[0] == "train":
            assert part.command[1] in SHORT
    assert [p.name for p in gpu_report.plan(Report(parts=("sine",)))] == ["sine"]
    with pytest.raises(SystemExit, match="nothing"):
        gpu_report.plan(Report(parts=("nothing",)))


def test_every_test_on_a_gpu_is_in_a_part():
    root = Path(__file__).parents[2]
    marked = {
        str(path.relative_to(root))
        for path in (root / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text()
    }
    parts = (*gpu_report.ROBOT_TESTS, *gpu_report.OTHER_TESTS)
    assert all((root / part).exists() for part in parts)
    assert [name for name in marked if not any(name.startswith(part) for part in parts)] == []


@pytest.mark.parametrize("name", ["sine", "omniglot"])
def test_speeds_have_a_loop_and_the_cpu_beside_them(name):
    rows = list(getattr(gpu_speed, name)(torch.device("cpu"), gpu_speed.SMALL))
    complete = [row for row in rows if "loop" in row]
    assert complete and all(row["measured"] > 0 and row["cpu"] > 0 for row in complete)


def test_variants_of_iterations_say_what_was_captured(monkeypatch):
    device = torch.device("cpu")
    monkeypatch.setattr(gpu_iterations, "OPTIMIZERS", ("adam", "sgd"))
    first, *_, optimisers = gpu_iterations.one_graph(device, gpu_speed.SMALL)
    assert first["goal"] == 0.25 and first["note"].startswith("no graph")
    assert optimisers["measured"] == 0 and "sgd: no graph" in optimisers["note"]
    rows = list(gpu_iterations.precisions(device, gpu_speed.SMALL))
    errors = [float(row["note"].split()[-1]) for row in rows]
    assert errors[0] == 0 < errors[2] < 0.3


def test_robots_are_measured_on_mujocos_engine_too():
    *_, row = gpu_speed.half_cheetah(torch.device("cpu"), gpu_speed.SMALL)
    assert row["unit"] == "steps/s" and row["cpu"] > 0
    rows = list(gpu_iterations.trials(torch.device("cpu"), gpu_speed.SMALL))
    assert [row["measured"] > 0 for row in rows] == [True, True]


def test_a_training_goes_on_where_it_stopped(tmp_path):
    training = SHORT["navigation"]
    first = list(train(training, tmp_path, "cpu", time.time() + 60, small=True))
    assert [r["stage"] for r in first] == ["untrained", "finished"]
    assert first[1]["iterations"] == 2 and first[1]["environment_steps"] > 0
    assert first[1]["curve"] != first[0]["curve"]
    again = list(train(training, tmp_path, "cpu", time.time() + 60, small=True))
    assert [r["stage"] for r in again] == ["resumed", "finished"]
    assert again[0]["curve"] == first[1]["curve"]
    assert not finished(training, tmp_path)


def test_a_training_stops_in_time(tmp_path):
    training = SHORT["sine"]
    started = time.time()
    rows = list(train(training, tmp_path, "cpu", started))
    assert rows[-1]["stage"] == "stopped in time" and time.time() - started < 30
    assert 0 < rows[-1]["iterations"] < training.iterations
    assert rows[-1]["curve"][0] != rows[0]["curve"][0]
    again = next(train(training, tmp_path, "cpu", started))
    assert again["stage"] == "resumed" and again["iterations"] == rows[-1]["iterations"]


def test_later_calls_add_to_the_trainings(scripts, tmp_path, capsys):
    for name, text in (("one", GOOD), ("two", GOOD), ("one", FAILS)):
        scripts(Part(name, (text,), 20.0))
        gpu_report.main(Report(minutes=1, out=tmp_path, device="cpu", train=True))
    parts = json.loads((tmp_path / "train.json").read_text())["parts"]
    assert [(p["name"], p["status"]) for p in parts] == [("one", "failed with 1"), ("two", "ok")]


def test_all_robots_are_trained_by_two_algorithms_and_three_seeds():
    trainings = long_trainings()
    assert len(trainings) == 9 * 2 * 3
    first, second = list(trainings.values())[:2]
    assert "promp" in first.arguments and "maml" in second.arguments
    assert first.arguments[-1] == "0" and list(trainings.values())[-1].arguments[-1] == "2"


def test_scripts_are_importable_where_none_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("METARL_DATA", "somewhere")
    environment = gpu_report._environment(tmp_path)
    assert str(tmp_path) in environment["PYTHONPATH"].split(os.pathsep)
    assert (tmp_path / "metarl_experiments" / "half_cheetah.py").is_file()
    assert "METARL_DATA" not in environment, "glyphs are drawn"
