"""The command line of experiment scripts."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from metarl.adaptation import GradientAlgorithm
from metarl.adaptation.algorithms import MAMLAlgorithm, MetaSGDAlgorithm, ReptileAlgorithm
from metarl.errors import CheckpointError, SettingsError, UnknownNameError
from metarl.lab import parse_settings, run_script
from metarl.lab.command_line import settings_from
from metarl.lab.lookup import find_experiment
from metarl.runs.checkpoints import Checkpoints
from metarl.runs.run_folder import create_run_folder, to_json
from metarl.training import TrainingSettings


@dataclass(frozen=True)
class Settings:
    """Settings of an experiment."""

    algorithm: str = "maml"
    learner: GradientAlgorithm = field(default_factory=MAMLAlgorithm)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    data_dir: Path | None = None
    runs: Path = Path("runs")
    resume: str | None = None


CONFIGS = {"maml": Settings(), "reptile": Settings("reptile", ReptileAlgorithm())}


def parse(*arguments):
    return parse_settings(CONFIGS, "test", arguments)


def test_the_first_configuration_is_the_default():
    assert parse() == (CONFIGS["maml"], None)


@pytest.mark.parametrize("arguments", [("--algorithm", "reptile"), ("--algorithm=reptile",)])
def test_the_algorithm_chooses_the_defaults(arguments):
    settings, _ = parse(*arguments, "--learner.batch-size", "7", "--training.seed", "3")
    assert settings.learner == ReptileAlgorithm(batch_size=7)
    assert settings.training.seed == 3 and settings.algorithm == "reptile"


def test_an_unknown_algorithm_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'reptile'.*Known: maml, reptile"):
        parse("--algorithm", "reptil")


def test_a_typo_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--learner.inner-lrr", "0.1")
    assert stop.value.code == 2
    assert "--learner.inner-lr" in capsys.readouterr().err


def test_help_tells_what_a_field_means(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    assert "Rate of the inner gradient descent" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_settings_and_takes_new_ones(tmp_path):
    settings, _ = parse("--algorithm", "reptile", "--learner.steps", "9", "--runs", str(tmp_path))
    folder = create_run_folder(tmp_path, "test", "reptile", 0, settings)
    checkpoint = Checkpoints(folder / "checkpoints").save(5, {}, {})
    again, point = parse(
        "--algorithm", "reptile", "--resume", "latest", "--runs", str(tmp_path),
        "--training.iterations", "123",
    )  # fmt: skip
    assert again.learner == ReptileAlgorithm(steps=9)
    assert again.training.iterations == 123
    assert point is not None and (point.folder, point.checkpoint) == (folder, checkpoint)
    by_path, _ = parse("--resume", str(folder), "--runs", str(tmp_path))
    assert by_path.algorithm == "reptile", "a path names the algorithm"


def resumed(tmp_path, capsys, *arguments, algorithm="metasgd", settings=None):
    """Resumes a run with some arguments; returns the settings and what was printed."""
    configs = {"metasgd": Settings("metasgd", MetaSGDAlgorithm()), **CONFIGS}
    settings = settings or replace(configs[algorithm], runs=tmp_path)
    folder = create_run_folder(tmp_path, "test", algorithm, 0, settings)
    Checkpoints(folder / "checkpoints").save(5, {}, {})
    found = ("--algorithm", algorithm, "--resume", "latest", "--runs", str(tmp_path))
    again, _ = parse_settings(configs, "test", (*found, *arguments))
    return settings, again, " ".join(capsys.readouterr().err.split())


def test_a_resumed_run_says_what_changes_and_what_it_ignores(tmp_path, capsys):
    before, after, told = resumed(
        tmp_path, capsys, "--training.seed", "7", "--learner.low", "0.01", "--learner.steps", "3",
        "--training.outer-lr", "0.5",
    )  # fmt: skip
    assert (
        "other settings: learner.steps 3 (it was 1), training.outer_lr 0.5 (it was 0.001)" in told
    )
    ignored = "learner.low 0.01 (the run has 0.005), training.seed 7 (the run has 0)"
    assert f"Ignored, because they only determine the start of a run: {ignored}." in told
    learner = replace(before.learner, steps=3)
    assert after == replace(before, learner=learner, training=TrainingSettings(outer_lr=0.5))


@pytest.mark.parametrize(
    ("name", "arguments", "ignored"),
    [
        ("omniglot", ("--scheme", "vinyals"), "tasks.scheme vinyals (the run has minimal-1)"),
        ("digits", ("--split-seed", "1"), "split_seed 1 (the run has 0)"),
    ],
)
def test_a_resumed_run_keeps_its_split(tmp_path, capsys, name, arguments, ignored):
    configs = find_experiment(name).configs
    settings = replace(configs["maml"], runs=tmp_path)
    folder = create_run_folder(tmp_path, name, "maml", 0, settings)
    Checkpoints(folder / "checkpoints").save(5, {}, {})
    again, _ = parse_settings(configs, name, ("--resume", str(folder), *arguments))
    assert again == settings
    assert ignored in " ".join(capsys.readouterr().err.split())


def test_a_resumed_run_without_changes_says_nothing_and_keeps_its_config(tmp_path, capsys):
    before, after, told = resumed(tmp_path, capsys, algorithm="maml")
    assert after == before and not told


def test_a_run_is_not_resumed_as_another_algorithm(tmp_path):
    folder = create_run_folder(tmp_path, "test", "maml", 0, CONFIGS["maml"])
    Checkpoints(folder / "checkpoints").save(5, {}, {})
    with pytest.raises(SettingsError, match="trains maml, not reptile"):
        parse("--algorithm", "reptile", "--resume", str(folder), "--runs", str(tmp_path))


def test_a_run_is_not_resumed_by_another_experiment(tmp_path):
    folder = create_run_folder(tmp_path, "other", "maml", 0, CONFIGS["maml"])
    Checkpoints(folder / "checkpoints").save(5, {}, {})
    with pytest.raises(SettingsError, match="to the experiment 'other', not to 'test'"):
        parse("--resume", str(folder), "--runs", str(tmp_path))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="no run"):
        parse("--resume", "latest", "--runs", str(tmp_path))


def test_an_unreadable_config_is_named(tmp_path):
    folder = create_run_folder(tmp_path, "test", "maml", 0, CONFIGS["maml"])
    Checkpoints(folder / "checkpoints").save(5, {}, {})
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        parse("--resume", "latest", "--runs", str(tmp_path))


def test_errors_end_a_script_with_their_message(capsys):
    def main():
        raise SettingsError("Expected at least 1 task, got [0].")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "SettingsError: Expected at least 1 task, got [0].\n"


def test_an_interrupt_ends_a_script_with_its_notes(capsys):
    def main():
        interrupt = KeyboardInterrupt()
        interrupt.add_note("The last good checkpoint is step_000003.")
        raise interrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Interrupted. The last good checkpoint is step_000003.\n"


def test_a_broken_pipe_of_another_kind_is_no_closed_output():
    def main():
        raise BrokenPipeError("the simulator has died")

    with pytest.raises(BrokenPipeError, match="simulator"):
        run_script(main)


def test_settings_go_to_json_and_back():
    settings = Settings(learner=MAMLAlgorithm(frozen=("*.norm.*",)), data_dir=Path("data"))
    assert settings_from(Settings(), to_json(settings)) == settings


def test_a_saved_setting_that_is_no_more_is_named():
    with pytest.raises(SettingsError, match="'inner_rate' is unknown"):
        settings_from(CONFIGS["maml"], {"learner": {"inner_rate": 1}})


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": -1},
        {"meta_batch_size": 0},
        {"task_chunk_size": 0},
        {"threads": 0},
        {"outer_lr": 0.0},
        {"outer_lr": float("nan")},
        {"outer_lr": float("inf")},
        {"max_grad_norm": -1.0},
        {"workers": 0},
        {"eval_tasks": 0},
        {"eval_steps": -1},
        {"schedule": "lineer"},
        {"optimizer": "adan"},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        TrainingSettings(**change)


def test_auto_resumes_the_latest_run_or_begins_one(tmp_path):
    arguments = ("--algorithm", "reptile", "--resume", "auto", "--runs", str(tmp_path))
    settings, point = parse(*arguments, "--learner.steps", "9")
    assert point is None and settings.resume is None and settings.learner.steps == 9
    folder = create_run_folder(tmp_path, "test", "reptile", 0, settings)
    assert parse(*arguments)[1] is None, "a folder without a checkpoint has nothing to resume"
    checkpoint = Checkpoints(folder / "checkpoints").save(5, {}, {})
    again, point = parse(*arguments)
    assert point is not None and (point.folder, point.checkpoint) == (folder, checkpoint)
    assert again.learner == ReptileAlgorithm(steps=9)


@pytest.mark.parametrize(
    ("experiment", "algorithm", "typed"),
    [
        ("navigation2d", "scratch", ("--update.max-kl", "0.3")),
        ("bandit", "ucb1", ("--hidden", "7")),
        ("bandit", "ucb1", ("--gradients.discount", "0.5")),
        ("bandit", "ucb1", ("--policy.layer-norm",)),
    ],
)
def test_settings_that_the_algorithm_makes_no_use_of_are_refused(experiment, algorithm, typed):
    configs = find_experiment(experiment).configs
    chosen = ("--algorithm", algorithm)
    used = ("--gradients.trajectories", "3", "--test-tasks", "3")
    settings, _ = parse_settings(configs, experiment, (*chosen, *used))
    assert settings.gradients.trajectories == 3
    with pytest.raises(SettingsError, match=f"--algorithm {algorithm} makes no use of {typed[0]}:"):
        parse_settings(configs, experiment, (*chosen, *used, *typed))


def test_a_saved_setting_of_no_use_stays(tmp_path):
    configs = find_experiment("bandit").configs
    saved = replace(configs["ucb1"], hidden=(7,), runs=tmp_path)
    folder = create_run_folder(tmp_path, "bandit", "ucb1", 0, saved)
    Checkpoints(folder / "checkpoints").save(0, {}, {})
    settings, _ = parse_settings(configs, "bandit", ("--resume", str(folder), "--test-tasks", "3"))
    assert settings.hidden == (7,) and settings.test_tasks == 3
