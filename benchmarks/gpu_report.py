"""A report of MetaRL on a GPU, in a given number of minutes.

    python -m benchmarks.gpu_report --minutes 5             # speeds, tests, short trainings
    python -m benchmarks.gpu_report --train --minutes 30    # adaptation curves of robots; resumes
    python -m benchmarks.gpu_report --device cpu --small    # a test of this program

Writes report.json and report.md into the folder `--out` (both a few kilobytes): the card, its
driver and versions; speeds, with those of a per-task loop on the same device and of the CPU; the
tests that need a GPU; short trainings with their adaptation curves. What matters most comes first.
Each part runs in a process that is ended when its time is over; a part that fails or is ended keeps
the rows that it had, and the next one runs. The files are rewritten after each part.

With `--train`, the trainings of the robots go on where the last call with the same `--out` ended:
two algorithms and three seeds in the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.gpu_tables import markdown

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "warp-lang", "mujoco", "mujoco-warp", "gymnasium", "numpy")
RESERVE = 5.0
"""Seconds that are kept for the end."""
SHORTEST = 8.0
"""Seconds without which no part begins."""
LONGEST_TEXT = 1500
"""Characters that are kept of a part's error."""

ROBOT_TESTS = (
    "tests/sim", "tests/test_all_families.py", "tests/benchmarks",
    "tests/rl/test_captured_steps.py", "tests/rl/trials/test_captured_trial_steps.py",
)  # fmt: skip
OTHER_TESTS = (
    "tests/test_all_algorithms.py", "tests/test_all_policy_algorithms.py",
    "tests/test_all_task_distributions.py", "tests/test_cuda_graphs.py", "tests/models",
    "tests/tasks", "tests/training", "tests/rl/test_captured_path.py",
    "tests/rl/test_captured_rollouts.py", "tests/rl/trials/test_captured_trials.py",
    "tests/rl/trials/test_gru.py",
)  # fmt: skip
_RESULTS = ("passed", "failed", "error", "skipped")
_RESULT = re.compile("|".join(rf"\b{word.upper()}\b" for word in _RESULTS))
_TEST = re.compile(r"\S+\.py::\S+")
SMALL_TESTS = ("tests/test_devices.py",)


@dataclass(frozen=True)
class Report:
    """Settings of the report."""

    minutes: float = 5.0
    """Minutes that it may take, all parts together."""
    out: Path = Path("gpu_report")
    """Folder of report.json, report.md and the logs."""
    device: str = "auto"
    """auto (CUDA where there is one), cuda, cuda:1, ...; cpu for a test of this program."""
    train: bool = False
    """Trains robots, or continues the trainings in `out`, instead of measuring speeds."""
    small: bool = False
    """Measures little of everything, to test this program."""
    parts: tuple[str, ...] = ()
    """Names of the parts to run; none for all."""


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        name: Its name.
        command: Arguments of `benchmarks.gpu_part`, or of pytest for tests.
        most: The most seconds that it may take.
        tests: Whether it runs tests.
    """

    name: str
    command: tuple[str, ...]
    most: float
    tests: bool = False


@dataclass
class Outcome:
    """What became of a part: ok, failed, timed out or skipped; and its rows."""

    name: str
    status: str
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def plan(report: Report) -> list[Part]:
    """Returns the parts, most valuable first."""
    if report.train:
        from benchmarks.gpu_training import finished, long_trainings

        names = [
            name
            for name, training in long_trainings().items()
            if not finished(training, report.out / "runs" / _folder(name))
        ]
        parts = [Part(f"train {name}", ("train-long", name), float("inf")) for name in names]
    else:
        tests = SMALL_TESTS if report.small else ()
        parallel = ("-n", "6") if importlib.util.find_spec("xdist") else ()
        elsewhere = tests or (*OTHER_TESTS, *parallel)  # no Warp, whose cache one process fills
        parts = [
            Part("half cheetah", ("speed", "half_cheetah"), 110),
            Part("robot iteration", ("speed", "robot_iteration"), 40),
            Part("robot trials", ("speed", "trials"), 40),
            Part("train half cheetah direction", ("train", "half cheetah direction"), 60),
            Part("tests", elsewhere, 60, tests=True),
            Part("sine", ("speed", "sine"), 25),
            Part("one graph", ("speed", "one_graph"), 30),
            Part("navigation", ("speed", "navigation"), 30),
            Part("omniglot", ("speed", "omniglot"), 25),
            Part("precisions", ("speed", "precisions"), 25),
            Part("train navigation", ("train", "navigation"), 25),
            Part("train sine", ("train", "sine"), 25),
            Part("robot tests", tests or ROBOT_TESTS, 150, tests=True),
            Part("train glyphs", ("train", "glyphs"), 45),
            Part("train ant direction", ("train", "ant direction"), 120),
            Part("train half cheetah velocity", ("train", "half cheetah velocity"), 90),
            Part("other robots", ("speed", "other_robots"), 180),
            Part("sine compiled", ("speed", "sine", "--compiled"), 90),
            Part("omniglot compiled", ("speed", "omniglot", "--compiled"), 120),
            Part("navigation compiled", ("speed", "navigation", "--compiled"), 180),
        ]
    unknown = set(report.parts) - {part.name for part in parts}
    if unknown:
        raise SystemExit(
            f"Expected parts of {', '.join(p.name for p in parts)}; got {sorted(unknown)}."
        )
    return [part for part in parts if not report.parts or part.name in report.parts]


def main(report: Report) -> list[Outcome]:
    """Runs the parts for which there is time, and writes the report after each.

    Returns:
        What became of each part.
    """
    started = time.monotonic()
    out = report.out.resolve()
    if not report.train:
        shutil.rmtree(out / "runs", ignore_errors=True)  # trainings of another revision
    (out / "logs").mkdir(parents=True, exist_ok=True)
    machine, outcomes = described(report), list[Outcome]()
    parts = plan(report)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        for part in parts:
            left = 60 * report.minutes - (time.monotonic() - started) - RESERVE
            if left < SHORTEST:
                outcomes.append(Outcome(part.name, "skipped: no time was left"))
                continue
            outcome = run_part(part, report, min(part.most, left), environment)
            outcomes.append(outcome)
            print(f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            write(out, machine, outcomes, report)
    machine["minutes_taken"] = round((time.monotonic() - started) / 60, 2)
    write(out, machine, outcomes, report)
    name = _name(report)
    print(f"Written to {out / name}.md and {out / name}.json.")
    return outcomes


def run_part(part: Part, report: Report, seconds: float, environment: dict[str, str]) -> Outcome:
    """Runs a part in a separate process, for at most `seconds`."""
    out = report.out.resolve()
    rows_file = out / "logs" / f"{_folder(part.name)}.jsonl"
    log_file = rows_file.with_suffix(".log")
    rows_file.write_text("")
    command = _command(part, report, rows_file, seconds)
    started = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    log_text = log_file.read_text(errors="replace")
    rows = _rows(rows_file) or ([_test_row(log_text)] if part.tests else [])
    outcome = Outcome(part.name, "ok", round(time.monotonic() - started, 1), rows)
    if status is None:
        outcome.status = f"ended after {seconds:.0f} s"
    elif status:
        outcome.status = f"failed with {status}"
    if status and not part.tests:
        outcome.error = log_text.strip()[-LONGEST_TEXT:]
    return outcome


def _command(part: Part, report: Report, rows_file: Path, seconds: float) -> list[str]:
    if part.tests:
        marker = "not slow and not gpu" if report.small else "gpu"
        return [
            sys.executable, "-m", "pytest", "-vv", "--tb=line", "-m", marker,
            "--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "no:benchmark",
            *part.command,
        ]  # fmt: skip
    runs = report.out.resolve() / "runs" / _folder(part.name.removeprefix("train "))
    return [
        sys.executable, "-m", "benchmarks.gpu_part", *part.command, "--device", report.device,
        "--rows", str(rows_file), "--runs", str(runs), "--seconds", str(seconds),
        "--began", str(time.time()),
        *(["--small"] if report.small else []),
    ]  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part and all processes that it started."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            break
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows that a part has written; the last line may be cut off.

    A later row on the same work replaces an earlier one.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row.get("work", str(number))] = row
    return list(rows.values())


def _test_row(log: str) -> dict[str, Any]:
    """Counts the tests in what `pytest -vv` has printed so far, on one process or several."""
    found: dict[str, str] = {}
    for line in log.splitlines():
        name, word = _TEST.search(line), _RESULT.search(line)
        if name and word:
            found[name[0]] = word[0].lower()
    counts = {word: list(found.values()).count(word) for word in _RESULTS}
    failures = [name for name, word in found.items() if word in ("failed", "error")]
    return {**counts, "failures": failures[:20]}


def _folder(name: str) -> str:
    return name.replace(" ", "-")


def _environment(folder: Path) -> dict[str, str]:
    """Returns the environment of the parts; scripts are importable also where none is installed."""
    paths = [str(ROOT), str(ROOT / "envs")]
    if importlib.util.find_spec("metarl_experiments") is None:
        (folder / "metarl_experiments").symlink_to(ROOT / "experiments")
        paths.append(str(folder))
    inherited = os.environ.get("PYTHONPATH")
    paths += [inherited] if inherited else []
    kept = {name: value for name, value in os.environ.items() if name != "METARL_DATA"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


# The machine


def described(report: Report) -> dict[str, Any]:
    """Returns the card, its driver, the versions and the revision."""
    cuda = torch.cuda.is_available() and report.device != "cpu"
    return {
        "card": torch.cuda.get_device_name() if cuda else "none: the CPU",
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        **{name: _version(name) for name in PACKAGES},
        "revision": _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "minutes": report.minutes,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip() or None


def write(out: Path, machine: dict[str, Any], outcomes: list[Outcome], report: Report) -> None:
    """Writes report.json and report.md (train.json and train.md with `--train`)."""
    name = _name(report)
    parts = [vars(outcome) for outcome in outcomes]
    if report.train:
        parts = _with_earlier(out / f"{name}.json", parts)
    _replace(out / f"{name}.json", json.dumps({"machine": machine, "parts": parts}, indent=1))
    _replace(out / f"{name}.md", markdown(machine, parts))


def _name(report: Report) -> str:
    return "train" if report.train else "report"


def _with_earlier(path: Path, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the parts of earlier calls that this one has not run."""
    try:
        earlier = json.loads(path.read_text())["parts"]
    except (OSError, ValueError, KeyError):
        return parts
    new = {p["name"]: p for p in parts if not p["status"].startswith("skipped")}
    kept = [new.pop(p["name"], p) for p in earlier if not p["status"].startswith("skipped")]
    return [*kept, *new.values()]


def _replace(path: Path, text: str) -> None:
    """Writes a file whole, so that a killed report leaves the last one."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    main(tyro.cli(Report, description=__doc__))
