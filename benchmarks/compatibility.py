"""The lowest and the newest versions that pyproject.toml allows, each in a fresh environment.

python -m benchmarks.compatibility [--torch 2.13.0] [--only lowest]: installs MetaRL with the
lowest, then with the newest versions of what it depends on directly, runs a part of the tests and
three short trainings in each, and prints a row for each environment. `make compat` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import tyro
from packaging.requirements import Requirement

from metarl.console import run_script

ROOT = Path(__file__).resolve().parents[1]
End = Literal["lowest", "newest"]
SHOWN = ("torch", "mujoco", "gymnasium", "numpy", "stable-baselines3", "tensorboard")
TESTS = (
    "tests/test_all_algorithms.py",
    "tests/test_all_policy_algorithms.py",
    "tests/test_all_gymnasium_envs.py",
    "tests/test_all_task_distributions.py",
    "tests/test_torch_assumptions.py",
    "tests/sim",
    "tests/runs",
    "tests/plots",
    "tests/sb3",
)
TINY = (
    "--training.iterations", "2", "--training.meta-batch-size", "2", "--training.eval-every", "0",
    "--test-tasks", "3",
)  # fmt: skip
ROLLOUTS = ("--gradients.trajectories", "2", "--horizon", "10", "--film", "0")
TRAININGS = (
    ("train", "sine", *TINY),
    ("train", "navigation2d", *TINY, *ROLLOUTS[:2]),
    ("train", "half_cheetah", *TINY, *ROLLOUTS),
)


class Row(NamedTuple):
    """What came out of one environment.

    Attributes:
        end: "lowest" or "newest".
        versions: The versions of what `SHOWN` names.
        results: What was run -> "passed", or the last lines of its output.
    """

    end: str
    versions: dict[str, str]
    results: dict[str, str]


def requirements(extras: Sequence[str] = ("dev",)) -> list[Requirement]:
    """Returns what pyproject.toml requires, with the requirements of extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def lowest(found: Iterable[Requirement]) -> list[str]:
    """Returns constraints that pin requirements to the lowest version that they allow.

    A package that is required twice gets the higher of the two.
    """
    pins: dict[str, tuple[int, ...]] = {}
    for requirement in found:
        versions = [s.version for s in requirement.specifier if s.operator == ">="]
        for version in versions:
            numbers = tuple(map(int, version.split(".")))
            pins[requirement.name] = max(pins.get(requirement.name, ()), numbers)
    return [f"{name}=={'.'.join(map(str, version))}" for name, version in pins.items()]


def constraints(end: End, torch: str | None) -> list[str]:
    """Returns the constraints of an environment.

    Args:
        end: Which versions.
        torch: The version of torch in place of the lowest or newest one; None: that one.
    """
    pins = lowest(requirements()) if end == "lowest" else []
    if torch is None:
        return pins
    return [*(pin for pin in pins if not pin.startswith("torch==")), f"torch=={torch}"]


def check(end: End, folder: Path, torch: str | None, tests: Sequence[str]) -> Row:
    """Builds an environment in a folder and runs the tests and the trainings with it."""
    pins = folder / f"{end}.txt"
    pins.write_text("\n".join(constraints(end, torch)) + "\n", encoding="utf-8")
    home = folder / end
    venv.create(home, with_pip=True, clear=True)
    python = str(home / ("Scripts" if os.name == "nt" else "bin") / "python")
    results: dict[str, str] = {}
    pip = (python, "-m", "pip", "install", "--quiet", "--constraint", str(pins))
    results["install"] = _outcome("install", (*pip, f"{ROOT}[dev]"), folder)
    versions = {name: _version(python, name) for name in SHOWN}
    command = "import sys; from metarl.commands import main; main()"
    for words in TRAININGS:
        name = " ".join(words[:2])
        results[name] = _outcome(name, (python, "-c", command, *words), folder)
    for test in tests:
        pytest = (python, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", test)
        results[test] = _outcome(test, pytest, ROOT)
    return Row(end, versions, results)


def _outcome(name: str, command: Sequence[str], folder: Path) -> str:
    """Runs a command and prints its name and how it ended; returns "passed", or its last line."""
    began = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    lines = (done.stdout + done.stderr).strip().splitlines()
    seconds = f"{time.monotonic() - began:.0f} s"
    if done.returncode == 0:
        print(f"  {name}: passed, {seconds}", flush=True)
        return "passed"
    print("\n".join([f"  {name}: failed, {' '.join(command)}", *lines[-40:]]), flush=True)
    return f"failed: {lines[-1] if lines else done.returncode}"


def _version(python: str, name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run((python, "-c", code), capture_output=True, text=True)
    return done.stdout.strip() or "missing"


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a table of Markdown."""
    heads = ["", *SHOWN, "passed", "failed"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        passed = [name for name, result in row.results.items() if result == "passed"]
        failed = [f"{name} ({r})" for name, r in row.results.items() if r != "passed"]
        versions = [row.versions[name] for name in SHOWN]
        lines.append([row.end, *versions, str(len(passed)), ", ".join(failed) or "none"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(
    torch: str | None = None,
    only: End | None = None,
    tests: tuple[str, ...] = TESTS,
    folder: Path | None = None,
) -> None:
    """Checks the lowest and the newest versions; exits with 1 if anything failed.

    Args:
        torch: A version of torch for both, such as one that is at hand; by default the lowest and
            the newest one that pip finds.
        only: Checks one of both.
        tests: The tests to run.
        folder: Where the environments are made and kept; by default a temporary folder.
    """
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder.resolve()
        place.mkdir(parents=True, exist_ok=True)
        for end in get_args(End) if only is None else (only,):
            print(f"{end} versions, Python {sys.version.split()[0]}", flush=True)
            rows.append(check(end, place, torch, tests))
    print(table(rows))
    if any(result != "passed" for row in rows for result in row.results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(lambda: tyro.cli(main))
