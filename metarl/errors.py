"""Exceptions of MetaRL; the messages say what was expected, what was found and what to do."""

from typing import Any


class MetarlError(Exception):
    """Base class of all errors that MetaRL raises deliberately."""


class TaskError(MetarlError, ValueError):
    """A task distribution, its settings or its samples are not usable."""


class DataError(MetarlError, OSError):
    """A data file is missing, corrupt or cannot be downloaded."""


class SettingsError(MetarlError, ValueError):
    """A setting has an invalid value."""


class UnknownNameError(MetarlError, LookupError):
    """A name is not in the registry."""


class DuplicateNameError(MetarlError, ValueError):
    """A name is already in the registry."""


class ShapeError(MetarlError, ValueError):
    """A tensor has an unexpected shape or dtype."""


class NonFiniteError(MetarlError, ArithmeticError):
    """A loss or a gradient in training is infinite or NaN."""


class SimulationError(MetarlError, ArithmeticError):
    """A simulated world produced a value that is not finite, or received an invalid action."""


class CheckpointError(MetarlError, OSError):
    """A checkpoint or a run folder cannot be read or written."""


class UntrustedError(MetarlError, ValueError):
    """A file of a run names code that the user has not allowed."""


class ContaminationError(MetarlError, ValueError):
    """Weights were trained on data that the evaluation holds out."""


class RankError(MetarlError, RuntimeError):
    """Another process of the same training has failed, or does not do the same."""


class ExportError(MetarlError, RuntimeError):
    """An exported policy does not act like the original."""


def short_repr(value: Any, longest: int = 80) -> str:
    """Returns the `repr` of a value for a message, cut if it is long; it escapes control codes."""
    try:
        text = repr(value)
    except Exception as error:  # such as an integer of more digits than Python prints
        return f"a {type(value).__name__} without a text ({type(error).__name__})"
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
