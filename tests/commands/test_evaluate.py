import json
import shutil

import pytest

from metarl.runs.logger import read_curves


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


def test_tasks_and_steps_can_be_chosen(trained, metarl, tmp_path):
    arguments = ("--tasks", 5, "--steps", 1, "--out", tmp_path, "--device", "cpu")
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
    status, printed = metarl("evaluate", run)
    assert status == 0 and "step_000001" in printed.out
    shutil.rmtree(run / "checkpoints")
    status, printed = metarl("evaluate", run)
    assert status == 1 and "no good checkpoint" in printed.err


def test_a_script_that_moved_has_to_be_named(copied, metarl, tmp_path):
    run = copied("bandit")
    noted = json.loads((run / "script.json").read_text())
    (run / "script.json").write_text(json.dumps({**noted, "script": str(tmp_path / "gone.py")}))
    status, printed = metarl("evaluate", run)
    assert status == 1 and "gone.py" in printed.err and "--script PATH" in printed.err
    assert metarl("evaluate", run, "--script", noted["script"])[0] == 0
    (run / "script.json").unlink()
    assert metarl("evaluate", run)[0] == 1
    assert metarl("evaluate", run, "--script", noted["script"])[0] == 0


def test_another_script_is_refused(trained, metarl, tmp_path):
    script = json.loads((trained["sine"] / "script.json").read_text())["script"]
    status, printed = metarl("evaluate", trained["bandit"], "--script", script)
    assert status == 1 and "'bandit'" in printed.err and "'sine'" in printed.err
    (tmp_path / "empty.py").write_text("")
    status, printed = metarl("evaluate", trained["bandit"], "--script", tmp_path / "empty.py")
    assert status == 1 and "EXPERIMENT = Experiment(...)" in printed.err


def test_no_run_at_all(metarl, tmp_path):
    status, printed = metarl("evaluate", tmp_path / "nowhere")
    assert status == 1 and "nowhere" in printed.err and "Traceback" not in printed.err


def test_single_tasks_are_told(trained, metarl):
    status, printed = metarl("evaluate", trained["navigation2d"], "--per-task")
    assert status == 0 and "goal 0" in printed.out and "return 2" in printed.out
    status, printed = metarl("evaluate", trained["sine"], "--per-task")
    assert status == 1 and "single tasks" in printed.err
