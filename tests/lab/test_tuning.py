"""Sweeps: search spaces from a command line, and studies that go on."""

from dataclasses import replace

import pytest

from metarl.commands.tune import tune
from metarl.errors import SettingsError
from metarl.lab import tuning
from metarl.lab.command_line import parse_settings
from metarl.lab.lookup import find_experiment
from metarl.lab.search_space import as_arguments, search_space, with_values
from metarl.lab.tuning import Study
from metarl.training.loop import OuterLoop, TrainingResult

SINE = find_experiment("sine").configs["maml"]
FEW = (
    "--training.iterations", "4", "--training.eval-every", "2", "--training.eval-tasks", "2",
    "--training.threads", "1",
)  # fmt: skip


class Proposer:
    """In place of a trial of Optuna: proposes the lower end or the last choice."""

    def suggest_float(self, name, low, high, log):
        return low

    suggest_int = suggest_float

    def suggest_categorical(self, name, choices):
        return choices[-1]


def test_settings_take_what_is_proposed():
    space = search_space(
        SINE, ["training.outer-lr=1e-4..1e-2:log", "learner.steps=1..5", "--learner.inner_lr=.1,.2"]
    )
    assert [(d.name, d.choices, d.is_range, d.log) for d in space] == [
        ("training.outer-lr", (1e-4, 1e-2), True, True),
        ("learner.steps", (1, 5), True, False),
        ("learner.inner-lr", (0.1, 0.2), False, False),
    ]
    values = {d.name: d.suggest(Proposer()) for d in space}
    assert values == {"training.outer-lr": 1e-4, "learner.steps": 1, "learner.inner-lr": 0.2}
    settings = with_values(SINE, values)
    assert (settings.training.outer_lr, settings.learner.inner_lr) == (1e-4, 0.2)
    assert as_arguments(SINE, {"learner.inner-lr": 0.2}) == ["--learner.inner-lr", "0.2"]


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("sine", ["training.compile=True,False", "training.outer-lr=1e-4..1e-2:log"]),
        ("navigation2d", ["policy.scale-actions=None,True,False"]),
        ("omniglot", ["way=5,20", "rotations=none,reflected"]),  # of a group without a prefix
    ],
)
def test_what_was_found_is_understood_by_the_command_line(name, search):
    configs = find_experiment(name).configs
    space = search_space(configs["maml"], search)
    for place in (0, -1):
        values = {d.name: d.choices[place] for d in space}
        arguments = as_arguments(configs["maml"], values)
        read, _ = parse_settings(configs, name, arguments)
        assert read == with_values(configs["maml"], values), arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [("training.outer_rate=1..2", "no setting training.outer-rate"), ("training=1,2", "group"),
     ("training.outer-lr", "NAME=LOW..HIGH"), ("training.outer-lr=2..1", "LOW below HIGH"),
     ("training.outer-lr=0..1:log", "above 0"), ("training.outer-lr=1..2:ln", "NAME=LOW"),
     ("training.outer-lr=-1..1", "cannot be searched at -1"),
     ("training.optimizer=adam,adamm", "cannot be searched at 'adamm'"),
     ("training.compile=0..1", "no number|another type"), ("learner.steps=1,x", "another type")],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        search_space(SINE, [text])


def test_a_name_is_that_of_the_command_line():
    configs = find_experiment("omniglot").configs
    with pytest.raises(SettingsError, match=r"no setting tasks\.way"):
        search_space(configs["maml"], ["tasks.way=5,20"])


def test_each_setting_is_named_once():
    with pytest.raises(SettingsError, match="each setting once"):
        search_space(SINE, ["learner.steps=1,2", "learner.steps=3,4"])


def test_a_study_goes_on_where_it_ended(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra tune")
    monkeypatch.chdir(tmp_path)
    search = ("--search", "training.outer-lr=1e-4..1e-2:log", "--search-seed", "0")
    tune("sine", *FEW, *search, "--trials", "2")
    tune("sine", *FEW, *search, "--trials", "3")
    printed = capsys.readouterr().out
    assert "3 complete" in printed
    assert "metarl train sine --training.iterations 4" in printed.rpartition("The best one:")[2]
    assert len(list((tmp_path / "runs").glob("sine/maml/*/checkpoints/step_000004"))) == 3
    with pytest.raises(SettingsError, match="results would not compare"):
        tune("sine", *FEW, "--search", "training.outer-lr=1e-5..1e-2:log", "--trials", "4")


def test_an_interrupted_trial_does_not_count(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra tune")
    monkeypatch.chdir(tmp_path)
    arguments = ("sine", *FEW, "--search", "training.outer-lr=1e-4..1e-2:log", "--trials", "2")
    train = Study._train

    def interrupted(study, trial):
        if trial.number == 1:
            raise KeyboardInterrupt
        return train(study, trial)

    monkeypatch.setattr(Study, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(*arguments)
    assert "1 complete, 1 fail" in capsys.readouterr().out
    tune(*arguments)
    assert "2 complete, 1 fail" in capsys.readouterr().out
    tune(*arguments)
    assert "2 complete, 1 fail" in capsys.readouterr().out


def test_a_storage_that_cannot_be_opened_is_an_error_that_names_it(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra tune")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning, "PAUSE", 0.0)
    (tmp_path / "text.log").write_text("no journal\n")
    for place in (".", "text.log", "sqlite:///nowhere/study.db", "nothing://host/study"):
        with pytest.raises(SettingsError, match="Cannot open the storage") as error:
            tune("sine", *FEW, "--search", "learner.steps=1,2", "--storage", place)
        assert place in str(error.value)


def test_a_storage_that_another_process_has_just_made_is_opened(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="needs the extra tune")
    monkeypatch.setattr(tuning, "PAUSE", 0.0)
    opened, tries = optuna.create_study, []

    def create(**options):
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("UNIQUE constraint failed")
        return opened(**options)

    monkeypatch.setattr(optuna, "create_study", create)
    place = f"sqlite:///{tmp_path / 'study.db'}"
    options = [*FEW, "--runs", str(tmp_path)]
    Study(find_experiment("sine"), options, ["learner.steps=1,2"], storage=place)
    assert len(tries) == 2


def test_without_validation_there_is_nothing_to_compare():
    pytest.importorskip("optuna", reason="needs the extra tune")
    with pytest.raises(SettingsError, match="eval-every above 0"):
        tune("sine", "--training.eval-every", "0", "--search", "learner.steps=1,2")


def error_of_the_mean(outputs, targets):
    return (outputs - targets).abs()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_metric_of_ones_own_needs_a_direction(tmp_path, direction):
    pytest.importorskip("optuna", reason="needs the extra tune")
    sine = find_experiment("sine")

    def build(settings):
        learner = replace(settings.learner, metric=error_of_the_mean)
        return sine.build(replace(settings, learner=learner))

    arguments = (replace(sine, build=build), [*FEW, "--runs", str(tmp_path)])
    with pytest.raises(SettingsError, match="error_of_the_mean does not say"):
        Study(*arguments, ["learner.steps=1,2"], name="none").run(1)
    assert not (tmp_path / "sine").exists()
    study = Study(*arguments, ["training.outer-lr=1e-4,1e-1"], direction=direction, seed=0)
    study.run(3)
    values = [trial.value for trial in study.best(3)]
    assert len(set(values)) > 1
    assert values == sorted(values, reverse=direction == "maximize")


def test_a_stopped_trial_says_how_the_study_continues(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra tune")
    monkeypatch.setattr(OuterLoop, "run", lambda loop: TrainingResult(2, False, 1.0, "SIGTERM"))
    study = Study(find_experiment("sine"), [*FEW, "--runs", str(tmp_path)], ["learner.steps=1,2"])
    with pytest.raises(SystemExit):
        study.run(1)
    assert "The same command continues the study" in capsys.readouterr().out
