"""Every error that Vigie raises on purpose.

::

    VigieError
    ├── RetryableError            the same call may succeed later
    │   ├── RasterUnavailable     a file's server failed, timed out or throttled
    │   └── RasterTimeout         a read took longer than its budget
    └── PermanentError            the same call will fail again
        ├── RasterRefused         a file breaks a limit or a rule of access; nothing was read
        ├── RasterCorrupt         a file is truncated, empty, or not what it claims
        ├── SensorUnknown         no sensor of the table matches
        ├── BandMissing           a scene lacks a band that the model needs
        ├── BundleError           a model bundle is incomplete, altered or of another format
        ├── ShardInvalid          a tile shard is damaged, or not of its format
        ├── InputMismatch         an array's shape, dtype or bands differ from what a model declares
        └── RunnerUnavailable     the runner asked for cannot run on this machine

:mod:`daemon.errors` hangs the service's own errors below the same two branches. A message says what
happened, to what, and what to do about it.
"""

from __future__ import annotations


class VigieError(Exception):
    """Base of all errors that Vigie raises on purpose."""


class RetryableError(VigieError):
    """The same call may succeed later."""


class PermanentError(VigieError):
    """The same call will fail again until something is changed."""


class RasterUnavailable(RetryableError):
    """A raster's server failed, timed out or throttled."""


class RasterTimeout(RetryableError):
    """Reading a raster took longer than its budget."""


class RasterRefused(PermanentError):
    """A raster breaks a limit or a rule of access; no pixel was read."""


class RasterCorrupt(PermanentError):
    """A raster is truncated, empty, or not what it claims to be."""


class SensorUnknown(PermanentError):
    """No sensor of the table matches."""


class BandMissing(PermanentError):
    """A scene lacks a band that the model needs."""


class BundleError(PermanentError):
    """A model bundle is incomplete, altered or of another format."""


class ShardInvalid(PermanentError):
    """A tile shard is damaged, or not of its format."""


class InputMismatch(PermanentError):
    """An array's shape, dtype or bands differ from what a model declares."""


class RunnerUnavailable(PermanentError):
    """The runner asked for cannot run on this machine."""
