"""Every error that xreal raises on purpose.

XRealError
├── InputError (also ValueError)         a value the caller gave: mask, lesion, prompt, setting
│   ├── MaskError                        organ mask or lesion mask
│   ├── FindingError                     unknown finding name
│   └── ImageError                       unreadable, truncated or wrongly formatted picture
├── OutputError                          the place to write to cannot take the files
├── ModelError                           model folder incomplete, or of another shape than asked for
├── DataError                            data set folder missing, empty or not in the expected layout
└── TrainingError                        a run cannot start or go on

Messages say what was given, what was wanted and what to do.
"""

__all__ = [
    "DataError",
    "FindingError",
    "ImageError",
    "InputError",
    "MaskError",
    "ModelError",
    "OutputError",
    "TrainingError",
    "XRealError",
]


class XRealError(Exception):
    """Base of all errors raised by xreal."""


class InputError(XRealError, ValueError):
    """A value given by the caller is not usable."""


class MaskError(InputError):
    """An organ or lesion mask is not usable."""


class FindingError(InputError):
    """A finding's name is not known."""


class ImageError(InputError):
    """A picture cannot be read."""


class OutputError(XRealError):
    """Results cannot be written to the given place."""


class ModelError(XRealError):
    """A model folder is incomplete or does not fit."""


class DataError(XRealError):
    """A data set folder is missing, empty or in another layout."""


class TrainingError(XRealError):
    """A training run cannot start or go on."""
