"""Every error that Vigie raises on purpose.

::

    VigieError
    ├── RetryableError            the same call may succeed later
    │   ├── RasterUnavailable     a file's server failed, timed out or throttled
    │   ├── RasterTimeout         a read took longer than its budget
    │   └── DeviceMemoryFull      not even one tile fits beside what else is on the device
    ├── DeviceLost                the device's context is broken; only a new process can go on
    ├── BuildStopped              a plan's build was told to stop
    └── PermanentError            the same call will fail again
        ├── RasterRefused         a file breaks a limit or a rule of access; nothing was read
        ├── RasterCorrupt         a file is truncated, empty, or not what it claims
        ├── SensorUnknown         no sensor of the table matches
        ├── BandMissing           a scene lacks a band that the model needs
        ├── BundleError           a model bundle is incomplete, altered or of another format
        ├── ShardInvalid          a tile shard is damaged, or not of its format
        ├── InputMismatch         an array's shape, dtype or bands differ from what a model declares
        ├── RunnerUnavailable     the runner asked for cannot run on this machine
        └── RunnerFailed          the device refused a call, and is sound

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


class DeviceMemoryFull(RetryableError):
    """The device's memory does not hold one tile; others use it too, so it may later."""


class DeviceLost(VigieError):
    """The device's context is broken (a sticky CUDA error): every later call of this process will fail.

    Whoever has work in hand gives it back; the process then ends, and its supervisor starts another.
    """


class BuildStopped(VigieError):
    """A plan's build was told to stop; nothing was kept."""


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


class RunnerFailed(PermanentError):
    """The device refused a call and works otherwise: the next call may be another matter, the same one is not."""
