"""The errors MetaRL raises: each says what was expected, what came and what to do."""


class MetarlError(Exception):
    """Base of all errors that MetaRL raises on purpose."""


class TaskError(MetarlError, ValueError):
    """A task distribution, its settings or what it sampled is not usable."""


class DataError(MetarlError, OSError):
    """A data file is missing, corrupt or cannot be downloaded."""


class SettingsError(MetarlError, ValueError):
    """A setting has a value that cannot work."""


class UnknownNameError(MetarlError, LookupError):
    """A name is in no registry."""


class DuplicateNameError(MetarlError, ValueError):
    """A name is in the registry already."""


class ShapeError(MetarlError, ValueError):
    """A tensor has another shape than was expected."""


class NonFiniteError(MetarlError, ArithmeticError):
    """Training met a loss or a gradient that is infinite or not a number."""


class SimulationError(MetarlError, ArithmeticError):
    """A simulated world gave a value that is not finite, or was given an impossible action."""


class CheckpointError(MetarlError, OSError):
    """A checkpoint or a run folder cannot be read or written."""


class ContaminationError(MetarlError, ValueError):
    """Weights were trained on data that the evaluation holds out."""


class ExportError(MetarlError, RuntimeError):
    """A policy in another library's format does not act as the original."""
