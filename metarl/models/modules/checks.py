"""What a module must fulfil to run for many tasks: clear errors before training."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._pytree import tree_flatten

from metarl.errors import SettingsError, ShapeError
from metarl.models.modules.skeleton import DEEPEST, MOST, OF_MODULES


def check_module(net: nn.Module) -> None:
    """Checks the parameters and the signature of a module.

    Raises:
        SettingsError: It has lazy or meta parameters, or sparse gradients, or forward does not
            take one argument.
    """
    _check_is_network(net)
    _check_layers(net)
    _check_unwrapped(net)
    _check_values(net)
    _check_signature(net)
    _warn_of_unregistered(net)


def _check_is_network(net: object) -> None:
    if not isinstance(net, nn.Module):
        raise SettingsError(
            f"Expected a torch.nn.Module as network, got {type(net).__name__}; pass an instance."
        )
    if hasattr(net, "after_update"):
        raise SettingsError(
            f"Expected a network, got a {type(net).__name__}, which is a learner already: give "
            "algorithms the network itself, and the learner to `OuterLoop`."
        )


def _check_layers(net: nn.Module) -> None:
    """Raises SettingsError for scripted layers and for embeddings with sparse gradients."""
    for name, layer in net.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            where = f"{name} is" if name else "got"
            raise SettingsError(
                f"Expected an ordinary torch.nn.Module, and {where} a scripted or traced one, "
                "whose parameters cannot be replaced. Pass the module that it was made from."
            )
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.sparse:
            raise SettingsError(
                f"Expected embeddings with dense gradients, and {name or 'the module'} has sparse "
                "ones, which an inner step cannot use. Build it without `sparse=True`."
            )


def _check_unwrapped(net: nn.Module) -> None:
    """Raises SettingsError for what `torch.compile` and data parallelism make of a module."""
    if hasattr(net, "_orig_mod"):
        raise SettingsError(
            "Expected the network itself, got one that `torch.compile` has wrapped. Pass "
            "`net._orig_mod`; `compile` of the training settings compiles the meta-gradient."
        )
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise SettingsError(
            f"Expected the network itself, got it in a {type(net).__name__}. Pass `net.module`: "
            "MetaRL computes the tasks of all processes (torchrun) without it."
        )


def _check_values(net: nn.Module) -> None:
    """Raises SettingsError for parameters and buffers without values, or of inference mode."""
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise SettingsError(
                f"Expected a module with values for all its parameters, and the shape of {name} is "
                "not known yet. Call the module once on a batch of your inputs: net(inputs)."
            )
        if tensor.is_meta:
            raise SettingsError(
                f"Expected a module with values for all its parameters, and {name} is on the "
                'device "meta". Call net.to_empty(device="cpu") and initialise or load its weights.'
            )
        if tensor.is_inference():
            raise SettingsError(
                f"Expected a module that was built outside of `torch.inference_mode()`, and {name} "
                "was made inside of it: it can have no gradient."
            )


def _warn_of_unregistered(net: nn.Module) -> None:
    """Warns of tensors to train that a module holds where torch does not find them."""
    known = {id(p) for p in net.parameters()}
    found = [
        f"{path}.{name}" if path else name
        for path, layer in net.named_modules()
        for name, value in vars(layer).items()
        if name not in (*OF_MODULES, "_flat_weights")  # of recurrent layers: copies of their own
        and any(id(t) not in known for t in _trained_in(value))
    ]
    if found:
        warnings.warn(
            f"{type(net).__name__} has weights in {', '.join(found[:3])} that are not among its "
            "parameters: neither loop changes them, and no checkpoint holds them. Put layers into "
            "nn.ModuleList or nn.ModuleDict, and tensors into nn.Parameter or nn.ParameterList; "
            "of weights that shall stay, call requires_grad_(False).",
            RuntimeWarning,
            stacklevel=2,
        )


def _trained_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yields the tensors with gradients in a value of an attribute, also in lists and dicts."""
    if isinstance(value, nn.Module):
        yield from (p for p in value.parameters() if p.requires_grad)
    elif isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
        yield value
    elif isinstance(value, list | tuple | dict) and depth < DEEPEST and len(value) <= MOST:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _trained_in(part, depth + 1)


def check_instance_norms(net: nn.Module) -> None:
    """Checks that no instance normalisation would update running statistics.

    Raises:
        SettingsError: One is in training mode and has some.
    """
    for name, layer in net.named_modules():
        is_one = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
        if is_one and layer.training and layer.track_running_stats:
            raise SettingsError(
                f"Expected instance normalisations that normalise each example by itself, and "
                f"{name or 'the module'} updates running statistics, which would be those of all "
                "tasks. Build it with `track_running_stats=False`, or call .eval() of it to "
                "normalise by the statistics that it has."
            )


def takes_mask(net: nn.Module) -> bool:
    """Returns whether the module's forward has a parameter `mask`."""
    parameters = inspect.signature(net.forward).parameters
    return "mask" in parameters


def _check_signature(net: nn.Module) -> None:
    try:
        signature = inspect.signature(net.forward)
        signature.bind(None, **({"mask": None} if takes_mask(net) else {}))
    except TypeError as error:
        raise SettingsError(
            f"Expected a module with forward(inputs), whose other parameters but `mask` have "
            f"defaults; {type(net).__name__}.forward does not run with one argument ({error}). "
            "Give several inputs as one tensor, and split it there, such as inputs.split((2, 3), "
            "dim=-1)."
        ) from error


def check_rows(outputs: Any, inputs: Tensor, name: str) -> None:
    """Checks the sizes of what a module returned for inputs [T, N, *input].

    Raises:
        ShapeError: A tensor is not [T, N, *].
    """
    tasks, count = inputs.shape[:2]
    if not isinstance(count, int):  # a symbol while a graph for any size is captured
        return
    for leaf in tree_flatten(outputs)[0]:
        if leaf.shape[:2] != (tasks, count):
            raise ShapeError(
                f"Expected {name} to return tensors [N, *] for a batch of N = {count} examples, "
                f"got {tuple(leaf.shape[1:])}; if it calls `squeeze()`, name the dimension, such "
                "as squeeze(-1): without one, it also removes that of a single example."
            )


def check_outputs(outputs: Any, count: int, name: str) -> None:
    """Checks what a module returns for a batch of N examples.

    Raises:
        ShapeError: It is no tensor, nor a tuple or dict of tensors, [N, *] each.
    """
    leaves, _ = tree_flatten(outputs)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        kinds = sorted({type(leaf).__name__ for leaf in leaves if leaf is not outputs} - {"Tensor"})
        raise ShapeError(
            f"Expected {name} to return a tensor, or a tuple or dict of tensors, got "
            f"{type(outputs).__name__}{' of ' + ', '.join(kinds) if kinds else ''}. Leave out of "
            "the outputs what is no tensor, and return classes of your own as a dict: "
            "{'logits': logits}."
        )
    for leaf in leaves:
        if leaf.dim() == 0 or leaf.shape[0] != count:
            raise ShapeError(
                f"Expected {name} to return tensors [N, *] for a batch of N = {count} examples, "
                f"got {tuple(leaf.shape)}; give its outputs one row per example, such as by a "
                "layer with `batch_first=True`."
            )
