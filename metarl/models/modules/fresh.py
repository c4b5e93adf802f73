"""Fresh parameters of a module: drawn by its own layers, from a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Params
from metarl.models.modules.skeleton import copied


def fresh_params(
    net: nn.Module,
    init: Callable[[torch.Generator], Mapping[str, Tensor]] | None,
    generator: torch.Generator,
    num_tasks: int | None,
) -> Params:
    """Draws parameters of a module; see `Adaptable.initial`.

    Args:
        net: The module.
        init: Draws those of one network; None: the module's layers reset themselves.
        generator: The only source of randomness.
        num_tasks: See `Adaptable.initial`.

    Raises:
        SettingsError: A layer cannot reset its parameters, or `init` draws others.
    """
    draw = init or _Reset(net)
    names = {n: p.shape for n, p in net.named_parameters()}
    draws = [dict(draw(generator)) for _ in range(num_tasks or 1)]
    for one in draws:
        if {n: p.shape for n, p in one.items()} != names:
            raise SettingsError(
                f"Expected `init` to return a tensor for each of {', '.join(names)} with the "
                f"shape of the module's parameter, got {', '.join(one)}."
            )
    if num_tasks is None:
        return draws[0]
    return {n: torch.stack([one[n] for one in draws]) for n in names}


class _Reset:
    """Draws parameters as `reset_parameters` of the layers does."""

    def __init__(self, net: nn.Module) -> None:
        self._net = copied(net)
        reset: set[int] = set()
        for layer in self._net.modules():
            if hasattr(layer, "reset_parameters"):
                reset |= {id(p) for p in layer.parameters()}
        missing = [n for n, p in self._net.named_parameters() if id(p) not in reset]
        if missing:
            raise SettingsError(
                f"This algorithm draws fresh parameters, and no layer with `reset_parameters` has "
                f"{', '.join(missing)}. Pass a function that draws all of them: "
                "from_module(net, init=lambda generator: {name: tensor, ...})."
            )

    def __call__(self, generator: torch.Generator) -> Params:
        """Draws the parameters of one network."""
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        devices = [generator.device.index or 0] if generator.device.type == "cuda" else []
        # reset_parameters draws from the global generator, which is restored afterwards
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(seed))
            for layer in self._net.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()  # pyright: ignore[reportCallIssue]
        params = self._net.named_parameters()
        return {n: p.detach().to(generator.device, copy=True) for n, p in params}
