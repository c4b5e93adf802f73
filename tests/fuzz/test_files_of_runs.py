"""Damaged files of runs, opened by the functions that read them and by the commands."""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st

from metarl.commands import main
from metarl.errors import MetarlError
from metarl.lab.command_line import saved_settings
from metarl.lab.lookup import script_experiment
from metarl.lab.saved_run import find_good, load_experiment
from metarl.runs.checkpoints import load_checkpoint, saving_time
from metarl.runs.eval_file import append_line, cut_after, drop_lines, read_curves
from metarl.runs.run_folder import to_json
from metarl.runs.run_search import find_run, newest_run
from tests.commands.conftest import EXPERIMENTS
from tests.fuzz.outcomes import RefusedError, check_clear, explore
from tests.fuzz.values import JSON, NESTED, TEXTS, damaged, dumped, edited

pytestmark = pytest.mark.filterwarnings("ignore:The newest checkpoint")

FIRST, NEWEST = "checkpoints/step_000001", "checkpoints/step_000002"
JSON_FILES = ["config.json", "experiment.json", f"{NEWEST}/meta.json"]
FILES = [*JSON_FILES, "eval.jsonl", f"{NEWEST}/state.pt", f"{NEWEST}/weights.safetensors"]
OTHERS = {
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/stdin"),
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "gone": lambda path: path.symlink_to("gone"),
    "loop": lambda path: path.symlink_to(path.name),
    "sparse": lambda path: os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 1 << 40),
}


def change_tensor(draw, tensor):
    """Returns a tensor of another type or shape, or with a number that is not finite."""
    kind = draw(st.sampled_from(["type", "shape", "value", "dim", "none"]))
    if kind == "type":
        return tensor.to(
            draw(st.sampled_from([torch.float64, torch.int64, torch.uint8, torch.bool]))
        )
    if kind == "shape":
        return tensor.flatten()[: draw(st.integers(0, 3))]
    if kind == "dim":
        return tensor.unsqueeze(0)
    if kind == "value" and tensor.is_floating_point() and tensor.numel():
        changed = tensor.clone()
        changed.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), 1e30, 0.5]))
        return changed
    return tensor


def places(value):
    """Yields every container in nested dicts and lists with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from places(value[key])


def forged(draw, run):
    """Returns the files of a checkpoint with other weights or another state, and the checksums."""
    folder = run / NEWEST
    data = {n: (folder / n).read_bytes() for n in ("weights.safetensors", "state.pt")}
    if draw(st.booleans()):
        weights = safetensors.torch.load(data["weights.safetensors"])
        name = draw(st.sampled_from(sorted(weights)))
        kind = draw(st.sampled_from(["change", "change", "remove", "add"]))
        if kind == "change":
            weights[name] = change_tensor(draw, weights[name]).contiguous()
        elif kind == "remove":
            del weights[name]
        else:
            weights[draw(TEXTS)] = torch.ones(2)
        data["weights.safetensors"] = safetensors.torch.save(weights)
    else:
        content = {"": torch.load(io.BytesIO(data["state.pt"]), weights_only=True)}
        holder, key = draw(st.sampled_from(list(places(content))))
        value = holder[key]
        if isinstance(value, torch.Tensor) and draw(st.booleans()):
            holder[key] = change_tensor(draw, value)
        elif isinstance(holder, dict) and holder is not content and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(
                st.one_of(JSON, st.just(torch.zeros(3)), st.just({"x": torch.ones(1)}))
            )
        buffer = io.BytesIO()
        torch.save(content[""], buffer)
        data["state.pt"] = buffer.getvalue()
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"] = {n: hashlib.sha256(d).hexdigest() for n, d in data.items()}
    return {f"{NEWEST}/meta.json": dumped(meta)} | {f"{NEWEST}/{n}": d for n, d in data.items()}


@st.composite
def changed_files(draw, runs, names=("bandit", "sine")):
    """A run's name, and new contents of some of its files: bytes, or a kind of OTHERS."""
    name = draw(st.sampled_from(names))
    run, kind = (
        runs[name],
        draw(st.sampled_from(["json", "json", "lines", "bytes", "other", "forge"])),
    )
    if kind == "json":
        file = draw(st.sampled_from(JSON_FILES))
        content = json.loads((run / file).read_text())
        data = draw(
            st.one_of(
                edited(content).map(dumped), edited(content).map(dumped), NESTED.map(str.encode)
            )
        )
        return name, {file: data}
    if kind == "lines":
        lines = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
        changed = [*draw(st.lists(st.sampled_from(lines), max_size=3)), draw(edited(lines[0]))]
        return name, {"eval.jsonl": b"\n".join(map(dumped, draw(st.permutations(changed)))) + b"\n"}
    if kind == "forge":
        return name, forged(draw, run)
    file = draw(st.sampled_from(FILES))
    if kind == "bytes":
        return name, {file: draw(damaged((run / file).read_bytes()))}
    return name, {file: draw(st.sampled_from(sorted(OTHERS)))}


def copy_with(run, files, folder):
    """Returns a copy of a run in which files are replaced."""
    copy = Path(shutil.copytree(run, folder))
    for name, content in files.items():
        path = copy / name
        path.unlink()
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            OTHERS[content](path)
    return copy


def check_read(run, good):
    """Reads all of a changed run's files; what is not refused must be right.

    Args:
        run: The changed run.
        good: The run as it was.

    Raises:
        MetarlError: The first error of a reading.
    """
    experiment = script_experiment(EXPERIMENTS / f"{good.parents[1].name}.py")
    errors = []
    for read in (
        lambda: check_settings_of(run, experiment),
        lambda: check_lines(run),
        lambda: check_checkpoint(run, good),
        lambda: check_same(load_experiment(run).name, experiment.name),
        lambda: check_good(run),
        lambda: check_same(newest_run(run.parents[2]), run),
        lambda: check_same(find_run(run.parents[2], *run.parts[-3:-1]).folder, run),
        lambda: saving_time(run / NEWEST),
    ):
        try:
            read()
        except MetarlError as error:
            check_clear(str(error))
            errors.append(error)
    if errors:
        raise errors[0]


def check_same(found, expected):
    assert found == expected, (found, expected)


def check_settings_of(run, experiment):
    settings = saved_settings(experiment.configs, run)
    content = json.loads((run / "config.json").read_bytes().decode("utf-8-sig"))
    check_contains(to_json(settings), content)


def check_contains(settings, content):
    """Checks that settings are those of a config.json, which may lack some."""
    for name, value in content.items():
        if isinstance(value, dict):
            check_contains(settings[name], value)
        else:
            assert settings[name] == value, (name, settings[name], value)


def check_lines(run):
    lines = read_curves(run)
    path = run / "eval.jsonl"
    data = path.read_bytes() if path.exists() else b""
    texts = data.decode("utf-8-sig", "replace").split("\n")
    assert len(lines) == data.count(b"\n") or not data.endswith(b"\n")
    assert lines == [json.loads(t) for t in texts[: len(lines)]]
    assert all(isinstance(line["iteration"], int) for line in lines)
    kept = cut_after(run, 1)
    assert kept == len(read_curves(run)) == sum(line["iteration"] <= 1 for line in lines)
    drop_lines(run, {"iteration": 1})
    assert not any(line["iteration"] == 1 for line in read_curves(run))
    append_line(run, {"iteration": 7})
    assert read_curves(run)[-1] == {"iteration": 7}


def check_checkpoint(run, good):
    loaded = load_checkpoint(run / NEWEST)
    assert loaded.iteration == 2 and isinstance(loaded.state, dict)
    data = (run / NEWEST / "weights.safetensors").read_bytes()
    meta = json.loads((run / NEWEST / "meta.json").read_text())
    assert hashlib.sha256(data).hexdigest() == meta["sha256"]["weights.safetensors"]
    if data == (good / NEWEST / "weights.safetensors").read_bytes():
        before = load_checkpoint(good / NEWEST)
        assert all(torch.equal(w, before.weights[n]) for n, w in loaded.weights.items())


def check_good(run):
    point = find_good(run)
    weights = load_checkpoint(point.checkpoint).weights
    assert all(bool(w.isfinite().all()) for w in weights.values())


@pytest.mark.parametrize("inputs", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_files_of_random_contents_are_read(inputs, outcomes, runs, tmp_path):
    def check(case):
        name, files = case
        root = tmp_path / "runs"
        run = copy_with(runs[name], files, root / name / "maml" / "run")
        try:
            with outcomes.one():
                check_read(run, runs[name])
        finally:
            shutil.rmtree(root)

    explore(changed_files(runs), inputs, check)


@pytest.fixture
def metarl(capsys, monkeypatch):
    """Runs a command in this process; returns what it printed, or raises RefusedError."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["metarl", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            printed = capsys.readouterr()
            assert end.code in (1, 2) and "Traceback" not in printed.err, printed.err
            raise RefusedError(printed.err) from end
        return capsys.readouterr().out

    return run


COMMANDS = {
    "evaluate": ("evaluate", "RUN"),
    "evaluate latest": ("evaluate", "latest", "--runs", "ROOT"),
    "play": ("play", "RUN"),
    "export": ("export", "RUN", "OUT", "--to", "torch"),
    "resume": ("train", "EXPERIMENT", "--resume", "RUN", "--training.iterations", "2"),
}


def is_small(files):
    """Returns whether a changed config.json describes a run that takes seconds."""
    config = files.get("config.json", b"")
    return (
        not isinstance(config, bytes) or max(map(len, re.findall(rb"\d+", config)), default=0) < 3
    )


@pytest.mark.parametrize("inputs", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_commands_on_runs_of_random_contents(inputs, outcomes, runs, metarl, tmp_path):
    tables = {}
    for name, run in runs.items():
        for checkpoint in (FIRST, NEWEST):
            tables[name, checkpoint] = metarl("evaluate", run / checkpoint).split("Checkpoint:")[0]

    def check(case):
        (name, files), command = case
        root = tmp_path / "runs"
        run = copy_with(runs[name], files, root / name / "maml" / "run")
        words = {"RUN": run, "ROOT": root, "OUT": tmp_path / "out", "EXPERIMENT": name}
        try:
            with outcomes.one():
                printed = metarl(*(words.get(word, word) for word in COMMANDS[command]))
                if (
                    "evaluate" in command
                    and not {"config.json", f"{NEWEST}/meta.json"} & files.keys()
                ):
                    table, checkpoint = printed.split("Checkpoint:")
                    assert table == tables[name, "/".join(Path(checkpoint.strip()).parts[-2:])]
                # A forged checkpoint with right checksums is that of another run.
                others = {"config.json", "eval.jsonl", f"{NEWEST}/meta.json"}
                if command == "resume" and not others & files.keys():
                    assert read_curves(run) == read_curves(runs[name])
        finally:
            shutil.rmtree(root)

    files = changed_files(runs).filter(lambda case: is_small(case[1]))
    explore(st.tuples(files, st.sampled_from(sorted(COMMANDS))), inputs, check)
