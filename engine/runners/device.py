"""The thin line between our code and a GPU: what lanes and runners ask of it, in a few calls.

:class:`engine.runners.cuda.CudaQueue` is the real thing. :class:`HostQueue` does the same on the CPU, at once and in
order, so that batching, memory, faults and loops are tested on machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from engine.runners.base import InputSpec
from engine.runners.build_watch import BuildWatch
from engine.runners.plan_cache import DeviceIdentity

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The batches that a plan is made for."""

    largest: int
    """Rows of the largest batch, for which the plan is tuned; smaller ones run too."""

    @property
    def label(self) -> str:
        """For the plan's key: smallest, usual and largest batch."""
        return f"1,{self.largest},{self.largest}"


class Bound(Protocol):
    """A network that reads and writes given tensors."""

    def enqueue(self) -> None:
        """Put one evaluation on the queue; returns before it is done. Raises what the device raises."""
        ...


class Plan(Protocol):
    """A network that the device has loaded. Several threads may bind it at once."""

    scratch_bytes: int
    """Device memory that one evaluation needs beside inputs and outputs; 0 where the plan sees to it itself."""

    def bind(self, tensors: Tensors, queue: Queue, scratch: torch.Tensor | None) -> Bound:
        """Set inputs and outputs, by name, for evaluations on a queue.

        ``scratch`` is as large as asked for; networks that share it never run at once.
        """
        ...


class Queue(Protocol):
    """Work in order, beside that of other queues: a CUDA stream. Used by one thread at a time."""

    device: torch.device
    """Where tensors of this queue live."""
    handle: int
    """The stream, for a library that takes it as a number."""

    def current(self) -> Any:
        """Context in which torch's own operations join this queue."""
        ...

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that copies can be made from while other work runs (pinned)."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do ``work`` once, then give back what does it again in one call (a CUDA graph)."""
        ...

    def wait(self) -> None:
        """Block until all work of the queue is done; raises what went wrong in it."""
        ...


class PlanMaker(Protocol):
    """What builds and loads plans: TensorRT."""

    def identity(self) -> DeviceIdentity:
        """What plans hold for."""
        ...

    def build(
        self, graph: bytes, spec: InputSpec, profile: BatchProfile, timing: bytes, watch: BuildWatch
    ) -> tuple[bytes, bytes]:
        """Plan and timing cache of a graph; takes minutes.

        Raises:
            BuildStopped: the watch said so.
            RunnerUnavailable: the graph cannot be built here.
        """
        ...

    def load(self, plan: bytes) -> Plan:
        """Load a plan that was built here.

        Raises:
            RunnerUnavailable: it is not for this device and version.
        """
        ...


class HostQueue:
    """A queue of the CPU: everything is done when its call returns."""

    device = torch.device("cpu")
    handle = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """Nothing to switch."""
        yield

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Plain memory."""
        return torch.empty(shape, dtype=dtype)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work itself."""
        work()
        return work

    def wait(self) -> None:
        """Nothing is outstanding."""
