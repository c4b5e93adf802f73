import json

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from metarl.deploy.export.files import read_metadata
from metarl.deploy.export.policies import NOTE_FILE, read_torch
from tests.commands.conftest import train


def test_the_start_and_an_adapted_policy_are_exported(trained, metarl, tmp_path):
    actions = {}
    for steps in (0, 2):
        out = tmp_path / f"policy{steps}.pt2"
        status, printed = metarl(
            "export", trained["navigation2d"], out, "--to", "torch", "--steps", steps,
            "--task", "goal=0.3,-0.2",
        )  # fmt: skip
        assert status == 0, printed.err
        assert "differ" not in printed.err and "2 numbers between -1 and 1" in printed.out
        assert "return: " in printed.out and f"Wrote {out}" in printed.out
        files = {NOTE_FILE: ""}
        torch.export.load(out, extra_files=files)
        note = json.loads(files[NOTE_FILE])
        assert note["family"] == "Navigation2D-v1" and note["steps"] == str(steps)
        assert note["task"].startswith("goal=[0.3")
        actions[steps] = read_torch(out, np.ones((4, 2), np.float32))["mean"]
    assert np.abs(actions[2] - actions[0]).max() > 1e-3


def test_the_model_for_stable_baselines_learns_on(trained, metarl, tmp_path):
    out = tmp_path / "policy.zip"
    status, printed = metarl("export", trained["navigation2d"], "--to", "sb3", out, "--steps", 1)
    assert status == 0, printed.err
    assert "value function: starts untrained" in printed.out
    env = gymnasium.make("metarl/Navigation2D-v1", task={"goal": [0.3, -0.2]})
    model = PPO.load(out, env=env, n_steps=32, batch_size=16, device="cpu")
    model.learn(32)
    assert vars(model)["metarl"]["steps"] == "1"


def test_the_file_that_stable_baselines_names_is_named(trained, metarl, tmp_path):
    status, printed = metarl("export", trained["bandit"], "--to", "sb3", tmp_path / "policy")
    assert status == 0, printed.err
    assert f"Wrote {tmp_path / 'policy.zip'};" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["policy.zip"]


def test_the_same_seed_adapts_to_the_same_task(trained, metarl, tmp_path):
    files = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{number}.pt2"
        arguments = ("--to", "torch", "--steps", 1, "--task-seed", seed)
        metarl("export", trained["bandit"], out, *arguments)
        files.append(read_torch(out, np.ones((1, 1), np.float32))["log_probs"])
    assert (files[0] == files[1]).all() and (files[0] != files[2]).any()


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("sine", (), "takes policies only"),
        ("sine", ("--horizon", 3), "belongs to `--with adaptation`"),
        ("bandit", ("--with", "adaptation"), "cannot adapt"),
        ("bandit", ("--steps", -1), "steps >= 0"),
        ("navigation2d", ("--task", "gaol=1,2"), "Did you mean 'goal'"),
        ("navigation2d", ("--task", "goal=left"), "name=number"),
    ],
)
def test_what_cannot_be_exported_is_told(run, arguments, message, trained, metarl, tmp_path):
    status, printed = metarl("export", trained[run], tmp_path / "p.zip", "--to", "sb3", *arguments)
    assert status == 1 and message in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "p.zip").exists()


def test_a_supervised_network_is_exported(trained, metarl, tmp_path):
    out = tmp_path / "net.pt2"
    status, printed = metarl("export", trained["sine"], out, "--to", "torch", "--steps", 2)
    assert status == 0, printed.err
    assert f"Wrote {out}" in printed.out
    outputs = torch.export.load(out).module()(torch.ones(3, 1))[0]
    assert outputs.shape == (3, 1) and outputs.isfinite().all()
    status, printed = metarl("export", trained["sine"], out, "--to", "torch", "--task", "a=1")
    assert status == 1 and "belongs to control tasks" in printed.err


def test_an_adaptation_is_exported(trained, metarl, tmp_path):
    out = tmp_path / "folder"
    arguments = (out, "--to", "torch", "--with", "adaptation")
    status, printed = metarl("export", trained["navigation2d"], *arguments, "--horizon", 7)
    assert status == 0, printed.err
    metadata = read_metadata(out)
    assert metadata["environment"]["name"] == "Navigation2D-v1"
    ports = {port["name"]: port["shape"] for port in metadata["graphs"]["step"]["inputs"]}
    assert ports["observations"] == ["episodes", 8, 2] and ports["lengths"] == ["episodes"]
    assert metadata["source"]["checkpoint"].endswith("step_000002")
    status, printed = metarl("export", trained["sine"], *arguments, "--steps", 1)
    assert status == 1 and "leave out `test_steps`" in printed.err
    status, printed = metarl("export", trained["sine"], *arguments, "--horizon", 3)
    assert status == 1 and "have no episodes" in printed.err
    assert read_metadata(out) == metadata


@pytest.mark.slow
def test_a_metric_learner_is_exported_with_and_without_its_adaptation(metarl, tmp_path):
    run = train("omniglot", tmp_path, "--algorithm", "prototypical", "--filters", "4")
    status, printed = metarl(
        "export", run, tmp_path / "out", "--to", "torch", "--with", "adaptation"
    )
    assert status == 0, printed.err
    metadata = read_metadata(tmp_path / "out")
    assert metadata["kind"] == "support" and metadata["support"]["classes"] is None
    status, printed = metarl("export", run, tmp_path / "net.pt2", "--to", "torch")
    assert status == 0, printed.err
    scores = torch.export.load(tmp_path / "net.pt2").module()(torch.rand(3, 1, 28, 28))[0]
    assert scores.shape == (3, 5) and scores.isfinite().all()
