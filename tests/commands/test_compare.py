"""`metarl compare`: curves of runs in one figure."""

import io
import json

import pytest
import torch
from matplotlib.collections import PolyCollection

from metarl.commands.compare import comparison_table
from metarl.console import OutputConsole
from metarl.errors import CheckpointError, SettingsError
from metarl.evaluation.curves import AdaptationCurve
from metarl.plots.comparison import comparison_figure
from metarl.plots.figures import figure_pixels
from metarl.runs.logger import RunLogger
from metarl.runs.run_curves import compare_runs, run_labels
from metarl.runs.run_folder import EVAL_FILE
from metarl.tasks.files import read_json
from metarl.training.learner_file import FORMAT_VERSION, LEARNER_FILE, checksum
from metarl.training.other_worlds import world_differences
from tests.written_runs import make_run, seeded_run


def test_the_curves_are_those_of_eval_jsonl(tmp_path):
    folders = [
        make_run(tmp_path, "sine/maml/20260712_103000_s0", splits=("test_5_shot", "test")),
        make_run(tmp_path, "sine/reptile/20260712_103000_s0", 1.0),
    ]
    comparison = compare_runs(folders)
    assert (comparison.metric, comparison.split) == ("mse", "test")
    maml, reptile = comparison.runs
    assert (maml.label, reptile.label) == ("maml", "reptile")
    assert [s.mean for s in maml.adaptation.values()] == [3.0, 2.0, 0.5]
    assert [(x, s.mean) for x, s in reptile.training] == [
        (10, pytest.approx(0.15)), (20, pytest.approx(0.075)),
    ]  # fmt: skip
    line = json.loads((folders[0] / EVAL_FILE).read_text().splitlines()[-1])
    assert [s.mean_low for s in maml.adaptation.values()] == line["mean_low"]


def test_further_metrics_and_lines_of_0_1_do_not_disturb_the_comparison(tmp_path):
    values = torch.tensor([[4.0, 2.0], [1.0, 3.0]])
    folder = tmp_path / "a" / "b" / "run"
    with RunLogger(folder) as logger:
        for prefix in ("eval_validation", "eval_test"):
            logger.curve(
                AdaptationCurve("mse", values, False, others={"mae": values / 9}), 10, prefix
            )
    comparison = compare_runs([folder])
    assert comparison.metric == "mse"
    assert [s.mean for s in comparison.runs[0].adaptation.values()] == [3.0, 2.0]
    assert [(x, s.mean) for x, s in comparison.runs[0].training] == [(10, 2.0)]
    lines = [json.loads(line) for line in (folder / EVAL_FILE).read_text().splitlines()]
    for line in lines:
        del line["lowest_tenth"], line["highest_tenth"]
    (folder / EVAL_FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [s.mean for s in compare_runs([folder]).runs[0].adaptation.values()] == [3.0, 2.0]


def test_the_figure_has_both_panels_with_bands(tmp_path):
    folders = [make_run(tmp_path, f"sine/maml/2026_s{seed}", seed) for seed in (0, 1)]
    comparison = compare_runs(folders)
    figure = comparison_figure(
        {r.label: r.training for r in comparison.runs},
        {r.label: r.adaptation for r in comparison.runs},
        "mse",
    )
    left, right = figure.axes
    for axes, positions in ((left, [10, 20]), (right, [0, 1, 2])):
        assert [list(line.get_xdata()) for line in axes.lines] == [positions] * 2
        assert sum(isinstance(c, PolyCollection) for c in axes.collections) == 2
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["maml s0", "maml s1", "95 % CI"]


def test_training_can_be_counted_in_environment_steps(tmp_path):
    folder = make_run(tmp_path, "navigation2d/maml/run", steps=100)
    (run,) = compare_runs([folder], by_environment_steps=True).runs
    assert [x for x, _ in run.training] == [1000, 2000]
    without = make_run(tmp_path, "sine/maml/run")
    with pytest.raises(SettingsError, match=f"environment steps, {without} does not"):
        compare_runs([folder, without], by_environment_steps=True)


def test_labels_are_as_short_as_they_distinguish(tmp_path):
    def labels(*names):
        return run_labels([tmp_path / name for name in names])

    assert labels("sine/maml/a", "sine/reptile/a") == ["maml", "reptile"]
    assert labels("sine/maml/a_s0", "sine/maml/a_s1") == ["maml s0", "maml s1"]
    assert labels("sine/maml/a_s0", "sine/maml/b_s0") == ["maml/a_s0", "maml/b_s0"]
    assert labels("sine/maml/a", "omniglot/maml/a") == ["sine/maml", "omniglot/maml"]


def test_labels_are_no_markup_and_no_formulas(tmp_path):
    comparison = compare_runs(
        [make_run(tmp_path, f"a/b/{name}") for name in ("x [i] $y$", "c$d{$")]
    )
    console = OutputConsole(file=io.StringIO(), width=200)
    console.print_whole(comparison_table(comparison))
    assert "x [i] $y$" in console.file.getvalue()
    curves = {f"_{r.label}": r.adaptation for r in comparison.runs}
    figure = comparison_figure({}, curves, "mse")
    figure_pixels(figure)  # draws it
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [r" _b x [i] \$y\$", r" _b c\$d{\$", "95 % CI"]


def test_runs_that_do_not_compare_are_refused(tmp_path):
    mse, shots = make_run(tmp_path, "a/b/c"), make_run(tmp_path, "a/b/d", splits=("test_5_shot",))
    returns = make_run(tmp_path, "a/b/e", metric="return")
    assert compare_runs([mse, shots]).split == "validation"
    with pytest.raises(SettingsError, match=r"'test'.*has validation, test_5_shot"):
        compare_runs([mse, shots], "test")
    with pytest.raises(SettingsError, match="one metric, got mse, return"):
        compare_runs([mse, returns])
    with pytest.raises(CheckpointError, match="There is no run folder"):
        compare_runs([mse, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="has no curve yet"):
        compare_runs([tmp_path / "empty"])
    (mse / EVAL_FILE).write_text(
        '{"iteration": 1, "split": "test", "metric": "mse", "mean": [1]}\n'
    )
    with pytest.raises(CheckpointError, match=r"eval\.jsonl cannot be used"):
        compare_runs([mse])


def test_the_command_draws_and_tabulates(metarl, trained, tmp_path):
    out = tmp_path / "figure.png"
    status, printed = metarl("compare", trained["sine"], trained["sine"], "--out", out)
    assert status == 0, printed.err
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "mse, test 5 shot tasks" in printed.out and str(out) in printed.out.replace("\n", "")
    status, printed = metarl("compare")
    assert status != 0


def test_latest_is_the_newest_run(metarl, trained, tmp_path):
    runs = trained["sine"].parent
    out = tmp_path / "figure.png"
    status, printed = metarl("compare", "latest", "--runs", runs, "--out", out)
    assert status == 0, printed.err
    assert "test 5 shot tasks" in printed.out and out.is_file()


def test_runs_in_other_worlds_are_noted(metarl, trained, copied, tmp_path):
    run, other = trained["navigation2d"], copied("navigation2d")
    out = ("--out", tmp_path / "figure.png")
    assert "worlds of these runs differ" not in metarl("compare", run, other, *out)[1].out
    content = read_json(other / LEARNER_FILE)
    del content["format_version"], content["sha256"]
    content["learner"]["family"]["horizon"] = 7
    data = {"format_version": FORMAT_VERSION, "sha256": checksum(content), **content}
    (other / LEARNER_FILE).write_text(json.dumps(data))
    status, printed = metarl("compare", run, other, *out, columns=400)
    said = "The worlds of these runs differ in the horizon: 100 in "
    assert status == 0 and said in printed.out and ", 7 in " in printed.out
    (other / LEARNER_FILE).unlink()
    assert metarl("compare", run, other, *out)[0] == 0
    assert world_differences([run, trained["bandit"]]).keys() >= {"family", "space of actions"}
    assert world_differences([run, trained["sine"]]) == {}


def test_the_command_combines_seeds(tmp_path, metarl):
    folders = [
        seeded_run(tmp_path, f"sine/maml/2026071{k}_103000_s{k}", k, float(k)) for k in range(2)
    ]
    status, out = metarl("compare", *folders, "--over-seeds", "--out", tmp_path / "a.png")
    assert status == 0, out.err
    assert "95 % interval over seeds" in out.out and "maml, 2 seeds" in out.out
    assert (tmp_path / "a.png").exists()
