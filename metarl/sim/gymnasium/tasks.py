"""Families of gymnasium environments whose parameters differ between tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch

from metarl.errors import SettingsError, short_repr
from metarl.registry import did_you_mean
from metarl.sim.card import Card, Fact
from metarl.sim.disturbed_parameters import disturbs
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.sim.gymnasium.own_values import own_value
from metarl.sim.gymnasium.ranges import Range, splits_are_disjoint
from metarl.sim.sampled_parameters import SampledFamily, check_parameters


@dataclass(frozen=True)
class GymTasks(SampledFamily, GymFamily):
    """Family of a gymnasium environment with parameters that are drawn for each task.

    Each parameter is a task value [T]. If the unwrapped environment has an attribute with the name
    of the parameter that can be set, it is set before a reset. Otherwise, if `env` takes a keyword
    argument of that name, every new task builds a new environment, which is slower. Otherwise the
    attribute of the wrapper that has one is set. The card says which holds for each parameter. A
    name that several layers have, the environment and a wrapper or two wrappers, is refused.

    Setting an attribute does not update what the constructor computed from it; `check_family`
    reports it. In such a case compute the derived value in `reset`, make it a property, or rename
    the attribute so that the environment is rebuilt.

    Example:
        >>> family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15), "m": LogUniform(0.5, 2)})
        >>> check_family(family)

    The attributes of `GymFamily` are further keyword arguments.

    Attributes:
        parameters: Name -> distribution. The first parameter with a continuous distribution has
            disjoint values in the splits. A `Latency` and a `SensorNoise` are of no attribute:
            MetaRL delays the actions and adds the noise.
    """

    parameters: Mapping[str, Range]

    def __post_init__(self) -> None:
        """Checks the parameters in addition to the settings of `GymFamily`.

        Raises:
            SettingsError: There is no parameter, or the environment does not have one of them or
                cannot set it.
        """
        pool = "One that samples tasks itself suits GymTaskPool."
        check_parameters(self.parameters, self.title, pool)
        super().__post_init__()
        self._check_parameters()
        if self.noisy_sensors:
            self.sensor_deviation(self.sample(1, torch.Generator()).values)  # checks the entries

    @property
    def note(self) -> str:
        """The names of the parameters."""
        return ",".join(self.parameters)

    @cached_property
    def attributes(self) -> frozenset[str]:
        """The names of the parameters that are attributes; the others are keyword arguments."""
        return frozenset(name for name in self.own if self._is_attribute(name))

    @property
    def builder(self) -> Callable[..., gymnasium.Env]:
        """What takes the keyword arguments: `env`, or the class that an id stands for."""
        return type(self.probe.unwrapped) if isinstance(self.env, str) else self.env

    def card(self) -> Card:
        laws = "; ".join(
            f"{name}: {values}" if disturbs(values) else f"{name} ~ {values}, {self._kind(name)}"
            for name, values in self.parameters.items()
        )
        summary = f"{self.title} with other values of {', '.join(self.parameters)}"
        disjoint = splits_are_disjoint(self.parameters.values())
        return self._make_card(summary, Fact("tasks", laws), disjoint)

    def apply_task(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Sets attributes, and builds a new environment if there are keyword arguments."""
        keywords = self.keywords(task)
        if keywords:
            env = self.build(**keywords)
        self.set_attributes(env, task)
        return env

    def restore_task(self, env: gymnasium.Env, task: Task) -> None:
        """Sets the attributes that an episode has changed, such as a fuel that it used up."""
        for name in self.attributes:
            layer, value = owner(env, name), self.value_of(name, task)
            old = getattr(layer, name)
            is_same = isinstance(value, int | float | str) and type(old) is type(value)
            if not (is_same and old == value):
                setattr(layer, name, value)

    def keywords(self, task: Task) -> dict[str, Any]:
        """Returns the values of the parameters that are keyword arguments."""
        names = (name for name in self.own if name not in self.attributes)
        return {name: self.value_of(name, task) for name in names}

    def set_attributes(self, env: gymnasium.Env, task: Task) -> None:
        """Sets the parameters that are attributes."""
        for name in self.attributes:
            setattr(owner(env, name), name, self.value_of(name, task))

    def value_of(self, name: str, task: Task) -> Any:
        """Returns the value of a parameter for one environment, which may change it."""
        return own_value(self.parameters[name].value(task[name].item()))

    @cached_property
    def _needed_keywords(self) -> Mapping[str, Any]:
        """Values of the parameters that `env` takes and has no default for."""
        if not callable(self.env):
            return {}
        names = [name for name in self.own if name in required_arguments(self.env)]
        task = {name: v[0].numpy() for name, v in self.sample(1, torch.Generator()).values.items()}
        return {name: self.value_of(name, task) for name in names}

    def _kind(self, name: str) -> str:
        if name not in self.attributes:
            return "a keyword argument: the environment is built again"
        layer = owner(self.probe, name)
        if layer is self.probe.unwrapped:
            return "an attribute"
        return f"an attribute of the wrapper {type(layer).__name__}"

    def _is_attribute(self, name: str) -> bool:
        layers = owners(self.probe, name)
        if len(layers) > 1:
            names = " and ".join(type(layer).__name__ for layer in layers)
            raise SettingsError(
                f"{names} of {self.title!r} each have an attribute {name!r}, and only one of them "
                "may be what counts. Rename the attribute of the other, or make the parameter a "
                "keyword argument with another name."
            )
        if not layers:
            return False
        is_keyword = takes_keyword(self.builder, name)
        if is_forwarded(layers[0], name):
            if is_keyword:
                return False
            raise SettingsError(
                f"The attribute {name!r} of {self.title!r} is that of another object, which "
                f"`__getattr__` of {type(layers[0]).__name__} asks: a task would hide it and "
                "change nothing there. Give the environment a keyword argument, or a property of "
                "this name with a setter that changes the other object."
            )
        if not is_read_only(layers[0], name):
            return layers[0] is self.probe.unwrapped or not is_keyword
        if not is_keyword:
            raise SettingsError(_read_only_message(layers[0], name))
        return False

    def _check_parameters(self) -> None:
        """Sets a task; raises SettingsError if the environment does not take the parameters."""
        rebuilt = self.own.keys() - self.attributes  # raises for names of several layers
        if rebuilt and self.worlds == 1:
            raise SettingsError(
                f"Expected parameters of {self.title!r}, of which there is one environment, to be "
                f"attributes; {', '.join(sorted(rebuilt))} would build it again."
            )
        values = self.sample(1, torch.Generator()).values
        task = {name: value[0].numpy() for name, value in values.items()}
        self._check_kinds(task)
        try:
            env = self.apply_task(self.probe, task)
        except Exception as error:
            for name in self.own:
                layers = owners(self.probe, name)
                if layers and is_read_only(layers[0], name):
                    raise SettingsError(_read_only_message(layers[0], name)) from error
            names = own_names(self.probe)
            names |= inspect.signature(self.builder).parameters.keys()
            hints = "".join(did_you_mean(name, names) for name in self.own)
            raise SettingsError(
                f"{self.title!r} does not take the parameters {', '.join(self.own)}, as "
                f"attributes or keyword arguments: {error}.{hints} "
                f"It has {', '.join(sorted(names))}."
            ) from error
        if env is not self.probe:
            env.close()

    def _check_kinds(self, task: Task) -> None:
        """Raises SettingsError where a number would replace something else, such as an array."""
        for name in self.attributes:
            value = self.value_of(name, task)
            old = getattr(owner(self.probe, name), name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not takes_number(old):
                raise SettingsError(
                    f"Expected the attribute {name!r} of {self.title!r} to be one number, which a "
                    f"task replaces, it is {short_repr(old)}. Choose among whole values with "
                    f"Choice, or give the environment an attribute for the number that varies."
                )


def owners(env: gymnasium.Env, name: str) -> list[gymnasium.Env]:
    """Returns the layers with an attribute of this name, the outermost first."""
    layers: list[gymnasium.Env] = []
    while isinstance(env, gymnasium.Wrapper):
        is_own = hasattr(type(env), name) and not hasattr(gymnasium.Wrapper, name)
        if is_own or name in vars(env):
            layers.append(env)
        env = env.env
    return [*layers, env] if hasattr(env, name) else layers


def owner(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """Returns the layer whose attribute a parameter sets; AttributeError without one."""
    layers = owners(env, name)
    if not layers:
        raise AttributeError(f"{env} has no attribute {name!r}, as other tasks' environments have")
    return layers[-1]


def is_read_only(env: gymnasium.Env, name: str) -> bool:
    """Returns whether an attribute of a layer is a property that cannot be set."""
    kind = inspect.getattr_static(type(env), name, None)
    return isinstance(kind, property) and kind.fset is None


def is_forwarded(env: gymnasium.Env, name: str) -> bool:
    """Returns whether an attribute comes from `__getattr__`, and no `__setattr__` sets it."""
    nothing = object()
    own_setter = type(env).__setattr__ is not object.__setattr__
    return not own_setter and inspect.getattr_static(env, name, nothing) is nothing


def own_names(env: gymnasium.Env) -> set[str]:
    """Returns the public attributes of an environment, its classes and its wrappers, no methods."""
    names = {
        name
        for name in dir(env)
        if not (name.startswith("_") or name == "env" or hasattr(gymnasium.Wrapper, name))
        and not callable(inspect.getattr_static(env, name, None))
    }
    return names | own_names(env.env) if isinstance(env, gymnasium.Wrapper) else names


def _read_only_message(env: gymnasium.Env, name: str) -> str:
    """Returns the message for a property that cannot be set, with the attributes it reads."""
    getter = getattr(inspect.getattr_static(type(env), name), "fget", None)
    read = getattr(getattr(getter, "__code__", None), "co_names", ())
    found = [n for n in dict.fromkeys((f"_{name}", *read)) if n in vars(env)]
    advice = (
        f"It reads {', '.join(found)}: name that, if it is a number."
        if found
        else "Give the environment an attribute or a keyword argument for it."
    )
    return (
        f"Expected parameters that can be set, {name!r} of {type(env).__name__} is a property "
        f"without a setter. {advice}"
    )


def takes_number(old: Any) -> bool:
    """Returns whether a number may replace a value: None, or one number."""
    if old is None:
        return True
    try:
        array = np.asarray(old)
    except ValueError:  # lists of different lengths
        return False
    return array.ndim == 0 and array.dtype.kind in "iuf"


def required_arguments(builder: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments of a function or class that have no default."""
    try:
        parameters = inspect.signature(builder).parameters.values()
    except ValueError:  # a builtin without a signature
        return []
    return [p.name for p in parameters if p.default is p.empty]


def takes_keyword(builder: Callable[..., Any], name: str) -> bool:
    """Returns whether a function or class takes a keyword argument of this name."""
    try:
        parameters = inspect.signature(builder).parameters
    except ValueError:  # a builtin without a signature
        return False
    kinds = [p.kind for p in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds
