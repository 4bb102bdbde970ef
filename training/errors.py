"""Errors of the training room.

::

    RetryableError
    └── ProcessLost            another process of a run over several processes ended or fell silent
    PermanentError
    ├── TrainingDataInvalid    a folder of training images is missing, incomplete or of another layout
    └── RunInvalid             a run cannot be started, resumed or exported as it stands
"""

from __future__ import annotations

from engine.errors import PermanentError, RetryableError


class TrainingDataInvalid(PermanentError):
    """A folder of training images is missing, incomplete or of another layout."""


class RunInvalid(PermanentError):
    """A run cannot be started, resumed or exported as it stands."""


class ProcessLost(RetryableError):
    """Another process of a run over several processes ended or fell silent."""
