import errno
import json
import shutil

import pytest

from metarl.lab import control_reports, saved_run
from metarl.runs.eval_file import read_curves
from tests.commands.conftest import EXPERIMENTS
from tests.fake_cuda import fake_cuda


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["bandit", "navigation2d", "sine"])
def test_a_run_is_judged_again_and_left_as_it_was(name, trained, metarl, tmp_path):
    before = contents(trained[name])
    status, printed = metarl("evaluate", trained[name], "--out", tmp_path)
    assert status == 0, printed.err
    assert "step_000002" in printed.out
    assert contents(trained[name]) == before
    tests = [line for line in read_curves(trained[name]) if line["split"] != "validation"]
    assert read_curves(tmp_path) == tests  # the same numbers, to the bit
    assert (tmp_path / "adaptation.png").stat().st_size > 0
    assert (tmp_path / "paths.png").exists() == (name == "navigation2d")


def test_a_film_that_nobody_would_see_is_not_made(copied, metarl, monkeypatch, tmp_path):
    run = copied("navigation2d")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "film": 1}))
    filmed = []
    monkeypatch.setattr(control_reports, "log_film", lambda *_: filmed.append(1))
    assert metarl("evaluate", run)[0] == 0 and not filmed
    assert metarl("evaluate", run, "--out", tmp_path / "out")[0] == 0 and filmed


def test_tasks_and_steps_can_be_chosen(trained, metarl, tmp_path):
    arguments = ("--test-tasks", 5, "--test-steps", 1, "--out", tmp_path, "--device", "cpu")
    status, printed = metarl("evaluate", trained["bandit"], *arguments)
    assert status == 0 and "(5)" in printed.out
    (line,) = read_curves(tmp_path)
    assert line["tasks"] == 5 and len(line["mean"]) == 2


def test_the_run_folder_is_no_place_for_what_is_written(trained, metarl):
    before = contents(trained["sine"])
    status, printed = metarl("evaluate", trained["sine"], "--out", trained["sine"] / "again")
    assert status == 1 and "outside of the run folder" in printed.err
    assert contents(trained["sine"]) == before


def test_a_setting_that_the_experiment_lacks_is_told(trained, metarl):
    status, printed = metarl("evaluate", trained["sine"], "--steps", 3)
    assert status == 1 and "no setting 'test_steps'" in printed.err


def test_a_checkpoint_can_be_chosen(trained, metarl):
    chosen = trained["bandit"] / "checkpoints" / "step_000001"
    assert "step_000001" in metarl("evaluate", chosen)[1].out


def test_the_newest_good_checkpoint_is_taken(copied, metarl):
    run = copied("bandit")
    weights = run / "checkpoints" / "step_000002" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="step_000002, is damaged.*step_000001"):
        status, printed = metarl("evaluate", run)
    assert status == 0 and "step_000001" in printed.out
    meta = run / "checkpoints" / "step_000002" / "meta.json"
    meta.write_text(meta.read_text().replace('"format_version": 1', '"format_version": 99'))
    shutil.rmtree(run / "checkpoints" / "step_000001")
    shutil.rmtree(run / "checkpoints" / "step_000000", ignore_errors=True)
    status, printed = metarl("evaluate", run)
    assert status == 1 and "format version 99, this MetaRL reads 1" in printed.err
    shutil.rmtree(run / "checkpoints")
    status, printed = metarl("evaluate", run)
    assert status == 1 and "no good checkpoint" in printed.err


def test_a_file_of_a_run_names_the_run(copied):
    run = copied("bandit").resolve()
    checkpoint = run / "checkpoints" / "step_000002"
    for path in (run / "checkpoints", run / "config.json", checkpoint / "weights.safetensors"):
        assert saved_run.find_good(path) == (run, checkpoint)


def script_of(name):
    return EXPERIMENTS / f"{name}.py"


def test_a_run_of_a_script_opens_by_that_script_alone(copied, metarl, tmp_path):
    run = copied("bandit")
    note = json.loads((run / "experiment.json").read_text())
    assert note == {"format_version": 1, "experiment": "bandit"}
    mine = shutil.copy(script_of("bandit"), tmp_path / "mine.py")
    (run / "experiment.json").write_text(json.dumps({**note, "script": str(mine)}))
    status, printed = metarl("evaluate", run)
    assert status == 1 and "mine.py" in printed.err and "--script PATH" in printed.err
    assert metarl("evaluate", run, "--script", mine)[0] == 0
    (run / "experiment.json").unlink()
    assert metarl("evaluate", run)[0] == 1
    assert metarl("evaluate", run, "--script", mine)[0] == 0


def test_names_in_a_run_are_looked_up_and_never_executed(copied, metarl, tmp_path):
    run = copied("bandit")
    (run / "evil.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')")
    for note in (
        {"experiment": "evil", "script": str(run / "evil.py")},
        {"experiment": "bandit", "script": str(run / "evil.py")},
        {"experiment": "os:getcwd"},
        {"experiment": "bandits"},
        {"experiment": ["bandit"]},
        ["bandit"],
    ):
        (run / "experiment.json").write_text(json.dumps(note))
        status, printed = metarl("evaluate", run)
        assert status == 1 and "--script" in printed.err and "Traceback" not in printed.err, note
    assert not (tmp_path / "evil").exists()
    (run / "experiment.json").write_bytes(b"\xff\xfe{")
    assert metarl("evaluate", run)[0] == 1


def test_another_experiment_is_refused(trained, metarl, tmp_path):
    status, printed = metarl("evaluate", trained["bandit"], "--script", script_of("sine"))
    assert status == 1 and "'bandit'" in printed.err and "'sine'" in printed.err
    (tmp_path / "empty.py").write_text("")
    status, printed = metarl("evaluate", trained["bandit"], "--script", tmp_path / "empty.py")
    assert status == 1 and "EXPERIMENT = Experiment(...)" in printed.err
    status, printed = metarl("evaluate", trained["bandit"], "--script", "metarl:__version__")
    assert status == 1 and "name an Experiment" in printed.err


def test_the_latest_run_is_that_saved_last(trained, metarl, tmp_path):
    for name in ("bandit", "sine"):
        shutil.copytree(trained[name], tmp_path / name / "maml" / trained[name].name)
    _, printed = metarl("evaluate", "latest", "--runs", tmp_path, "--training.device", "cpu")
    assert str(tmp_path / "sine") in printed.out
    status, printed = metarl("evaluate", "latest", "--runs", tmp_path / "none")
    assert status == 1 and "No run in" in printed.err


def test_no_folder_for_temporary_files(trained, metarl, monkeypatch):
    def full(*_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(saved_run, "TemporaryDirectory", full)
    status, printed = metarl("evaluate", trained["sine"])
    assert status == 1
    assert "Cannot make a temporary folder" in printed.err and "TMPDIR" in printed.err


def test_no_run_at_all(metarl, tmp_path):
    status, printed = metarl("evaluate", tmp_path / "nowhere")
    assert status == 1 and "nowhere" in printed.err and "Traceback" not in printed.err


def test_a_run_without_an_experiment_is_sent_to_what_opens_it(copied, metarl):
    run = copied("sine")  # as `OuterLoop` writes one in Python
    (run / "experiment.json").unlink()
    for command in ("evaluate", "play"):
        status, printed = metarl(command, run)
        assert status == 1 and "--script" in printed.err
        assert "`metarl adapt`" in printed.err and "`metarl.load`" in printed.err


def test_single_tasks_are_told(trained, metarl):
    status, printed = metarl("evaluate", trained["navigation2d"], "--per-task")
    assert status == 0 and "goal 0" in printed.out and "return 2" in printed.out
    for name in ("test tasks", "icml2017", "icml2017 20 rollouts", "icml2017 rate kept"):
        assert f"Evaluating {name}" in printed.err, "a bar for each evaluation"
        assert f"{name}: the tasks of" in printed.out or name == "test tasks"
    status, printed = metarl("evaluate", trained["sine"], "--per-task")
    assert status == 1 and "single tasks" in printed.err
    assert "Mean squared error" in printed.out, "the table is printed all the same"


@pytest.mark.parametrize(
    ("name", "device", "index"), [("bandit", "cuda", 1), ("sine", "cuda:0", 0)]
)
def test_torch_gets_a_device_with_an_index(name, device, index, trained, metarl, tmp_path):
    arguments = ("evaluate", trained[name], "--out", tmp_path, "--device", device)
    with fake_cuda() as fake:
        status, printed = metarl(*arguments)
    assert status == 0, printed.err
    assert {str(d) for d in fake.devices} == {f"cuda:{index}"}


def test_brackets_in_paths_are_printed(copied, metarl, tmp_path):
    folder = tmp_path / "my [x] runs" / "[bold] 1"
    folder.parent.mkdir()
    run = copied("sine").rename(folder)
    for command, option in (("evaluate", "o [a]"), ("compare", "c [b].png"), ("play", "p [c].png")):
        status, printed = metarl(command, run, "--out", tmp_path / option, columns=400)
        assert status == 0, printed.err
        assert str(tmp_path / option) in printed.out
        assert command != "evaluate" or f"{run}/checkpoints" in printed.out
