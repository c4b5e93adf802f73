"""The structure of ordinary modules in a run folder, and such modules with a run's weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from metarl.errors import CheckpointError, SettingsError
from metarl.learners.metric.zero_shot import ZeroShotPrototypes
from metarl.learners.module_embedding import ModuleEmbedding
from metarl.models.modules import ModuleModel
from metarl.models.modules.description import Description, NotStored, describe
from metarl.models.modules.stored import REBUILD, read_modules, stored_module, write_modules
from metarl.runs.checkpoints import Checkpoints, is_checkpoint, load_checkpoint, load_weights
from metarl.runs.run_folder import CHECKPOINTS
from metarl.runs.run_search import named_run

NETWORKS = "networks.safetensors"


def save_networks(learner: nn.Module, folder: Path) -> list[str]:
    """Writes the structure of a learner's ordinary modules into a run folder.

    Networks of MetaRL are not written: the settings describe them. The weights are in the
    checkpoints; the file has the tensors that these lack.

    Returns:
        A line for each module whose structure cannot be stored.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    modules: dict[str, Description | str] = {}
    tensors: dict[str, Tensor] = {}
    notes = []
    for name, net in modules_of(learner).items():
        try:
            modules[name] = describe(net)
        except SettingsError as error:
            modules[name] = f"{type(net).__name__}: {error}"
            notes.append(
                f"{type(net).__name__}: its structure is not stored with the run, as {error}; to "
                "open the run, build it again with its class."
            )
        kept = net.state_dict(keep_vars=True)
        tensors |= {f"{name}.{n}": b for n, b in net.named_buffers() if n not in kept}
    if not modules:
        return []
    try:
        write_modules(modules, tensors, folder / NETWORKS)
    except NotStored as error:
        write_modules(dict.fromkeys(modules, str(error)), {}, folder / NETWORKS)
        notes = [f"The structure of the networks is not stored with the run: {error}."]
    return notes


def load_network(path: Path | str, name: str | None = None) -> nn.Module:
    """Returns an ordinary module of a run with its trained weights, without the module's code.

    Args:
        path: A run folder, whose newest valid checkpoint is used; or a checkpoint.
        name: The name of the module in the learner, of several: "model" of gradient learners,
            "embedding.net" of metric learners. None: the only one.

    Returns:
        The module on the CPU, as `load_module` returns it.

    Raises:
        CheckpointError: There is no such run or checkpoint, or a file is damaged.
        SettingsError: The run has no such module, or its structure is not stored; the message says
            how to open the run then.
    """
    path = named_run(Path(path).resolve())
    folder = path.parent.parent if is_checkpoint(path) else path
    checkpoint = path if is_checkpoint(path) else Checkpoints(path / CHECKPOINTS).newest_good()
    if checkpoint is None:
        raise CheckpointError(f"Expected a run folder with a valid checkpoint, {path} has none.")
    name, network = _chosen(read_networks(folder), name, folder)
    weights = load_checkpoint(checkpoint).weights
    prefix = f"{name}."
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    try:
        load_weights(network, own)
    except RuntimeError as error:
        raise CheckpointError(
            f"The checkpoint {checkpoint} has other weights than {NETWORKS} describes: {error}"
        ) from error
    return network


def read_networks(folder: Path) -> dict[str, nn.Module | str]:
    """Returns the modules of a run by name, without weights, or reasons why they are not stored.

    Raises:
        CheckpointError: The file is damaged.
        SettingsError: The run has no such file.
    """
    path = folder / NETWORKS
    if not path.exists():
        raise SettingsError(
            f"The run {folder} has no {NETWORKS}: its networks are MetaRL's own, or it is of an "
            f"earlier version. {REBUILD}."
        )
    return read_modules(path)


def modules_of(learner: nn.Module) -> dict[str, nn.Module]:
    """Returns the ordinary modules in a learner by the prefix of their weights in a checkpoint."""
    found: dict[str, nn.Module] = {}
    for name, module in learner.named_modules():
        if isinstance(module, ModuleModel):
            found[name] = module.net
        elif isinstance(module, ModuleEmbedding):
            found[f"{name}.net"] = module.net
        elif isinstance(module, ZeroShotPrototypes):
            found[f"{name}.describe".lstrip(".")] = module.describe
    return found


def _chosen(
    modules: dict[str, nn.Module | str], name: str | None, folder: Path
) -> tuple[str, nn.Module]:
    if name is None and len(modules) == 1:
        (name,) = modules
    if name is None or name not in modules:
        raise SettingsError(
            f"Expected the name of a module of the run {folder}, one of {', '.join(modules)}; got "
            f"{name!r}."
        )
    return name, stored_module(modules[name], folder / NETWORKS)
