"""The experiment on any family: what it says when there is none of that name."""

import pytest

from metarl.errors import SettingsError, UnknownNameError
from metarl.lab.lookup import script_experiment
from metarl.runs.eval_file import read_curves
from tests.experiments.test_control_scripts import EXPERIMENTS, TINY, leave_out_figures


def run(monkeypatch, *arguments):
    leave_out_figures(monkeypatch)
    monkeypatch.setattr("sys.argv", ["custom", *map(str, arguments)])
    script_experiment(EXPERIMENTS / "custom.py").main()


def test_installed_families_train_too(tmp_path, monkeypatch):
    run(
        monkeypatch, "--family", "Navigation2D-v1", "--algorithm", "reptile", "--runs", tmp_path,
        "--horizon", "3", "--training.iterations", "1", *TINY,
    )  # fmt: skip
    (folder,) = (tmp_path / "custom" / "reptile").iterdir()
    assert len(read_curves(folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], SettingsError, r"Expected a family of tasks, --family NAME .* `metarl list`"),
        (["--family", "Navigation-v1"], UnknownNameError, r"Did you mean 'Navigation2D-v1'"),
        (["--family", "Pendulum-v1"], UnknownNameError, r"GymTasks\('Pendulum-v1', .*my_module"),
        (["--family", "nowhere:tasks"], UnknownNameError, r"No module named 'nowhere'"),
    ],
)
def test_what_is_no_family_is_told(arguments, error, message, monkeypatch):
    with pytest.raises(error, match=message):
        run(monkeypatch, *arguments)


def test_workers_are_an_option(monkeypatch):
    experiment = script_experiment(EXPERIMENTS / "custom.py")
    family = "tests.sim.test_make:PENDULA"
    settings = experiment.configs["maml"]
    parts = experiment.build(
        type(settings)(**{**vars(settings), "family": family, "options": ("workers=2",)})
    )
    assert parts.learner.family.workers == 2
