"""Errors of the training room.

::

    PermanentError
    ├── TrainingDataInvalid    a folder of training images is missing, incomplete or of another layout
    └── RunInvalid             a run folder cannot be resumed or exported
"""

from __future__ import annotations

from engine.errors import PermanentError


class TrainingDataInvalid(PermanentError):
    """A folder of training images is missing, incomplete or of another layout."""


class RunInvalid(PermanentError):
    """A run folder cannot be resumed or exported."""
