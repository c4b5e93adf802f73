"""The container files: what they copy exists, what they run is understood, nobody is root."""

import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from metarl.lab.command_line import parse_settings
from metarl.lab.lookup import find_experiment
from metarl.runs.lock import RunLock
from tests.docker.compose import DOCKER, DOCKERFILES, ROOT, instructions, services


def allowed():
    """What .dockerignore leaves in the context."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_in_the_context(name):
    copied = [
        shlex.split(arguments) for keyword, arguments in instructions(name) if keyword == "COPY"
    ]
    sources = {s for words in copied if "--from=build" not in words for s in words[:-1]}
    assert {"metarl", "envs", "experiments", "pyproject.toml", "constraints.txt"} <= sources
    for source in sources:
        assert (ROOT / source).exists() and source in allowed(), source
    assert allowed() <= {
        s for n in DOCKERFILES for k, a in instructions(n) if k == "COPY" for s in shlex.split(a)
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_is_small_to_change_and_not_roots(name):
    keywords = [keyword for keyword, _ in instructions(name)]
    last = dict(instructions(name)[len(keywords) - keywords[::-1].index("FROM") - 1 :])
    assert keywords.count("FROM") == 2, "what builds is left behind"
    assert last["USER"] == "10001:10001" and last["VOLUME"] == "/srv/metarl/runs"
    assert json.loads(last["ENTRYPOINT"]) == ["tini", "--", "metarl"]
    order = [a for k, a in instructions(name) if k in ("COPY", "RUN")]
    places = [next(i for i, a in enumerate(order) if word in a) for word in (
        "torch", "requirements.txt", "metarl metarl", "--no-deps"
    )]  # fmt: skip
    assert places == sorted(places), "the layers that change often come last"


def test_both_images_install_the_same_and_run_as_the_same_user():
    cpu, cuda = (
        [" ".join(a.split()) for k, a in instructions(name) if k in ("COPY", "RUN")]
        for name in DOCKERFILES
    )
    installs = [step for step in cpu if "pip" in step]
    assert len(installs) == 3 and set(installs) <= set(cuda)
    users = {re.findall(r"useradd.*?--uid (\d+)", " ".join(steps))[0] for steps in (cpu, cuda)}
    assert len(users) == 1, "both write into the same volume"
    assert instructions("Dockerfile.cuda")[0][1].startswith("BASE=nvidia/cuda:")
    assert ("ARG", "EXTRAS=[warp,video]") in instructions("Dockerfile.cuda")


def test_the_requirements_are_those_of_the_package(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in ((), ("warp", "video")):
        printed = subprocess.run(
            [sys.executable, DOCKER / "requirements.py", f"[{','.join(extras)}]"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\n")  # fmt: skip
        optional = project["optional-dependencies"]
        expected = [requirement for extra in extras for requirement in optional[extra]]
        assert printed[:-1] == [*project["dependencies"], *expected]


@pytest.mark.parametrize("name", ["train", "train-gpu"])
def test_the_command_of_the_service_is_understood(name, tmp_path):
    chosen = services(EXPERIMENT="navigation2d", ALGORITHM="promp")[name]
    train, experiment, *options = chosen["command"]
    assert (train, experiment) == ("train", "navigation2d")
    options += ["--runs", str(tmp_path)]
    settings, point = parse_settings(find_experiment(experiment).configs, experiment, options)
    assert settings.algorithm == "promp" and point is None
    assert services()[name]["command"][1] == "sine"
    assert chosen["stop_grace_period"] == "2m" and chosen["volumes"] == ["runs:/srv/metarl/runs"]


def test_tensorboard_is_reached_from_this_machine_only():
    board = services(PORT="7007")["tensorboard"]
    assert board["ports"] == ["127.0.0.1:7007:6006"]
    assert board["volumes"] == ["runs:/srv/metarl/runs:ro"]
    others = [s for n, s in services().items() if n != "tensorboard"]
    assert not any("ports" in service for service in others)


def test_the_services_build_the_files_that_are_here():
    for service in services().values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
        arguments = {a.partition("=")[0] for k, a in instructions("Dockerfile") if k == "ARG"}
        assert set(build.get("args", {})) <= arguments


def test_a_run_that_trains_is_healthy(tmp_path, metarl):
    check, *options = services()["train"]["healthcheck"]["test"][2:]
    arguments = (check, *options, "--runs", tmp_path)
    assert metarl(*arguments)[0] == 1, "there is no run"
    folder = tmp_path / "sine" / "maml" / "run"
    folder.mkdir(parents=True)
    assert metarl(*arguments)[0] == 1, "no process writes"
    with RunLock(folder):
        status, printed = metarl(*arguments)
        assert status == 0 and str(folder) in printed.out.replace("\n", "")
        assert metarl(check, "--training-within", "-1", "--runs", tmp_path)[0] == 1, "it hangs"
    assert metarl(*arguments)[0] == 1
