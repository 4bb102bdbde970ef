"""The service's own errors, below the two branches of :mod:`engine.errors`.

::

    RetryableError
    ├── CatalogUnavailable    a catalog failed, timed out, throttled or answered garbage
    ├── SinkUnavailable       a broker or another sink did not confirm a message
    ├── StoreUnavailable      the database is locked, down, full or read-only
    └── LeaseLost             another worker holds the claim; this one's result is discarded
    PermanentError
    ├── CatalogInvalid        a catalog's answer can never be used (not STAC, page loop)
    │   └── WindowTooWide     a search finds more than its pages list; a narrower one may be read whole
    ├── SceneInvalid          a STAC Item lacks what a scene needs
    ├── AccessRefused         an href breaks the access policy
    ├── HarvestInvalid        a harvest cannot be made as it was ordered
    ├── AlertInvalid          an alert does not satisfy its own schema
    └── ConfigError           the configuration is wrong; the message names the line and the remedy
"""

from __future__ import annotations

from engine.errors import PermanentError, RetryableError


class CatalogUnavailable(RetryableError):
    """A catalog failed, timed out, throttled or answered garbage."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, too_slow: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds that the catalog asked to wait, where it said so (``Retry-After``)."""
        self.too_slow = too_slow
        """It ran out of time: a narrower search may be answered."""


class SinkUnavailable(RetryableError):
    """A broker or another sink did not confirm a message."""


class StoreUnavailable(RetryableError):
    """The database is locked, down, full or read-only."""


class LeaseLost(RetryableError):
    """Another worker holds the claim; this one's result is discarded."""


class CatalogInvalid(PermanentError):
    """A catalog's answer can never be used."""


class WindowTooWide(CatalogInvalid):
    """A search finds more than its pages list, or its pages lead in a circle; a narrower one may be read whole."""


class SceneInvalid(PermanentError):
    """A STAC Item lacks what a scene needs."""


class AccessRefused(PermanentError):
    """An href breaks the access policy."""


class HarvestInvalid(PermanentError):
    """A harvest cannot be made as it was ordered."""


class AlertInvalid(PermanentError):
    """An alert does not satisfy its own schema."""


class ConfigError(PermanentError):
    """The configuration is wrong; the message names the line and the remedy."""
