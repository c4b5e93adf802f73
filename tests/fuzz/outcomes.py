"""Counts what becomes of random inputs: a clear error, a right result, or a defect."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from metarl.errors import MetarlError

SECONDS = 60
"""An input that takes longer counts as a hang."""
LONGEST_MESSAGE = 3000
CLEAR, RIGHT, TRACEBACK, HANG, SILENT = "clear errors", "right", "tracebacks", "hangs", "silent"


class Hang(BaseException):
    """An input took too long; no handler of exceptions catches it."""


class RefusedError(Exception):
    """A command ended with an error message."""


class Outcomes:
    """The outcomes of inputs.

    Attributes:
        counts: Outcome -> number of inputs.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Classifies the block, which tries one input and asserts that its result is right.

        Errors of MetaRL are suppressed; defects are raised.
        """
        outcome = TRACEBACK
        try:
            with _time_limit():
                yield
            outcome = RIGHT
        except (MetarlError, RefusedError) as error:
            check_clear(str(error))
            outcome = CLEAR
        except Hang:
            outcome = HANG
            raise
        except AssertionError:
            outcome = SILENT
            raise
        finally:
            self.counts[outcome] += 1


def check_clear(message: str) -> None:
    """Checks that an error message has a text of a bounded length."""
    assert message.strip(), "the error has no message"
    assert len(message) < LONGEST_MESSAGE, f"the message has {len(message)} characters"


def explore(strategy: SearchStrategy[Any], inputs: int, test: Callable[[Any], None]) -> None:
    """Calls `test` for values of a strategy, the same ones in every run.

    The environment variable METARL_FUZZ_SEED, an integer, gives others.

    Args:
        strategy: The strategy that draws a value.
        inputs: The number of values.
        test: The test; it raises for a defect, for which hypothesis then finds a small value.
    """
    settings = hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    seed = inputs + 1_000_003 * int(os.environ.get("METARL_FUZZ_SEED", "0"))
    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(lambda value: test(value))))()


def figure(counts: Iterable[Counter[str]]) -> str:
    """Returns the sum of the counts as a sentence."""
    total = sum(counts, Counter())
    return (
        f"{total.total()} inputs: {total[CLEAR] + total[RIGHT]} clear errors or right "
        f"({total[CLEAR]} and {total[RIGHT]}), {total[TRACEBACK]} tracebacks, {total[HANG]} hangs, "
        f"{total[SILENT]} wrong in silence"
    )


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
