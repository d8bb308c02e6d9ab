"""The exception tree.

::

    TreadleError
    ├── SettingsError (also a ValueError)   a setting is wrong, unknown or contradicts another
    ├── CheckpointError                     a model folder is missing, damaged or inconsistent
    ├── DataError                           a text, trace or task file cannot be used
    ├── CapacityError                       the machine has too little memory, disk or time
    └── UnsupportedModelError               the architecture lacks facts or cannot express the
    result

Every message says what was found, what was expected, where (file, tensor, line), and the mend as an
imperative sentence.
"""

__all__ = [
    "CapacityError",
    "CheckpointError",
    "DataError",
    "SettingsError",
    "TreadleError",
    "UnsupportedModelError",
]


class TreadleError(Exception):
    """Base of every error that a user can mend."""


class SettingsError(TreadleError, ValueError):
    """A setting is wrong, unknown, or contradicts another one."""


class CheckpointError(TreadleError):
    """A model folder is missing, damaged or inconsistent."""


class DataError(TreadleError):
    """A text, trace or task file cannot be used as it is."""


class CapacityError(TreadleError):
    """The machine has too little memory, disk space or time for the request."""


class UnsupportedModelError(TreadleError):
    """The architecture has no facts here, or cannot express the requested result."""
