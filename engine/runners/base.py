"""The runner port: named numpy arrays in, named numpy arrays out, the same on each device.

A runner is opened by :func:`engine.runners.open_runner` and is a context manager.

- ``run`` blocks until the outputs are on the host. It raises :class:`~engine.errors.InputMismatch` for arrays that
  the specification does not declare or for a closed runner, and nothing else on purpose.
- ``run`` may be called by several threads at once; ``close`` may not overlap ``run``.
- Outputs are new arrays that belong to the caller; inputs are only read and may be reused after ``run`` returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from engine.ode import Schedule, SolverName

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, npt.NDArray[Any]]
RunnerName = Literal["auto", "torch", "onnxruntime", "tensorrt"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One named array of a model."""

    name: str
    """Name in the mapping that is given to or got from ``run``."""
    shape: tuple[int, ...]
    """Sides; -1 is the batch, the same in all arrays of one call."""
    dtype: str = "float32"
    """Numpy name of the element type."""

    def check(self, array: npt.NDArray[Any], role: str) -> None:
        """Raise :class:`~engine.errors.InputMismatch` if ``array`` is not what this declares."""
        same = array.ndim == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True)
        )
        if not same or array.dtype.name != self.dtype:
            raise InputMismatch(
                f"{role} {self.name!r} is {array.dtype.name}{list(array.shape)}; "
                f"the model declares {self.dtype}{['N' if side == -1 else side for side in self.shape]}"
            )


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a model takes and gives."""

    inputs: tuple[ArraySpec, ...]
    """Arrays that each call must bring, all of them."""
    outputs: tuple[ArraySpec, ...]
    """Arrays that each call returns."""

    def check(self, feeds: Mapping[str, npt.NDArray[Any]]) -> int:
        """The batch size of ``feeds``.

        Raises:
            InputMismatch: a missing or unknown name, another shape or dtype, unequal or empty batches.
        """
        names = [spec.name for spec in self.inputs]
        if set(feeds) != set(names):
            raise InputMismatch(f"inputs {sorted(feeds)} were given; the model declares {sorted(names)}")
        for spec in self.inputs:
            spec.check(feeds[spec.name], "input")
        batches = {spec.name: int(feeds[spec.name].shape[0]) for spec in self.inputs}
        if len(set(batches.values())) != 1 or 0 in batches.values():
            raise InputMismatch(f"batch sizes are {batches}; one size of 1 or more is expected in all inputs")
        return next(iter(batches.values()))


@dataclass(frozen=True, kw_only=True)
class RunnableModel:
    """A network that a runner can open: how to build it, what it takes and gives, and which weights it has."""

    name: str
    """For messages, such as ``aerial encoder``."""
    build: Callable[[], nn.Module]
    """Makes the module in eval mode, on the CPU, float32. Positional inputs in the order of ``spec.inputs``,
    a tensor or a tuple of tensors in the order of ``spec.outputs``."""
    spec: InputSpec
    """Names, shapes and dtypes."""
    fingerprint: str
    """Hex digest of the weights and of everything else that decides the outputs; keys the cache of graphs."""
    float32: tuple[str, ...] = ()
    """Where half precision must not go: patterns of node paths (:func:`engine.runners.precision.path_of`)."""


class Runner(ABC):
    """One opened model. The checks are here once; a subclass computes."""

    def __init__(self, name: str, spec: InputSpec) -> None:
        self.name = name
        self.spec = spec
        self._open = True

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Compute the outputs of one batch.

        Raises:
            InputMismatch: ``feeds`` is not what :attr:`spec` declares, or the runner is closed.
        """
        if not self._open:
            raise InputMismatch(f"runner {self.name} is closed; open another")
        batch = self.spec.check(feeds)
        outputs = self._compute({spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in self.spec.inputs})
        for spec in self.spec.outputs:
            spec.check(outputs[spec.name], "output")
            if outputs[spec.name].shape[0] != batch:
                raise InputMismatch(f"output {spec.name!r} has batch {outputs[spec.name].shape[0]}; {batch} went in")
        return outputs

    def close(self) -> None:
        """Give back the device's memory; closing twice is allowed."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _compute(self, feeds: Arrays) -> Arrays:
        """Outputs for checked, contiguous inputs in the order of the specification."""

    @abstractmethod
    def _release(self) -> None:
        """Free what the subclass holds; called once."""


class RoundTrips(ABC):
    """A denoiser's runner that keeps the whole encode-decode loop on its device.

    What :func:`engine.odeed.round_trip` asks first: on a GPU a copy to the host for each evaluation would cost more
    than the evaluation.
    """

    @abstractmethod
    def round_trip(
        self, feeds: Mapping[str, npt.NDArray[Any]], schedule: Schedule, solver: SolverName
    ) -> npt.NDArray[Any]:
        """Encode ``feeds["x"]`` up the schedule and decode it again; the state is float32 throughout.  (N, C, H, W)

        Args:
            feeds: the denoiser's inputs without ``sigma``, which the schedule gives.
            schedule: noise levels of both legs.
            solver: of both legs.

        Raises:
            InputMismatch: ``feeds`` is not what the specification declares, or the runner is closed.
        """
