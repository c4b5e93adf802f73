"""Runs as folders of JSON and safetensors with a model card: to share them and to get them.

Nothing in such a folder is executed, and no pickle is read: the state of the checkpoint, which
`torch.load` would read, becomes JSON and safetensors. docs/export.md documents the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch

from metarl.deploy.export.files import replacing_folder
from metarl.deploy.hub.card import card
from metarl.deploy.hub.state import Tensors, packed, unpacked
from metarl.errors import CheckpointError, SettingsError, short_repr
from metarl.extras import import_extra
from metarl.lab.saved_run import find_good
from metarl.ranges import user_path
from metarl.runs.checkpoints import Checkpoints, load_checkpoint
from metarl.runs.eval_file import read_curves
from metarl.runs.networks import NETWORKS
from metarl.runs.run_folder import CHECKPOINTS, EVAL_FILE, EXPERIMENT_FILE
from metarl.tasks.files import parse_json, read_json, read_regular, sha256
from metarl.training.learner_file import LEARNER_FILE

FORMAT, SCHEMA = "metarl-run", 1
INDEX, CARD = "metarl.json", "README.md"
WEIGHTS, STATE, STATE_TENSORS = "model.safetensors", "state.json", "state.safetensors"
CURVES, CONFIG, VERSIONS = "curves.json", "config.json", "versions.json"
FILES = (WEIGHTS, STATE, STATE_TENSORS, CURVES, CONFIG, VERSIONS, EXPERIMENT_FILE)
OPTIONAL = (LEARNER_FILE, NETWORKS)
"""What `metarl.load` opens a run by, where the run has it."""
LIBRARY = "library"
"""Stands for the experiment of runs of the library alone."""
HUB = "hf://"
MOST_BYTES = 1 << 36
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_NAME = re.compile(r"\w[\w.-]{,99}")
_MOST_ITERATIONS = 10**15


def push(
    run: Path, destination: str, *, licence: str = "unknown", private: bool = True
) -> list[str]:
    """Writes a run with a model card into a folder, or to the Hugging Face hub.

    Args:
        run: A run folder, whose newest valid checkpoint is taken, or a checkpoint.
        destination: A folder, new or an earlier one of `push`; or hf://OWNER/NAME.
        licence: Identifier of the weights' licence, for the card.
        private: Whether a new repository of the hub is private.

    Returns:
        The names of the files.

    Raises:
        CheckpointError: The run cannot be read, or the folder not be written.
        SettingsError: The destination is not usable, or the extra "hub" is not installed.
    """
    if not destination.startswith(HUB):
        with replacing_folder(
            user_path(destination, "destination"), INDEX, "a pushed run"
        ) as folder:
            return _write(run, folder, f"./{Path(destination).name}", licence)
    repository = _repository(destination)
    api = import_extra("huggingface_hub", "hub").HfApi()
    with TemporaryDirectory() as temporary:
        files = _write(run, Path(temporary), destination, licence)
        with _named_errors(repository):
            api.create_repo(repo_id=repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=temporary, allow_patterns=files,
                commit_message="A run of MetaRL",
            )  # fmt: skip
    return files


def pull(source: str, runs: Path = Path("runs"), revision: str | None = None) -> Path:
    """Makes a run folder from what `push` wrote; `metarl evaluate` and the others open it.

    Args:
        source: A folder, or hf://OWNER/NAME.
        runs: Where run folders are.
        revision: A branch, tag or commit of the hub's repository; None for the newest.

    Returns:
        The new run folder, runs/EXPERIMENT/ALGORITHM/NAME.

    Raises:
        CheckpointError: A file is missing, altered, of a newer version or not usable; or the run
            folder exists already.
        SettingsError: The source is not usable, or the extra "hub" is not installed.
    """
    with _fetched(source, revision) as folder:
        index = _checked_index(folder)
        target = runs / index["experiment"] / index["algorithm"] / index["name"]
        if target.exists():
            raise CheckpointError(
                f"Expected no run folder {target}, there is one already. Delete it, or name "
                "another folder with --runs."
            )
        tensors = {n: _tensors(folder / n) for n in (WEIGHTS, STATE_TENSORS)}
        state = unpacked(_content(folder / STATE, dict), tensors[STATE_TENSORS])
        if not isinstance(state, dict):
            raise CheckpointError(f"Expected a dict in {folder / STATE}, got {short_repr(state)}.")
        copied = {n: _content(folder / n, dict) for n in (CONFIG, VERSIONS, EXPERIMENT_FILE)}
        curves = _content(folder / CURVES, list)
        if index["experiment"] == LIBRARY:
            copied.pop(EXPERIMENT_FILE)
        described = [n for n in OPTIONAL if n in index["sha256"]]
        with replacing_folder(target, CONFIG, "a pulled run") as new:
            for name, content in copied.items():
                _dump(new / name, content)
            lines = "".join(f"{json.dumps(line)}\n" for line in curves)
            (new / EVAL_FILE).write_text(lines, encoding="utf-8")
            for name in described:
                (new / name).write_bytes(read_regular(folder / name, MOST_BYTES))
            Checkpoints(new / CHECKPOINTS).save(index["iteration"], tensors[WEIGHTS], state)
    return target


def _write(run: Path, folder: Path, source: str, licence: str) -> list[str]:
    """Writes a run into an empty folder; returns the names of the files."""
    point = find_good(run)
    checkpoint = load_checkpoint(point.checkpoint)
    described = [n for n in OPTIONAL if (point.folder / n).is_file()]
    is_library = LEARNER_FILE in described and not (point.folder / EXPERIMENT_FILE).exists()
    experiment = LIBRARY if is_library else _experiment_name(point.folder)
    settings = _without_paths(_json_of(point.folder, CONFIG))
    fallback = _learner_name(point.folder) if is_library else point.folder.parent.name
    algorithm = str(settings.get("algorithm", fallback))
    curves = read_curves(point.folder)
    _dump(folder / CONFIG, settings)
    _dump(folder / CURVES, curves)
    _dump(folder / VERSIONS, _json_of(point.folder, VERSIONS))
    _dump(folder / EXPERIMENT_FILE, {"format_version": 1, "experiment": experiment})
    for name in described:
        (folder / name).write_bytes(read_regular(point.folder / name, MOST_BYTES))
    weights = {n: t.cpu().contiguous() for n, t in checkpoint.weights.items()}
    _write_tensors(folder, weights, checkpoint.state)
    files = [*FILES, *described]
    index = {
        "format": FORMAT,
        "schema": SCHEMA,
        "experiment": experiment,
        "algorithm": _usable(algorithm),
        "name": _usable(point.folder.name),
        "iteration": checkpoint.iteration,
        "sha256": {name: sha256(folder / name) for name in files},
    }
    _dump(folder / INDEX, index)
    text = card(index, settings, curves, weights, source, licence)
    (folder / CARD).write_text(text, encoding="utf-8")
    return [CARD, INDEX, *files]


def _experiment_name(folder: Path) -> str:
    """Returns the name of the experiment of a run.

    Raises:
        CheckpointError: Its experiment.json has none.
    """
    name = _json_of(folder, EXPERIMENT_FILE).get("experiment")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(
            f"Expected the name of an experiment in {folder / EXPERIMENT_FILE}, got "
            f"{short_repr(name)}."
        )
    return name


def _write_tensors(folder: Path, weights: Tensors, state: Any) -> None:
    """Writes the weights and the state of a checkpoint: its structure as JSON, and its tensors."""
    tensors: Tensors = {}
    _dump(folder / STATE, packed(state, tensors))
    # safetensors' own save_file raises no OSError where the disk is full.
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights))
    (folder / STATE_TENSORS).write_bytes(safetensors.torch.save(tensors))


def _usable(name: str) -> str:
    """Returns the name of a folder as one that `pull` takes: a renamed one may have any letters."""
    kept = re.sub(r"[^\w.-]", "_", name)[:100]
    return kept if _NAME.fullmatch(kept) else f"run_{kept}"[:100]


def _learner_name(folder: Path) -> str:
    """Returns the algorithm of a run of the library alone, or the kind of its learner."""
    learner = _json_of(folder, LEARNER_FILE).get("learner")
    learner = learner if isinstance(learner, dict) else {}
    algorithm = learner.get("algorithm")
    name = algorithm.get("name") if isinstance(algorithm, dict) else learner.get("kind")
    return name if isinstance(name, str) and _NAME.fullmatch(name) else "learner"


@contextmanager
def _fetched(source: str, revision: str | None) -> Iterator[Path]:
    """Yields a folder with the files of a source; only known names are downloaded."""
    if not source.startswith(HUB):
        if revision is not None:
            raise SettingsError("`revision` belongs to repositories of the hub, hf://OWNER/NAME.")
        yield user_path(source, "source")
        return
    repository = _repository(source)
    hub = import_extra("huggingface_hub", "hub")
    with TemporaryDirectory() as temporary:
        with _named_errors(repository):
            hub.snapshot_download(
                repo_id=repository, revision=revision, local_dir=temporary,
                allow_patterns=[INDEX, *FILES, *OPTIONAL],
            )  # fmt: skip
        yield Path(temporary)


@contextmanager
def _named_errors(repository: str) -> Iterator[None]:
    """Turns any error of the hub's client, such as one of the network, into a CheckpointError."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"The Hugging Face hub did not give or take {repository}: {type(error).__name__}: "
            f"{short_repr(str(error), 300)}. Check the name and the network, and log in with "
            "`hf auth login`."
        ) from error


def _checked_index(folder: Path) -> dict[str, Any]:
    """Returns metarl.json of a folder whose files all have the SHA-256 that it names."""
    try:
        index = read_json(folder / INDEX)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected what `metarl push` wrote, {folder} has no readable {INDEX}: {error}."
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CheckpointError(f"Expected the format {FORMAT} in {folder / INDEX}.")
    schema = index.get("schema")
    if type(schema) is not int or schema > SCHEMA:
        raise CheckpointError(
            f"{folder} was written by a newer MetaRL (schema {short_repr(schema)}, this one reads "
            f"{SCHEMA}): upgrade metarl."
        )
    names = [index.get(key) for key in ("experiment", "algorithm", "name")]
    if not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
        raise CheckpointError(f"{folder / INDEX} has unusable names: {short_repr(names)}.")
    hashes, iteration = index.get("sha256"), index.get("iteration")
    is_count = type(iteration) is int and 0 <= iteration < _MOST_ITERATIONS
    if not is_count or not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / INDEX} is not complete.")
    for name in (*FILES, *(n for n in OPTIONAL if n in hashes)):
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{name} is missing in {folder}, or cannot be read: {error}."
            ) from error
        if found != hashes.get(name):
            raise CheckpointError(
                f"{folder / name} was altered or is damaged: its SHA-256 is not the one in {INDEX}."
            )
    return index


def _content(path: Path, kind: type[dict[Any, Any]] | type[list[Any]]) -> Any:
    """Returns a JSON file of a source that holds a dict, or a list of dicts."""
    try:
        found = read_json(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    is_right = isinstance(found, kind)
    if is_right and isinstance(found, list):
        is_right = all(isinstance(line, dict) for line in found)
    if not is_right:
        what = "a dict" if kind is dict else "a list of dicts"
        raise CheckpointError(f"Expected {what} in {path}, got {short_repr(found)}.")
    return found


def _tensors(path: Path) -> Tensors:
    try:
        return safetensors.torch.load(read_regular(path, MOST_BYTES))
    except Exception as error:  # the decoder raises anything for damaged bytes
        raise CheckpointError(f"{path.name} is no file of safetensors: {error}.") from error


def _json_of(folder: Path, name: str) -> dict[str, Any]:
    """Returns a JSON file of a run; empty if there is none or it holds something else."""
    path = folder / name
    try:
        found = parse_json(read_regular(path, MOST_BYTES)) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    return found if isinstance(found, dict) else {}


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings without the places of this machine's run folders."""
    own = {"runs": "runs", "resume": None}
    return {n: own.get(n, value) for n, value in settings.items()}


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _repository(destination: str) -> str:
    name = destination.removeprefix(HUB)
    if not _REPOSITORY.fullmatch(name):
        raise SettingsError(f"Expected hf://OWNER/NAME, got {destination!r}.")
    return name
