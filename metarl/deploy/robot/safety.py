"""What keeps a robot safe while its policy adapts: bounds, rate limits, held actions, roll-back."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.errors import SettingsError, SimulationError
from metarl.ranges import POSITIVE, check_int, check_number, check_type
from metarl.registry import Registry
from metarl.sim.gymnasium.observations import WHOLE
from metarl.sim.spaces import action_leaves, first_choices, source_of

Worse = Callable[[Sequence[float], Sequence[float]], bool]
"""Whether an adapted policy does worse than the start, given the returns of both."""

WORSE: Registry[Worse] = Registry("test of a roll-back")
"""Name -> test."""

PERMUTATIONS = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Safety:
    """Limits on the actions of an adapter, in the units of the environment.

    Attributes:
        low: Lower bounds, a number or [A]; None: those of the action space.
        high: Upper bounds, a number or [A]; None: those of the action space.
        max_change: The most that an action may differ from the one before, a number or [A], above
            0; None: no limit. The first action of an episode may differ as much from `safe_action`.
        safe_action: Where an episode starts from, and what is held before its first action: of
            positions, those in which the robot starts. None: the middle of the bounds, or the
            number nearest to 0 where one is infinite, and the first choice of discrete ones.
        hold: An observation with NaN or infinity holds the last safe action and warns; False raises
            SimulationError.

    Raises:
        SettingsError: `hold` is neither true nor false.
    """

    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    max_change: float | Sequence[float] | None = None
    safe_action: float | Sequence[float] | None = None
    hold: bool = True

    def __post_init__(self) -> None:
        """Checks `hold`; the limits are checked with the actions that they are for."""
        check_type("hold", self.hold, bool)


class ActionFilter:
    """Applies the limits of `Safety` to one action after another.

    Args:
        safety: The limits.
        space: The flat action space.

    Attributes:
        last: The last safe action, [A] float32 or an int; None before the first.
        held: How often an action was held, as numbers were not finite.

    Raises:
        SettingsError: A limit has another size than the actions, or leaves none.
    """

    def __init__(self, safety: Safety, space: spaces.Box | spaces.Discrete) -> None:
        check_type("safety", safety, Safety)
        self.safety = safety
        self.last: np.ndarray | int | None = None
        self.held = 0
        self._holding = False
        self._rest: np.ndarray | int
        self._first = _first_of_choices(space)
        if isinstance(space, spaces.Discrete):
            self._rest = self._checked_choice(space)
            return
        size = space.shape[0]
        self._low = _limit("low", safety.low, size, space.low + self._first) - self._first
        self._high = _limit("high", safety.high, size, space.high + self._first) - self._first
        self._low = np.maximum(self._low, space.low)
        self._high = np.minimum(self._high, space.high)
        for leaf in action_leaves(space):  # rounding must not lead beyond a limit
            if np.dtype(leaf.space.dtype).kind in WHOLE:
                where = slice(leaf.start, leaf.stop)
                self._low[where] = np.ceil(self._low[where])
                self._high[where] = np.floor(self._high[where])
        if not (self._low <= self._high).all():
            raise SettingsError(f"Expected low <= high, got {self._low} and {self._high}.")
        self._change = None
        if safety.max_change is not None:
            self._change = _limit("max_change", safety.max_change, size, None)
            for value in self._change.tolist():
                check_number("max_change", value, POSITIVE)
            for leaf in action_leaves(space):  # a choice is no quantity that changes slowly
                if not isinstance(leaf.space, spaces.Box):
                    self._change[leaf.start : leaf.stop] = np.inf
        middle = self._middle(space) + self._first
        rest = _limit("safe_action", safety.safe_action, size, middle)
        self._rest = rest - self._first
        if not ((self._rest >= self._low) & (self._rest <= self._high)).all():
            raise SettingsError(f"Expected a safe_action inside of the bounds, got {rest}.")

    def __call__(self, action: np.ndarray | int) -> np.ndarray | int:
        """Returns the safe action for one in the environment's units, a new array [A] float32."""
        if isinstance(action, int):
            self._holding, self.last = False, action
            return action
        if not np.isfinite(action).all():
            return self.hold("The action of the policy is not finite")
        self._holding = False
        safe = np.minimum(action, self._high)
        np.maximum(safe, self._low, out=safe)
        if self._change is not None:
            before = self._rest if self.last is None else self.last
            np.minimum(safe, before + self._change, out=safe)
            np.maximum(safe, before - self._change, out=safe)
        self.last = safe
        return safe

    def hold(self, message: str = "The observation is not finite") -> np.ndarray | int:
        """Returns the last safe action, for numbers that are not finite; says so once a row.

        Args:
            message: What is not finite.

        Raises:
            SimulationError: `Safety.hold` is false.
        """
        if not self.safety.hold:
            raise SimulationError(f"{message}; `Safety(hold=True)` holds the last safe action.")
        self.held += 1
        held = self._rest if self.last is None else self.last
        self.last = held
        if not self._holding:
            self._holding = True
            warnings.warn(
                f"{message}: the last safe action {held + self._first} is held until they are.",
                RuntimeWarning,
                stacklevel=3,
            )
        return held

    def executed(self, action: np.ndarray | int) -> None:
        """Takes over the action that was executed in place of the last one, as by an operator.

        Args:
            action: Flat, in the environment's units.
        """
        if isinstance(action, int):
            self.last = action
        elif np.isfinite(action).all():
            self.last = np.clip(action, self._low, self._high)

    def forget(self) -> None:
        """Forgets the last action, at the start of an episode."""
        self.last, self._holding = None, False

    def _middle(self, space: spaces.Box) -> np.ndarray:
        """Returns the action to hold if none is given, [A]."""
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        for leaf in action_leaves(space):
            if not isinstance(leaf.space, spaces.Box):
                bounded[leaf.start : leaf.stop] = False
        low, high = (np.where(bounded, side, 0) for side in (self._low, self._high))
        return np.clip((low + high) / 2, self._low, self._high)

    def _checked_choice(self, space: spaces.Discrete) -> int:
        """Returns the choice to hold before there is one; refuses limits of numbers."""
        safety = self.safety
        if any(v is not None for v in (safety.low, safety.high, safety.max_change)):
            raise SettingsError(
                "Expected bounds and rate limits for continuous actions only; these are discrete."
            )
        if safety.safe_action is None:
            return 0
        if safety.safe_action not in range(self._first, self._first + int(space.n)):
            raise SettingsError(
                f"Expected a safe_action of {self._first} to {self._first + space.n - 1}, got "
                f"{safety.safe_action!r}."
            )
        return int(safety.safe_action) - self._first  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class RollBack:
    """When an adapted policy is given up for the start.

    Attributes:
        test: "permutation" (a one-sided permutation test at 5 %), "mean" (a lower mean return), or
            a function of the returns of both, which says whether the adapted policy is worse.
        least: Whole episodes of each that are needed before the test, at least 1.

    Raises:
        UnknownNameError: There is no such test.
        SettingsError: `least` is no such number, or a function does not take two lists.
    """

    test: str | Worse = "permutation"
    least: int = 5

    def __post_init__(self) -> None:
        """Checks the settings, before a robot acts."""
        check_int("least", self.least)
        if not callable(self.test):
            check_type("test", self.test, str)
            WORSE.get(self.test)
            return
        try:
            inspect.signature(self.test).bind([0.0], [0.0])
        except TypeError as error:
            raise SettingsError(
                "Expected a test of two lists, the returns of the start and of the adapted policy: "
                f"{error}."
            ) from error
        except ValueError:  # a function of C code has no signature
            return

    def is_worse(self, start: Sequence[float], adapted: Sequence[float]) -> bool:
        """Returns whether the adapted policy does worse; False while there are too few episodes."""
        if min(len(start), len(adapted)) < max(1, self.least):
            return False
        test = WORSE.get(self.test) if isinstance(self.test, str) else self.test
        return bool(test(start, adapted))


def lower_mean(start: Sequence[float], adapted: Sequence[float]) -> bool:
    """Returns whether the mean return of the adapted policy is lower."""
    return float(np.mean(adapted)) < float(np.mean(start))


def permutation_test(start: Sequence[float], adapted: Sequence[float]) -> bool:
    """Returns whether the mean return is lower with p below 0.05, by 2000 random permutations."""
    values = np.asarray([*start, *adapted], float)
    found = np.mean(adapted) - np.mean(start)
    orders = np.random.default_rng(0).random((PERMUTATIONS, len(values))).argsort(1)
    mixed = values[orders]
    gaps = mixed[:, len(start) :].mean(1) - mixed[:, : len(start)].mean(1)
    # p = (1 + #{permuted gap <= gap}) / (1 + permutations)
    p = (1 + np.count_nonzero(gaps <= found + 1e-12)) / (1 + PERMUTATIONS)
    return bool(p < LEVEL)


WORSE.register("permutation", permutation_test)
WORSE.register("mean", lower_mean)


def _first_of_choices(space: spaces.Box | spaces.Discrete) -> Any:
    """Returns what the environment adds to the choices in flat actions: [A], or an int."""
    if isinstance(space, spaces.Discrete):
        return first_choices(source_of(space))[0]
    first = np.zeros(space.shape, np.float32)
    for leaf in action_leaves(space):
        if numbers := first_choices(leaf.space):
            first[leaf.start : leaf.stop] = numbers
    return first


def _limit(
    name: str, value: float | Sequence[float] | None, size: int, default: np.ndarray | None
) -> np.ndarray:
    """Returns a limit as [A] float32."""
    if value is None:
        assert default is not None
        return np.asarray(default, np.float32)
    try:
        found = np.asarray(value, np.float32)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if found.shape not in ((), (size,)) or np.isnan(found).any():
        raise SettingsError(
            f"Expected `{name}` as a number or {size} numbers, one per action entry, got {value!r}."
        )
    return np.broadcast_to(found, (size,)).copy()
