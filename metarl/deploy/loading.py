"""`metarl.load`: opens a run to use it on the user's task."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from metarl.adaptation.inner_loop import check_inference_mode
from metarl.adaptation.learner import Learner
from metarl.deploy.adapter import Adapter, Origin
from metarl.deploy.adapters.learner_building import build_learner
from metarl.deploy.export.files import is_export
from metarl.devices import check_default_device
from metarl.errors import CheckpointError, MetarlError, SettingsError
from metarl.lab.saved_run import find_good, reopened
from metarl.ranges import POSITIVE, SEED, check_int, check_number
from metarl.registry import check_choice
from metarl.runs.checkpoints import Checkpoint, load_checkpoint, load_weights
from metarl.runs.networks import NETWORKS, read_networks
from metarl.runs.run_search import run_path
from metarl.training.learner_file import read_learner_file, refusal

RATE_TOLERANCE = 0.01


def load(
    run: Path | str,
    *,
    network: nn.Module | None = None,
    learner: Learner | None = None,
    adapted: Path | str | None = None,
    rate: float | None = None,
    seed: int = 0,
    runs: Path | str = "runs",
    trust: bool = False,
    **options: Any,
) -> Adapter:
    """Opens a run to adapt its learner to a new task.

    The script that made the run is not needed and not executed. The run's learner.json has the
    learner, statistics, spaces and rate; its newest valid checkpoint has the weights.

    Args:
        run: A run folder; a checkpoint; "RUN/best", the checkpoint of the best value on validation
            tasks; "latest" for the newest run below `runs`; or the folder of an exported adaptation
            (`metarl export RUN FOLDER --to onnx --with adaptation`), which takes `seed` and
            `explore` only; see `ExportedAdapter`.
        network: Your own module, built as in training, if the run could not store its structure;
            its weights are loaded.
        learner: The whole learner, if the run could not store other parts of it.
        adapted: Adapted weights that `Adapter.save` wrote.
        rate: Control steps per second of your robot; refused if the run was trained at another.
        seed: Seed of sampled actions and of what is random in adaptations.
        runs: Folder of the run folders, for "latest".
        trust: For runs without learner.json: whether code that their settings name is imported.
        **options: Further arguments of `ControlAdapter`: `explore`, `safety`, `rollback`; of
            `SupervisedAdapter`: `standardise`.

    Raises:
        CheckpointError: There is no such run, it is damaged, was altered or is of a newer version.
        SettingsError: `network` or `learner` is missing, the rate is another one, or torch's
            default device is not the CPU.
    """
    check_inference_mode()
    check_default_device()
    path = run_path(run, runs)
    if is_export(path):
        return _opened_export(path, network or learner or adapted or rate, seed, options)
    if path.is_file():
        raise CheckpointError(
            f"Expected a run folder or a checkpoint, which is a folder too, got the file {path}. "
            "Exported files run without MetaRL: see docs/other_libraries.md."
        )
    point = find_good(path)
    checkpoint = load_checkpoint(point.checkpoint)
    content = read_learner_file(point.folder)
    if learner is None and content is None:
        learner = _reopened(point.checkpoint, trust)
    elif learner is None:
        assert content is not None
        stored = (point.folder / NETWORKS).exists()
        modules = read_networks(point.folder) if stored else {}
        learner = build_learner(content["learner"], network, modules)
        _take_types(learner, checkpoint)
    _load_weights(learner, checkpoint)
    ranges = {} if content is None else content["data"]
    origin = Origin(str(checkpoint.path), checkpoint.iteration, ranges)
    adapter = adapter_of(learner, origin, seed=seed, **options)
    _check_rate(adapter, rate)
    if adapted is not None:
        adapter.restore(adapted)
    return adapter


def _opened_export(path: Path, other: Any, seed: int, options: dict[str, Any]) -> Adapter:
    from metarl.deploy.exported.exported_adapter import ExportedAdapter

    unknown = sorted(options.keys() - {"explore"})
    if other is not None or unknown:
        raise SettingsError(
            f"An exported adaptation takes `seed` and `explore`, got also "
            f"{', '.join(unknown) or 'network, learner, adapted or rate'}; open its run for these."
        )
    return ExportedAdapter(path, seed=seed, **options)


def adapter_of(
    learner: Learner, origin: Origin | None = None, *, seed: int = 0, **options: Any
) -> Adapter:
    """Returns the adapter of a learner, such as one that was trained in this process.

    Args:
        learner: The learner.
        origin: Where it comes from; None: this process.
        seed: See `load`.
        **options: See `load`.

    Raises:
        SettingsError: There is no adapter for such learners, or an option does not suit it.
    """
    origin = origin or Origin("", 0, {})
    seed = check_int("seed", seed, SEED)
    learner = learner.cpu()
    if not hasattr(learner, "adaptation"):  # networks that adapt run in the modes of training
        learner = learner.eval()
    build: Any
    if hasattr(learner, "predict"):
        from metarl.deploy.adapters.supervised_adapter import SupervisedAdapter as build  # noqa: N813
    elif hasattr(learner, "policy"):
        from metarl.deploy.adapters.control_adapter import ControlAdapter as build  # noqa: N813
    else:
        raise SettingsError(
            f"Expected a learner that adapts to data or in an environment, got a "
            f"{type(learner).__name__}. {refusal(learner) or ''}".rstrip()
        )
    known = set(inspect.signature(build).parameters) - {"learner", "origin", "seed"}
    for name in options:
        check_choice(f"option of a {build.__name__}", name, sorted(known))
    return build(learner, origin, seed=seed, **options)


def _reopened(checkpoint: Path, trust: bool) -> Learner:
    """Returns the learner of a run without learner.json, of an installed experiment."""
    try:
        with reopened(checkpoint, trust=trust, training__device="cpu") as (components, _, _):
            return components.learner
    except MetarlError as error:
        error.add_note(
            "The run has no learner.json, as MetaRL writes since 0.2: build its learner as in "
            "training and hand it in, metarl.load(run, learner=learner)."
        )
        raise


def _take_types(learner: Learner, checkpoint: Checkpoint) -> None:
    """Gives parameters and buffers the float types of training, not torch's present default."""
    for tensors in (learner.named_parameters(), learner.named_buffers()):
        for name, tensor in tensors:
            stored = checkpoint.weights.get(name)
            if stored is not None and stored.is_floating_point() and tensor.is_floating_point():
                tensor.data = tensor.data.to(stored.dtype)


def _load_weights(learner: Learner, checkpoint: Checkpoint) -> None:
    try:
        load_weights(learner, checkpoint.weights)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"The weights of {checkpoint.path} are not those of this learner; its network or its "
            f"algorithm is another one. ({error})"
        ) from error


def _check_rate(adapter: Adapter, rate: float | None) -> None:
    """Raises SettingsError if a robot runs at another rate than the run was trained at."""
    if rate is None:
        return
    check_number("rate", rate, POSITIVE)
    trained = getattr(adapter, "rate", None)
    if trained is None:
        raise SettingsError(
            f"Expected a run that knows its rate, to compare {rate:g} steps per second with: its "
            "family has no `step_seconds`. Leave `rate` out."
        )
    if abs(rate - trained) > RATE_TOLERANCE * trained:
        raise SettingsError(
            f"Expected {trained:g} control steps per second, as in training, got rate={rate:g}. "
            f"Call `act` {trained:g} times per second, or train at {rate:g}."
        )
