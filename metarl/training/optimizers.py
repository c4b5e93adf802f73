"""Outer optimisers and schedules: any of torch's by name, with options and parameter groups."""

from __future__ import annotations

import inspect
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from metarl.errors import SettingsError, short_repr
from metarl.registry import check_choice, did_you_mean

NamedParameters = list[tuple[str, nn.Parameter]]
OptimizerFactory = Callable[[NamedParameters], torch.optim.Optimizer]
"""Makes an optimiser of named parameters, as `torch.optim.AdamW(named)` does."""
SchedulerFactory = Callable[[torch.optim.Optimizer], Any] | lr_scheduler.LRScheduler
"""Makes a scheduler of `torch.optim.lr_scheduler` from an optimiser; or the scheduler itself, where
its optimiser is given, too."""

ENDING = ("linear", "cosine")
"""Schedules of MetaRL that end at `final_lr`."""
OWN_SCHEDULES = ("constant", *ENDING)
_NEED_MORE = ("Optimizer", "LBFGS", "SparseAdam")  # a closure, sparse gradients

OF_THE_DEVICE = ("fused", "foreach", "capturable")
"""Options that say how steps are computed; they are not taken from a checkpoint."""

OPTIMIZERS: dict[str, Any] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in _NEED_MORE
}
"""Name -> class of `torch.optim`, in lower case."""

SCHEDULERS: dict[str, Any] = {
    name: kind
    for name, kind in vars(lr_scheduler).items()
    if isinstance(kind, type)
    and issubclass(kind, lr_scheduler.LRScheduler)
    and not name.startswith("_")
    and name != "LRScheduler"
}
"""Name -> class of `torch.optim.lr_scheduler`."""


def check_optimizer_settings(settings: Any) -> None:
    """Checks the names and options of the optimiser and the schedule in `TrainingSettings`.

    Raises:
        SettingsError: A name is unknown, an option is not one of the class, or settings exclude
            each other.
    """
    check_choice("optimizer", settings.optimizer, OPTIMIZERS)
    check_choice("schedule", settings.schedule, (*OWN_SCHEDULES, *SCHEDULERS))
    _check_options("optimizer_options", settings.optimizer_options, OPTIMIZERS[settings.optimizer])
    if settings.schedule in SCHEDULERS:
        kind = SCHEDULERS[settings.schedule]
        _check_options("schedule_options", settings.schedule_options, kind)
        if settings.warmup:
            raise SettingsError(
                f"`warmup` belongs to the schedules {', '.join(OWN_SCHEDULES)}; the schedule "
                f"{settings.schedule} has its own rates. Leave one of them out."
            )
    elif settings.schedule_options:
        raise SettingsError(
            f"The schedule {settings.schedule} has no options: leave out `schedule_options`, or "
            f"choose a class of torch.optim.lr_scheduler: {', '.join(SCHEDULERS)}."
        )
    if settings.weight_decay and not _has_option(OPTIMIZERS[settings.optimizer], "weight_decay"):
        raise SettingsError(f"The optimizer {settings.optimizer} has no weight decay.")
    decay = parsed_options("optimizer_options", settings.optimizer_options).get("weight_decay")
    if settings.weight_decay and decay is not None:
        raise SettingsError(
            f"Expected one weight decay, got `weight_decay` {settings.weight_decay} and that of "
            f"`optimizer_options`, {decay}: leave one of them out."
        )
    if settings.no_decay and not (settings.weight_decay or decay):
        raise SettingsError("`no_decay` excepts parameters from a `weight_decay`, which is 0.")
    for pair in settings.rate_factors:
        _rate_factor(pair)


def make_optimizer(named: NamedParameters, settings: Any) -> torch.optim.Optimizer:
    """Makes the optimiser of `TrainingSettings`.

    Args:
        named: The parameters to train, by name.
        settings: See `TrainingSettings`.

    Raises:
        SettingsError: An option has a value that the class refuses, or a pattern matches nothing.
    """
    kind = OPTIMIZERS[settings.optimizer]
    options = parsed_options("optimizer_options", settings.optimizer_options)
    if _has_option(kind, "fused"):
        options.setdefault("fused", not any(p.is_complex() for _, p in named))
    elif _has_option(kind, "capturable") and any(p.is_cuda for _, p in named):
        options.setdefault("capturable", True)  # its step can be in a CUDA graph
    if _has_option(kind, "weight_decay"):  # also 0: the defaults of adamw and muon are others
        options.setdefault("weight_decay", settings.weight_decay)
    try:
        made = kind(_groups(named, settings), lr=settings.outer_lr, **options)
        made._warned_capturable_if_run_uncaptured = True  # it runs without a graph, too
        return made
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"torch.optim.{kind.__name__} cannot be made with {short_repr(options)}: {error}"
        ) from error


def make_scheduler(optimizer: torch.optim.Optimizer, settings: Any) -> Any:
    """Makes the scheduler of `TrainingSettings`; None for the schedules of MetaRL.

    Raises:
        SettingsError: An option has a value that the class refuses.
    """
    if settings.schedule in OWN_SCHEDULES:
        return None
    options = parsed_options("schedule_options", settings.schedule_options)
    try:
        return SCHEDULERS[settings.schedule](optimizer, **options)
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"torch.optim.lr_scheduler.{settings.schedule} cannot be made with "
            f"{short_repr(options)}: {error}"
        ) from error


def given_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerFactory, named: NamedParameters
) -> torch.optim.Optimizer:
    """Returns the optimiser that a user gives, itself or as a factory; checks its parameters.

    Args:
        optimizer: The optimiser, or what makes it from the named parameters.
        named: The parameters to train, by name.

    Raises:
        SettingsError: It is no optimiser, has no rate, or has other parameters than those to train.
    """
    made = optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        made = _called_with(optimizer, named) if callable(optimizer) else optimizer
    if not isinstance(made, torch.optim.Optimizer):
        raise SettingsError(
            f"Expected `optimizer` to be a torch.optim.Optimizer, or a function that makes one of "
            f"named parameters, got {type(made).__name__}."
        )
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SettingsError(
            f"{type(made).__name__} evaluates the loss several times a step, which the outer loop "
            "does not offer. Use another optimiser."
        )
    if any(group.get("lr") is None for group in made.param_groups):
        raise SettingsError(
            f"Expected an optimiser with a rate `lr` in each of its parameter groups, which "
            f"schedules scale and logs show; {type(made).__name__} has none. Give it one: "
            "super().__init__(params, {'lr': lr})."
        )
    ours = {id(p): name for name, p in named}
    theirs = {id(p) for group in made.param_groups for p in group["params"]}
    missing = [name for key, name in ours.items() if key not in theirs]
    if missing or not theirs <= ours.keys():
        raise SettingsError(
            f"Expected an optimiser of all parameters to train, {len(ours)} tensors; it lacks "
            f"{', '.join(missing[:3]) or 'none of them'}{', ...' if len(missing) > 3 else ''}, and "
            f"has {len(theirs - ours.keys())} others. Give a function of named parameters, such as "
            "`torch.optim.AdamW`; freeze parameters with `requires_grad_(False)`."
        )
    return made


def whole_step(optimizer: torch.optim.Optimizer) -> None:
    """Takes a step with all hooks, which the user may have registered and schedulers count.

    Raises:
        SettingsError: An optimiser of the user's raises an error.
    """
    if type(optimizer) in OPTIMIZERS.values():
        optimizer.step()
        return
    try:
        optimizer.step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of the user may raise anything
        raise SettingsError(
            f"{type(optimizer).__name__}.step() raises {type(error).__name__}: {error}. It is "
            "called once per iteration with the gradients in `grad`, and without a closure: "
            "optimisers that evaluate the loss again, such as SAM or LBFGS, are not for the outer "
            "loop."
        ) from error


def check_modes(optimizer: torch.optim.Optimizer, learner: nn.Module) -> None:
    """Checks that an optimiser with modes (see `training_mode`) suits a learner.

    Raises:
        SettingsError: The learner collects rollouts with other weights than those whose gradient
            is taken.
    """
    if _has_modes(optimizer) and getattr(learner, "environment_steps", None) is not None:
        raise SettingsError(
            f"{type(optimizer).__name__} takes gradients at other weights than those that are "
            "used, by train() and eval(), and rollouts are collected with the latter. Use another "
            "optimiser for policies."
        )


@contextmanager
def training_mode(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Calls `train()` before and `eval()` after, of optimisers that have both.

    Those of schedulefree (Defazio et al. 2024, arXiv:2405.15682) exchange the weights for those at
    which they take gradients. Evaluations and checkpoints use the others, the averages.
    """
    if not _has_modes(optimizer):
        yield
        return
    modes: Any = optimizer
    modes.train()
    try:
        yield
    finally:
        modes.eval()


def _has_modes(optimizer: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def given_scheduler(make: SchedulerFactory, optimizer: torch.optim.Optimizer) -> Any:
    """Returns the scheduler that a user's function makes of the optimiser, or that of the user.

    Raises:
        SettingsError: The function fails, or it is no scheduler of this optimiser.
    """
    try:
        made = make if isinstance(make, lr_scheduler.LRScheduler) else make(optimizer)
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"`scheduler` is called with the optimiser alone, and raises {type(error).__name__}: "
            f"{error}. Give it the other arguments by `functools.partial` or a lambda: "
            "lambda optimizer: CosineAnnealingLR(optimizer, T_max=1000)."
        ) from error
    if not hasattr(made, "step") or not hasattr(made, "state_dict"):
        raise SettingsError(
            "Expected `scheduler` to be a function that makes a scheduler of torch of the "
            f"optimiser, got a function that returns {type(made).__name__}."
        )
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise SettingsError(
            f"Expected a scheduler of the optimiser of the loop, got a {type(made).__name__} of "
            "another one, which would have no effect. Give a function of the optimiser, such as "
            "lambda optimizer: StepLR(optimizer, 1000); or the optimiser, too."
        )
    return made


def check_scheduler(scheduler: Any, iterations: int) -> None:
    """Checks that a scheduler can be stepped, and to the end of the run; None passes.

    Raises:
        SettingsError: It ends before, its step needs more arguments, or it waits for a measure to
            rise.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) and scheduler.mode == "max":
        raise SettingsError(
            f"{name} is stepped with the mean loss of each iteration, which falls: with "
            'mode="max", it would lower the rate because training works. Use mode="min".'
        )
    if scheduler is not None and not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        needed = _required(scheduler.step)
        if needed:
            raise SettingsError(
                f"Expected a scheduler that is stepped once per iteration without arguments, as "
                f"those of torch; {name}.step requires {', '.join(needed)}. Wrap it in a class "
                "whose step() counts the iterations and passes them on."
            )
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < iterations:
        raise SettingsError(
            f"{name} ends after {total} steps, and the run has {iterations} "
            f"iterations, a step each: give it total_steps={iterations}."
        )


def _called_with(make: OptimizerFactory, named: NamedParameters) -> Any:
    """Returns what a user's function makes of the named parameters; explains its errors."""
    try:
        return make(named)
    except Exception as error:  # code of the user may raise anything
        raise SettingsError(
            "`optimizer` is called with the parameters to train, a list of pairs (name, "
            f"parameter), and raises {type(error).__name__}: {error}. Where it takes parameters "
            "without names, give lambda named: Optimizer([p for _, p in named], lr=...)."
        ) from error


def _required(function: Any) -> list[str]:
    """Returns the names of the arguments that a function cannot be called without."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def parsed_options(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Returns options from texts `option=value`, with values that are Python literals.

    Raises:
        SettingsError: A text has another form.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        option, equals, text = pair.partition("=")
        try:
            if not equals:
                raise ValueError
            options[option.strip()] = literal_eval(text.strip())
        except (ValueError, SyntaxError) as error:
            raise SettingsError(
                f"Expected `{name}` of the form option=value, such as betas=(0.9,0.99), got "
                f"{short_repr(pair)}."
            ) from error
    return options


def _groups(named: NamedParameters, settings: Any) -> list[dict[str, Any]]:
    """Returns the parameter groups of the settings: one for each combination of options."""
    factors = [_rate_factor(pair) for pair in settings.rate_factors]
    _check_patterns([pattern for pattern, _ in factors], named)
    _check_patterns(settings.no_decay, named)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in named:
        factor = next((f for pattern, f in factors if fnmatchcase(name, pattern)), 1.0)
        decays = not any(fnmatchcase(name, pattern) for pattern in settings.no_decay)
        groups.setdefault((factor, decays), []).append(p)
    if list(groups) == [(1.0, True)]:
        return [{"params": [p for _, p in named]}]
    made = []
    for (factor, decays), params in groups.items():
        group: dict[str, Any] = {"params": params, "lr": factor * settings.outer_lr}
        made.append(group if decays else {**group, "weight_decay": 0.0})
    return made


def _rate_factor(pair: str) -> tuple[str, float]:
    pattern, equals, text = pair.rpartition("=")
    try:
        factor = float(text)
        if not equals or not 0 < factor < float("inf"):
            raise ValueError
    except ValueError as error:
        raise SettingsError(
            f"Expected `rate_factors` of the form pattern=factor with a factor above 0, such as "
            f"rule.*=0.1, got {short_repr(pair)}."
        ) from error
    return pattern, factor


def _check_patterns(patterns: Iterable[str], named: NamedParameters) -> None:
    names = [name for name, _ in named]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SettingsError(
                f"The pattern {pattern!r} matches no parameter to train."
                f"{did_you_mean(pattern, names)} Known: {', '.join(names)}."
            )


def _check_options(name: str, pairs: Sequence[str], kind: Any) -> None:
    known = [p for p in inspect.signature(kind).parameters if p not in ("params", "optimizer")]
    for option in parsed_options(name, pairs):
        if option == "lr":
            raise SettingsError("The rate is `outer_lr`; leave `lr` out of `optimizer_options`.")
        check_choice(f"option of {kind.__name__} in `{name}`", option, known)


def _has_option(kind: Any, option: str) -> bool:
    return option in inspect.signature(kind).parameters
