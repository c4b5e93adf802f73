"""Runs are pushed as JSON and safetensors, and pulled as run folders."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import metarl
from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.hub.sharing import FILES, INDEX, pull, push
from metarl.deploy.hub.state import packed, unpacked
from metarl.errors import CheckpointError, SettingsError
from metarl.runs.checkpoints import Checkpoints
from metarl.runs.eval_file import append_line, read_curves
from metarl.runs.networks import NETWORKS
from metarl.runs.run_folder import create_run_folder
from metarl.tasks import Sine
from metarl.training.learner_file import LEARNER_FILE
from tests.deploy.conftest import train
from tests.deploy.hub.hub_server import HubServer

STATE = {
    "learner": {"unfinished": (1, [torch.ones(2), None])},
    "optimizer": {0: {"rate": float("inf"), "step": torch.tensor(3)}, 1: "adam"},
    "generator": torch.Generator().manual_seed(0).get_state(),
    "done": True,
}


@pytest.fixture
def run(tmp_path):
    """A run folder with a checkpoint and a curve."""
    config = {"algorithm": "maml", "runs": "/home/me/runs", "learner": {"steps": 3, "loss": None}}
    folder = create_run_folder(tmp_path / "runs", "sine", "maml", 0, config, script="/home/me/s.py")
    weights = {"layers.0.weight": torch.randn(3, 2).mT, "log_std": torch.zeros(())}
    Checkpoints(folder / "checkpoints").save(7, weights, STATE)
    curve = {"mean": [2.0, 1.0], "mean_low": [1.5, 0.5], "mean_high": [2.5, 1.5]}
    append_line(folder, {"iteration": 7, "split": "test", "metric": "mse", "tasks": 4, **curve})
    return folder


def test_a_pulled_run_is_the_pushed_one(run, tmp_path):
    push(run, str(tmp_path / "shared"), licence="mit")
    push(run, str(tmp_path / "shared"), licence="mit")  # replaces an earlier one
    assert {p.suffix for p in (tmp_path / "shared").iterdir()} == {".json", ".safetensors", ".md"}
    everything = b"".join(p.read_bytes() for p in (tmp_path / "shared").iterdir())
    assert b"/home/me" not in everything and b"pytest" not in everything
    folder = pull(str(tmp_path / "shared"), tmp_path / "others")
    assert folder == tmp_path / "others" / "sine" / "maml" / run.name
    before, after = (Checkpoints(f / "checkpoints").load() for f in (run, folder))
    assert before.iteration == after.iteration == 7
    for name, value in before.weights.items():
        assert torch.equal(value, after.weights[name])
    assert str(before.state) == str(after.state)
    assert read_curves(folder) == read_curves(run)
    assert json.loads((folder / "config.json").read_text())["learner"]["steps"] == 3
    with pytest.raises(CheckpointError, match="there is one already"):
        pull(str(tmp_path / "shared"), tmp_path / "others")


@pytest.mark.parametrize("name", ["my run (2) [x]", ".hidden", "r" * 150, "läuft"])
def test_a_run_of_any_name_is_pulled(name, run, tmp_path):
    run = run.rename(run.with_name(name))
    push(run, str(tmp_path / "shared"))
    folder = pull(str(tmp_path / "shared"), tmp_path / "others")
    assert Checkpoints(folder / "checkpoints").load().iteration == 7
    assert (folder.name == name) == (name == "läuft")


def test_the_card_says_what_it_is(run, tmp_path):
    push(run, str(tmp_path / "shared"), licence="cc-by-4.0")
    card = (tmp_path / "shared" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: metarl\nlicense: cc-by-4.0\n")
    for text in (
        "# sine, maml", "7 meta-iterations", "| learner.steps | 3 |", "| 1 | 1 (0.5 to 1.5) |",
        "over 4 tasks", f"metarl evaluate runs/sine/maml/{run.name}", "Of the weights: cc-by-4.0",
    ):  # fmt: skip
        assert text in card, text
    assert "learner.loss" not in card


def test_what_was_altered_or_is_newer_is_refused(run, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    push(run, str(good))

    def edit(name, change):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        content = json.loads((bad / name).read_text())
        change(content)
        (bad / name).write_text(json.dumps(content))

    cases = [
        ("config.json", lambda c: c.update(algorithm="x:y"), "was altered"),
        (INDEX, lambda c: c.update(schema=2), "newer MetaRL"),
        (INDEX, lambda c: c.update(format="x"), "Expected the format"),
        (INDEX, lambda c: c.update(name="../../x"), "unusable names"),
        (INDEX, lambda c: c.pop("iteration"), "not complete"),
        (INDEX, lambda c: c["sha256"].pop("state.json"), "was altered"),
    ]
    for name, change, message in cases:
        edit(name, change)
        with pytest.raises(CheckpointError, match=message):
            pull(str(bad), tmp_path / "others")
    (bad / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        pull(str(bad), tmp_path / "others")
    with pytest.raises(CheckpointError, match="metarl push"):
        pull(str(tmp_path / "nowhere"), tmp_path / "others")
    with pytest.raises(CheckpointError, match="holds something else"):
        push(run, str(run))
    assert not (tmp_path / "others").exists()


def signed(folder, **changes):
    """Gives the files of a pushed run the right checksums again, and other values to its index."""
    index = json.loads((folder / INDEX).read_text()) | changes
    index["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in FILES
        if (folder / name).is_file() and not (folder / name).is_symlink()
    }
    (folder / INDEX).write_text(json.dumps(index))


DEEP = '{"list":[' * 480 + "]}" * 480
HEADER = b'{"a":{"dtype":"F32","shape":[4611686018427387904,9],"data_offsets":[0,0]}}'
SIGNED = {
    "curves of a number": ("curves.json", b"3", "a list of dicts"),
    "curves of a dict": ("curves.json", b'{"a": 1}', "a list of dicts"),
    "curves of numbers": ("curves.json", b"[1, NaN]", "a list of dicts"),
    "cut curves": ("curves.json", b"[", "Cannot read"),
    "deep curves": ("curves.json", b"[" * 100_000, "nested too deeply"),
    "curves in latin-1": ("curves.json", b'["\xff"]', "Cannot read"),
    "a cut state": ("state.json", b"{", "Cannot read"),
    "a state of a number": ("state.json", b'{"number": "1e400"}', "a dict in"),
    "a state without its tensor": ("state.json", b'{"tensor": "x"}', "cannot be read"),
    "keys that cannot be": ("state.json", b'{"dict": [[{"list": []}, 1]]}', "cannot be read"),
    "a deep state": ("state.json", DEEP.encode(), "cannot be read|nested too deeply"),
    "a number of 5000 digits": ("state.json", b"1" * 5000, "Cannot read"),
    "settings of a list": ("config.json", b"[1]", "a dict in"),
    "a giant header": ("model.safetensors", b"\xff" * 7 + b"\x3f{}", "no file of safetensors"),
    "a giant shape": (
        "model.safetensors", len(HEADER).to_bytes(8, "little") + HEADER, "no file of safetensors"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_signed_files_of_other_contents_are_refused(run, tmp_path, name):
    file, content, message = SIGNED[name]
    push(run, str(tmp_path / "bad"))
    (tmp_path / "bad" / file).write_bytes(content)
    signed(tmp_path / "bad")
    with pytest.raises(CheckpointError, match=message):
        pull(str(tmp_path / "bad"), tmp_path / "others")
    assert not list((tmp_path / "others").rglob("*.json"))


@pytest.mark.parametrize(
    "change", [{"name": "x" * 5000}, {"name": "a\0b"}, {"iteration": 10**300}, {"iteration": True}]
)
def test_an_index_of_impossible_values_is_refused(run, tmp_path, change):
    push(run, str(tmp_path / "bad"))
    signed(tmp_path / "bad", **change)
    with pytest.raises(CheckpointError, match=r"unusable names|not complete"):
        pull(str(tmp_path / "bad"), tmp_path / "others")


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "config.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(run, tmp_path, name, kind):
    push(run, str(tmp_path / "bad"))
    path = tmp_path / "bad" / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(CheckpointError, match="expected a regular file"):
        pull(str(tmp_path / "bad"), tmp_path / "others")


class Hub(types.ModuleType):
    """Stands in for the client of the Hugging Face hub: repositories are folders."""

    def __init__(self, root):
        super().__init__("huggingface_hub")
        self.root, self.calls = root, []

    def HfApi(self):  # noqa: N802
        return self

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append((repo_id, private, exist_ok))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        assert commit_message
        for name in allow_patterns:
            shutil.copyfile(Path(folder_path) / name, self.root / repo_id / name)

    def snapshot_download(self, repo_id, revision, local_dir, allow_patterns):
        self.calls.append(revision)
        stored = {path.name for path in (self.root / repo_id).iterdir()}
        for name in stored.intersection(allow_patterns):
            shutil.copyfile(self.root / repo_id / name, Path(local_dir) / name)


def test_the_hub_is_reached_by_its_client(run, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    push(run, "hf://me/sine")
    push(run, "hf://me/sine", private=False)
    assert hub.calls == [("me/sine", True, True), ("me/sine", False, True)]
    stored = {p.name for p in (hub.root / "me" / "sine").iterdir()}
    assert stored == {*FILES, INDEX, "README.md"}
    (hub.root / "me" / "sine" / "evil.py").write_text("raise SystemExit")
    folder = pull("hf://me/sine", tmp_path / "others", revision="v1")
    assert hub.calls[-1] == "v1" and not list(folder.rglob("*.py"))
    assert Checkpoints(folder / "checkpoints").load().iteration == 7
    with pytest.raises(CheckpointError, match=r"did not give or take me/none: FileNotFoundError"):
        pull("hf://me/none", tmp_path / "others")
    for name in ("hf://sine", "hf://me/../x", "hf://me/a/b"):
        with pytest.raises(SettingsError, match="hf://OWNER/NAME"):
            push(run, name)
    with pytest.raises(SettingsError, match="`revision` belongs"):
        pull(str(run), tmp_path / "others", revision="v1")


def test_the_client_has_the_arguments_that_are_used():
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    used = {
        hub.HfApi.create_repo: ("repo_id", "private", "exist_ok"),
        hub.HfApi.upload_folder: ("repo_id", "folder_path", "allow_patterns", "commit_message"),
        hub.snapshot_download: ("repo_id", "revision", "local_dir", "allow_patterns"),
    }
    for function, names in used.items():
        assert set(names) <= inspect.signature(function).parameters.keys()


@pytest.mark.slow
def test_the_client_pushes_to_a_server_and_pulls_from_it(run, tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    with HubServer() as server:
        own = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "home")}
        environment = {**os.environ, **own, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
        start = [sys.executable, "-c", "from metarl.commands import main; main()"]
        for arguments in (("push", run, "hf://me/sine"), ("pull", "hf://me/sine", "--runs", "new")):
            result = subprocess.run(
                [*start, *map(str, arguments)], env=environment, cwd=tmp_path, text=True,
                capture_output=True, timeout=100,
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
        assert server.files.keys() == {*FILES, INDEX, "README.md"}
    pulled = tmp_path / "new" / "sine" / "maml" / run.name
    assert Checkpoints(pulled / "checkpoints").load().iteration == 7


def test_without_the_client_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingsError, match=r"pip install 'metarl\[hub\]'"):
        push(run, "hf://me/sine")


def test_states_are_packed_without_loss():
    tensors = {}
    text = json.dumps(packed(STATE, tensors), allow_nan=False)
    assert str(unpacked(json.loads(text), tensors)) == str(STATE)
    with pytest.raises(CheckpointError, match="Expected tensors, numbers"):
        packed({"a": np.ones(2)}, {})
    for broken in ({"tensor": "t9"}, {"eval": "1"}, {"dict": 3}, [1], {"a": 1, "b": 2}):
        with pytest.raises(CheckpointError):
            unpacked(broken, tensors)


def test_a_run_of_the_library_is_loaded_after_a_pull(sine_run, tmp_path):
    _, folder = sine_run
    files = push(folder, str(tmp_path / "shared"))
    assert LEARNER_FILE in files
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "# library, maml" in card and "metarl.load" in card and "metarl evaluate" not in card
    pulled = pull(str(tmp_path / "shared"), tmp_path / "others")
    assert pulled == tmp_path / "others" / "library" / "maml" / folder.name
    x = np.linspace(-5, 5, 5, dtype=np.float32)[:, None]
    found = []
    for path in (folder, pulled):
        adapter = metarl.load(path)
        adapter.adapt(x, np.sin(x))
        found.append(adapter.predict(x))
    assert (found[0] == found[1]).all()
    (tmp_path / "shared" / LEARNER_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"learner\.json was altered"):
        pull(str(tmp_path / "shared"), tmp_path / "more")


def test_modules_of_the_user_are_pushed_too(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    _, folder = train(GradientLearner(MAML(net, inner_lr=0.01)), Sine(5, 5), tmp_path / "run")
    assert NETWORKS in push(folder, str(tmp_path / "shared"))
    adapter = metarl.load(pull(str(tmp_path / "shared"), tmp_path / "others"))
    adapter.adapt([0.0, 1.0], [0.0, 1.0])
    assert adapter.predict([0.5]).shape == (1, 1)
