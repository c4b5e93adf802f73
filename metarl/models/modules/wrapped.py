"""An ordinary `nn.Module` as a `Model`: it runs with the parameters of many tasks at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from metarl.devices import check_generator
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Fitting, Model, Params, Statistics
from metarl.models.modules.checks import check_module, check_rows, takes_mask
from metarl.models.modules.choice import Choice, Way, choose
from metarl.models.modules.fresh import fresh_params
from metarl.models.modules.noise import pass_seeds
from metarl.models.modules.passes import Pass
from metarl.models.modules.skeleton import attribute_values, buffers_of, parameters_of
from metarl.registry import check_choice

Init = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Draws the parameters of one network: name -> tensor, for every name of `named_parameters()`."""

TREE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def from_module(
    net: nn.Module,
    *,
    init: Init | None = None,
    check_derivatives: bool = True,
    way: Way | None = None,
) -> ModuleModel:
    """Makes a `Model` of an ordinary module; gradient algorithms do so by themselves.

    The model shares parameters and buffers with the module and names them alike. The module runs in
    the mode that it is in: `net.eval()` normalises by running statistics and leaves dropout out.

    Args:
        net: Maps a batch [N, *input] to a tensor [N, *], or to a tuple or dict of such.
        init: Draws fresh parameters for algorithms that need them (`Scratch`, `LearnedOptimizer`
            with `fresh_start`). None: as `reset_parameters` of its layers does.
        check_derivatives: Compares a second derivative with finite differences, once per structure
            of the module, where a part of it runs by `vmap` or task by task.
        way: "task-batched", "vmap" or "task by task"; the next one if the module does not run so.
            None: the fastest way that is right.

    Raises:
        SettingsError: The module has parameters without values, or its forward does not take one
            batch of inputs.
    """
    return ModuleModel(net, init, check_derivatives, way)


def as_adaptable(network: nn.Module) -> Adaptable:
    """Returns a network of MetaRL as it is, and a model of any other module."""
    return network if isinstance(network, Adaptable) else from_module(network)


class ModuleModel(Model):
    """A module that runs with the parameters of T tasks at once; `from_module` makes it.

    Args:
        net: See `from_module`.
        init: See `from_module`.
        check_derivatives: See `from_module`.
        way: See `from_module`.
    """

    net: nn.Module
    init: Init | None
    check_derivatives: bool
    way: Way | None
    _choices: dict[Any, Choice]
    _checked: set[Any]
    _values: list[Any]
    _lock: threading.RLock  # pyright: ignore[reportInvalidTypeForm]

    def __init__(
        self,
        net: nn.Module,
        init: Init | None = None,
        check_derivatives: bool = True,
        way: Way | None = None,
    ) -> None:
        super().__init__()
        check_module(net)
        # Not a child, so that names have no prefix.
        object.__setattr__(self, "net", net)
        for name in TREE:
            object.__setattr__(self, name, getattr(net, name))
        self.training = net.training
        if way is not None:
            check_choice("way", way, get_args(Way))
        # Not by `setattr`, which would replace a parameter or layer of this name.
        options = {"init": init, "check_derivatives": check_derivatives, "way": way}
        for name, value in options.items():
            object.__setattr__(self, name, value)
        self._forget()

    @property
    def normalises_batches(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the output for an example depends on the others; True before the first pass."""
        choice = self._newest()
        return True if choice is None else choice.mixes_examples

    def forward(
        self,
        params: Params,
        inputs: Tensor,
        statistics: Statistics | None = None,
        *,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        """Runs the module of each task on the inputs of that task.

        Args:
            params: A parameter [T, *shape] for every name of `named_parameters()`.
            inputs: Shape [T, N, *input].
            statistics: See `Model.forward`.
            mask: Shape [T, N, L], bool: passed on as the keyword argument `mask` of the module.
            noise: Seeds of dropout's masks, [T] int64, from `draw_noise`; None: no dropout.

        Returns:
            What the module returns: a tensor, or a tuple or dict of tensors, [T, N, *] each.

        Raises:
            SettingsError: The module does not run for several tasks; the message has the reason.
            ShapeError: It returns something else, or inputs and parameters do not match.
        """
        choice = self._choice(inputs, mask)
        recorded = statistics.values if statistics and not statistics.recording else None
        buffers = buffers_of(self.net)
        here = Pass(noise, recorded, owners=_owners(buffers))
        with Fitting(params, inputs):
            outputs = choice.route(self._with_aliases(params), buffers, inputs, mask, here)
        check_rows(outputs, inputs, type(self.net).__name__)
        if statistics is not None and statistics.recording:
            for layer, moments in here.moments_by_layer().items():
                statistics.record(layer, *moments)
        return outputs

    def prepare(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Chooses how to run the module for inputs [T, N, *input], and checks it.

        It chooses again if numbers or tensors that are attributes of the module have changed.
        """
        values = attribute_values(self.net)
        if values != self._values:
            self._choices.clear()
            object.__setattr__(self, "_values", values)
        self._choice(inputs, mask)

    def activation_size(self, inputs: Tensor) -> int | None:
        del inputs
        choice = self._newest()
        return None if choice is None else choice.activation

    def draw_noise(self, generator: torch.Generator, num_tasks: int) -> Tensor | None:
        """Draws the seeds of dropout, [T] int64; None if no dropout is in training mode.

        `prepare` has seen whether `forward` calls functions such as `F.dropout`.
        """
        structure = self._structure()
        called = any(c.drops for key, c in self._choices.items() if key[0] == structure)
        if not called and not any(_drops(m) for m in self.modules()):
            return None
        check_generator(generator)
        high = 2**62
        shape = (num_tasks,)
        return torch.randint(high, shape, generator=generator, device=generator.device)

    def noise_of_pass(self, noise: Tensor, number: int) -> Tensor:
        """Returns the seeds of pass `number`, at least 0: each pass has other masks."""
        return pass_seeds(noise, number)

    def explain(self) -> str:
        """Returns in a line how the module runs for many tasks, why, and what it costs."""
        choice = self._newest()
        if choice is None:
            return "The module has not run yet; `prepare(inputs)` chooses how."
        return choice.explanation

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        return fresh_params(self.net, self.init, generator, num_tasks)

    def train(self, mode: bool = True) -> ModuleModel:
        """Sets the mode of the module and its layers."""
        super().train(mode)
        self.net.training = mode
        return self

    def _choice(self, inputs: Tensor, mask: Tensor | None) -> Choice:
        """Returns the way to run the module in its present structure and modes."""
        net = self.net
        # Whole numbers, also while a graph is captured with symbols for sizes.
        key = (self._structure(), tuple(map(int, inputs.shape[2:])), inputs.dtype, mask is not None)
        found = self._choices.get(key)
        if found is not None:
            return found
        with self._lock:
            if key not in self._choices:
                if mask is not None and not takes_mask(net):
                    raise SettingsError(
                        f"Expected a module whose forward has a parameter `mask` for padded "
                        f"sequences, got {type(net).__name__}.forward without one. Add it: "
                        "forward(self, inputs, mask=None)."
                    )
                check = self.check_derivatives and key not in self._checked
                self._choices[key] = choose(net, inputs, mask, check, self.way)
                self._checked.add(key)
            return self._choices[key]

    def _structure(self) -> tuple[tuple[int, bool], ...]:
        """Returns the layers of the module and their modes."""
        return tuple((id(m), m.training) for m in self.net.modules())

    def _newest(self) -> Choice | None:
        return next(reversed(self._choices.values()), None)

    def _with_aliases(self, params: Params) -> Params:
        """Returns the parameters under all names, those of tied parameters, too."""
        first: dict[int, str] = {}
        aliases = {}
        for name, p in parameters_of(self.net).items():
            if first.setdefault(id(p), name) != name:
                aliases[name] = first[id(p)]
        if not aliases:
            return params
        return {**params, **{alias: params[name] for alias, name in aliases.items()}}

    def _forget(self) -> None:
        values = attribute_values(self.net)
        derived = {"_choices": {}, "_checked": set(), "_values": values, "_lock": threading.RLock()}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is derived from the module."""
        derived = ("_choices", "_checked", "_values", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the model; it chooses again how to run."""
        super().__setstate__(state)
        for name in TREE:
            object.__setattr__(self, name, getattr(self.net, name))
        self._forget()


def _owners(buffers: Mapping[str, Tensor]) -> dict[int, str]:
    """Returns identity of a running mean -> name of its layer."""
    return {
        id(b): name.removesuffix("running_mean").removesuffix(".")
        for name, b in buffers.items() if name.rpartition(".")[2] == "running_mean"
    }  # fmt: skip


def _drops(layer: nn.Module) -> bool:
    """Returns whether a layer may drop units: it has a probability to, and is in training mode."""
    p = getattr(layer, "p", None) if isinstance(layer, nn.modules.dropout._DropoutNd) else None
    p = getattr(layer, "dropout", None) if p is None else p
    return layer.training and isinstance(p, int | float) and p > 0
