"""Exceptions of MetaRL; the messages say what was expected, what was found and what to do."""


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


class ContaminationError(MetarlError, ValueError):
    """Weights were trained on data that the evaluation holds out."""


class ExportError(MetarlError, RuntimeError):
    """An exported policy does not act like the original."""
