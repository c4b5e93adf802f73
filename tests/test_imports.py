"""What is imported where: heavy packages only where they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "mujoco", "matplotlib", "stable_baselines3", "tensorboard", "metarl.sim.gymnasium.engine",
    "metarl.sim.mujoco", "metarl.plots", "torch._inductor",
)  # fmt: skip
RUN = """
import runpy, sys
sys.argv = {argv!r}
try:
    {statement}
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sys.modules)
"""


def loaded(statement, *argv):
    """Returns the modules that a process has loaded at the end of a statement."""
    code = RUN.format(statement=statement, argv=list(argv))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    ("statement", "argv"),
    [
        (f"runpy.run_path({str(ROOT / 'experiments' / 'sine.py')!r}, run_name='__main__')",
         ("sine.py", "--help")),
        ("import metarl.commands; metarl.commands.main()", ("metarl", "train", "sine", "--help")),
        ("import metarl.training", ()),
        ("import metarl.rl, metarl.training.trust_region", ()),
    ],
    ids=["sine.py --help", "metarl train sine --help", "metarl.training", "metarl.rl"],
)  # fmt: skip
def test_supervised_learning_loads_no_engine_and_no_plots(statement, argv):
    modules = loaded(statement, *argv)
    assert "torch" in modules
    assert not [name for name in HEAVY if name in modules]


@pytest.mark.parametrize("command", [("--help",), ("--version",), ("play", "--help")])
def test_the_help_of_the_command_loads_not_even_torch(command):
    modules = loaded("import metarl.commands; metarl.commands.main()", "metarl", *command)
    assert "metarl.commands" in modules
    assert "torch" not in modules
