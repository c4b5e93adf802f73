"""Parameters of a network by name: patterns, modules, and the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Params
from metarl.registry import did_you_mean


def names_of(
    network: nn.Module, parts: Sequence[str | nn.Module | nn.Parameter]
) -> tuple[str, ...]:
    """Returns patterns, modules and parameters as names and patterns of parameters.

    Args:
        network: The network.
        parts: Patterns of `fnmatch`, which must match, and modules or parameters of the network.

    Raises:
        SettingsError: A pattern matches no parameter, or a module is not one of the network's.
    """
    names: list[str] = []
    for part in parts:
        if not isinstance(part, nn.Module | nn.Parameter):
            matching_names(network, [part])
            names.append(part)
            continue
        ids = {id(p) for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())}
        found = [name for name, p in network.named_parameters() if id(p) in ids]
        if not found:
            raise SettingsError(
                f"Expected a module of the network with parameters, and none of the parameters of "
                f"this {type(part).__name__} is the network's. Take it from the network itself: "
                "frozen=[net.body]."
            )
        names += found
    return tuple(names)


def matching_names(network: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Returns the names of the parameters that match at least one pattern.

    A parameter that layers share matches by each of its names, and is returned by its first.

    Args:
        network: The network.
        patterns: Patterns of `fnmatch`: `blocks.*.norm.*`.

    Raises:
        SettingsError: A pattern matches no parameter.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    known = {name: names[id(p)] for name, p in network.named_parameters(remove_duplicate=False)}
    matches: set[str] = set()
    for pattern in patterns:
        found = {first for name, first in known.items() if fnmatchcase(name, pattern)}
        if not found:
            raise SettingsError(
                f"The pattern {pattern!r} matches no parameter."
                f"{did_you_mean(pattern, list(known))} Known: {', '.join(known)}."
            )
        matches |= found
    return frozenset(matches)


def adapted_params(network: nn.Module, frozen: Sequence[str] = ()) -> Params:
    """Returns the parameters that adapt, detached, without a task dimension; none of integers.

    Args:
        network: The network.
        frozen: Patterns of the names of those that do not adapt.
    """
    names = matching_names(network, frozen)
    return {
        n: p.detach() for n, p in network.named_parameters()
        if n not in names and (p.is_floating_point() or p.is_complex())
    }  # fmt: skip


def all_but(network: nn.Module, patterns: Sequence[str | nn.Module]) -> tuple[str, ...]:
    """Returns the names of the parameters that match none of the patterns.

    As `frozen`, they leave the inner loop those that match: `frozen=all_but(net, ["head.*"])`, or
    `frozen=all_but(net, [net.head])`.

    Raises:
        SettingsError: A pattern matches no parameter, or a module is not one of the network's.
    """
    names = matching_names(network, names_of(network, patterns))
    return tuple(name for name, _ in network.named_parameters() if name not in names)


def last_layer(network: Adaptable) -> tuple[str, ...]:
    """Returns the name pattern of the layer that holds the network's last weight.

    Raises:
        SettingsError: No parameter is called a weight.
    """
    layers = [_layer_of(name) for name, _ in network.named_parameters()]
    with_weight = [layer for layer in layers if layer is not None]
    if not with_weight:
        raise SettingsError(
            "Expected a network with a last layer that has a weight; name the part that adapts by "
            "`adapts=`."
        )
    return (with_weight[-1] + "*",)


def _layer_of(name: str) -> str | None:
    """Returns the start of the names of the layer of a weight; None for other parameters."""
    owner, parametrised, _ = name.partition("parametrizations.weight")
    if parametrised:
        return owner
    owner, dot, leaf = name.rpartition(".")
    if leaf.endswith("weight"):
        return name.removesuffix("weight")
    return owner + dot if leaf.startswith("weight") else None  # weight_ih_l0 of an LSTM
