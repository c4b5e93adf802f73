"""The experiment scripts as a user runs them, with tiny budgets."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metarl.errors import DataError, SettingsError, TaskError
from metarl.runs.checkpoints import Checkpoints, load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--training.iterations",
    "6",
    "--training.log-every",
    "2",
    "--training.checkpoint-every",
    "2",
)


def run(script, monkeypatch, runs, *arguments):
    """Runs a script's main() in this process."""
    path = ROOT / "experiments" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{script}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(sys, "argv", [str(path), "--runs", str(runs), *arguments])
    spec.loader.exec_module(module)
    module.EXPERIMENT.main()


def only_run(runs, script, algorithm):
    (folder,) = (runs / script / algorithm).iterdir()
    return folder


def test_sine_leaves_what_it_promises(tmp_path, monkeypatch, capsys):
    small = (*SMALL, "--training.eval-every", "3", "--training.eval-tasks", "4")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.append(n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    threads = [7]
    run("sine", monkeypatch, tmp_path, *small)
    folder = only_run(tmp_path, "sine", "maml")
    for name in ("config.json", "versions.json", "adaptation.png", "fits.png", "eval.jsonl"):
        assert (folder / name).stat().st_size > 0, name
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert [line.get("shots") for line in lines] == [None, None, 5, 10, 20]
    assert all(len(line["mean"]) == 11 and line["tasks"] == 600 for line in lines[2:])
    assert json.loads((folder / "versions.json").read_text())["torch_threads"] == 1
    printed = capsys.readouterr().out
    assert f"tensorboard --logdir {folder}" in printed
    assert "0.67" in printed and "K=20" in printed


@pytest.mark.filterwarnings("ignore:The mse of task:RuntimeWarning")  # Meta-SGD beyond its step
@pytest.mark.parametrize(
    "algorithm",
    ["fomaml", "metasgd", "mamlplusplus", "reptile", "lstm", "learned-optimizer", "pretrained"],
)
def test_sine_runs_every_algorithm(algorithm, tmp_path, monkeypatch, capsys):
    run("sine", monkeypatch, tmp_path, "--algorithm", algorithm, "--test-tasks", "3", *SMALL)
    assert "K=5" in capsys.readouterr().out


@pytest.mark.parametrize(
    "algorithm",
    [
        "maml", "fomaml", "metasgd", "mamlplusplus", "reptile", "lstm", "learned-optimizer",
        "prototypical", "matching", "one-shot", "relation", "reconstruction", "siamese",
        "nearest-neighbour", "mann", "metanet", "classifier",
    ],
)  # fmt: skip
def test_omniglot_runs_every_algorithm_on_glyphs(algorithm, tmp_path, monkeypatch, capsys):
    tiny = ("--test-tasks", "4", "--test-steps", "2", "--filters", "4", "--algorithm", algorithm)
    run("omniglot", monkeypatch, tmp_path, *SMALL, *tiny)
    way = 20 if algorithm == "one-shot" else 5
    assert f"{way}-way 1-shot, 4 test tasks" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["maml", "pretrained", "scratch", "nearest-neighbour"])
def test_digits_of_scikit_learn(algorithm, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    tiny = ("--test-tasks", "4", "--test-steps", "2", "--hidden", "8", "--algorithm", algorithm)
    iterations = "0" if algorithm in ("scratch", "nearest-neighbour") else "2"
    tiny = (*tiny, "--training.iterations", iterations, "--training.eval-every", "0")
    run("digits", monkeypatch, tmp_path, *tiny)
    assert "split 0, 5-way 1-shot, 4 test tasks" in capsys.readouterr().out


def test_digits_need_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SettingsError, match=r"pip install 'metarl\[data\]'"):
        run("digits", monkeypatch, tmp_path)
    assert not (tmp_path / "digits").exists()


def test_omniglot_on_the_real_data_with_lakes_runs(official_data, tmp_path, monkeypatch, capsys):
    archive = official_data / "one_shot_runs_01-10.zip"
    data = ("--data-dir", str(official_data), "--way", "20", "--lake-runs", str(archive))
    data = (*data, "--image-size", "20", "--test-grouping", "drawers", "--shift", ".1")
    run("omniglot", monkeypatch, tmp_path, *SMALL, *data, "--test-tasks", "4", "--filters", "4")
    assert "error on Lake's runs" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["mann", "lstm", "feedforward", "mann-strings"])
def test_mann_leaves_accuracies_by_instance(algorithm, tmp_path, monkeypatch, capsys):
    tiny = ("--test-tasks", "3", "--training.meta-batch-size", "2", "--algorithm", algorithm)
    short = ("--training.iterations", "2", "--training.eval-every", "0")
    run("mann", monkeypatch, tmp_path, *SMALL, *tiny, *short)
    folder = only_run(tmp_path, "mann", algorithm)
    assert (folder / "adaptation.png").stat().st_size > 0
    (line,) = (json.loads(text) for text in (folder / "eval.jsonl").read_text().splitlines())
    assert line["metric"] == "accuracy" and len(line["mean"]) == 10
    printed = capsys.readouterr().out
    assert "3 test streams" in printed and "10" in printed


def test_streams_too_long_for_the_memory_are_told_before_training(tmp_path, monkeypatch):
    with pytest.raises(TaskError, match=r"at most 128 steps.*got 150"):
        run("mann", monkeypatch, tmp_path, "--way", "15")
    assert not (tmp_path / "mann").exists()


def test_what_does_not_fit_is_told_before_training(tmp_path, monkeypatch):
    archive = str(tmp_path / "runs.zip")
    with pytest.raises(SettingsError, match="20-way 1-shot"):
        run("omniglot", monkeypatch, tmp_path, "--lake-runs", archive)
    with pytest.raises(DataError, match=r"runs\.zip"):
        run("omniglot", monkeypatch, tmp_path, "--lake-runs", archive, "--way", "20")
    assert not (tmp_path / "omniglot").exists()


def test_a_resumed_run_says_where_it_begins(tmp_path, monkeypatch, capsys):
    small = ("--test-tasks", "4", "--training.eval-every", "0", "--training.iterations")
    run("sine", monkeypatch, tmp_path, *small, "2")
    assert "Resuming" not in capsys.readouterr().err
    for iterations, text in (
        ("4", "at meta-iteration 2 of 4."),
        ("3", "has trained for 4 meta-iterations, --training.iterations is 3: only its report"),
    ):
        run("sine", monkeypatch, tmp_path, *small, iterations, "--resume", "latest")
        assert text in capsys.readouterr().err


def test_a_killed_run_resumes_to_the_bit(tmp_path):
    arguments = [
        sys.executable, str(ROOT / "experiments" / "sine.py"), "--training.eval-every", "0",
        "--training.checkpoint-every", "20", "--training.iterations", "400", "--test-tasks", "9",
    ]  # fmt: skip
    cut = [*arguments, "--runs", str(tmp_path / "cut")]
    process = subprocess.Popen(cut, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cut").glob("sine/maml/*/checkpoints/step_0000[4-9]0")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    environment = {**os.environ, "COLUMNS": "120"}
    for command in ([*cut, "--resume", "latest"], [*arguments, "--runs", str(tmp_path / "whole")]):
        subprocess.run(command, check=True, capture_output=True, env=environment)
    ends = []
    for name in ("cut", "whole"):
        checkpoints = Checkpoints(only_run(tmp_path / name, "sine", "maml") / "checkpoints")
        ends.append(load_checkpoint(checkpoints.latest()))
    assert ends[0].iteration == ends[1].iteration == 400
    for n, p in ends[0].weights.items():
        assert torch.equal(p, ends[1].weights[n]), n
