"""A lane: one batch in flight, with buffers, a queue and recorded loops of its own.

Two lanes make an upload double-buffered: while one computes, the other's pixels go from pinned memory to the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.ode import Schedule, SolverName, encode_decode
from engine.runners.base import Arrays, ArraySpec, InputSpec
from engine.runners.device import Bound, Plan, Queue


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The network once: all inputs to all outputs."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The denoiser along the whole encode-decode path: ``x`` to its reconstruction, under the output's name."""

    schedule: Schedule
    solver: SolverName


Work = Evaluation | Loop


class Lane:
    """Used by one thread at a time. Batches are rounded up to a power of two, so that few loops are recorded."""

    def __init__(self, plan: Plan, spec: InputSpec, queue: Queue, *, largest: int, graphs: bool) -> None:
        """Allocate buffers for ``largest`` rows; raises what the device raises."""
        self.largest = largest
        self._plan = plan
        self._spec = spec
        self._queue = queue
        self.graphs = graphs
        arrays = (*spec.inputs, *spec.outputs)
        with queue.current():
            self._device = {each.name: _empty(each, largest, queue.device) for each in arrays}
            self._scratch = (
                torch.empty(plan.scratch_bytes, dtype=torch.uint8, device=queue.device) if plan.scratch_bytes else None
            )
        self._host = {each.name: queue.host(_shape(each, largest), _dtype(each)) for each in arrays}
        self._recorded: dict[tuple[Work, int], Callable[[], None]] = {}
        self._bound: dict[int, Bound] = {}
        self._pending: tuple[int, tuple[str, ...]] = (0, ())

    def start(self, feeds: Arrays, work: Work) -> None:
        """Put one batch of up to ``largest`` rows on the queue; raises what the device raises."""
        rows = len(next(iter(feeds.values())))
        size = padded(rows, self.largest)
        for name, array in feeds.items():
            staged = self._host[name].numpy()
            staged[:rows] = array
            staged[rows:size] = array[-1:]  # Any valid row will do; its result is not read.
        with self._queue.current(), torch.inference_mode():
            for name in feeds:
                self._device[name][:size].copy_(self._host[name][:size], non_blocking=True)
            self._do(work, size)
            for each in self._spec.outputs:
                self._host[each.name][:size].copy_(self._device[each.name][:size], non_blocking=True)
        self._pending = (rows, tuple(each.name for each in self._spec.outputs))

    def finish(self) -> Arrays:
        """Wait for the batch and give its outputs, which belong to the caller; raises what the device raises."""
        self._queue.wait()
        rows, names = self._pending
        return {name: self._host[name][:rows].numpy().copy() for name in names}

    def _do(self, work: Work, size: int) -> None:
        known = self._recorded.get((work, size))
        if known is not None:
            known()
            return
        todo = self._steps(work, size)
        if self.graphs:
            # The loop leaves its input as it was, so that it may be done twice.
            self._recorded[work, size] = self._queue.record(todo)
        else:
            todo()
            self._recorded[work, size] = todo

    def _steps(self, work: Work, size: int) -> Callable[[], None]:
        tensors = {name: tensor[:size] for name, tensor in self._device.items()}
        if not isinstance(work, Loop):
            return self._network(tensors, size).enqueue
        output = tensors[self._spec.outputs[0].name]
        start = tensors["x"]
        # The network reads its state from a buffer of its own: the start must outlast the loop.
        state = torch.empty_like(start)
        network = self._plan.bind({**tensors, "x": state}, self._queue, self._scratch)

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            state.copy_(x)
            tensors["sigma"].fill_(sigma)
            network.enqueue()
            return output

        def loop() -> None:
            trip = encode_decode(denoise, start, work.schedule, work.solver)
            output.copy_(trip.reconstruction)

        return loop

    def _network(self, tensors: dict[str, torch.Tensor], size: int) -> Bound:
        if size not in self._bound:
            self._bound[size] = self._plan.bind(tensors, self._queue, self._scratch)
        return self._bound[size]


def padded(rows: int, largest: int) -> int:
    """The smallest power of two that is no less than ``rows``, up to ``largest``."""
    return min(1 << (rows - 1).bit_length(), largest)


def _shape(spec: ArraySpec, rows: int) -> tuple[int, ...]:
    return tuple(rows if side == -1 else side for side in spec.shape)


def _dtype(spec: ArraySpec) -> torch.dtype:
    found: Any = torch.from_numpy(np.empty(0, dtype=np.dtype(spec.dtype))).dtype
    assert isinstance(found, torch.dtype)
    return found


def _empty(spec: ArraySpec, rows: int, device: torch.device) -> torch.Tensor:
    # Zeros: what a network is first tried on must not be whatever lay in memory.
    return torch.zeros(_shape(spec, rows), dtype=_dtype(spec), device=device)


def split(feeds: Arrays, at: int, rows: int) -> Arrays:
    """Rows ``at`` to ``at + rows`` of each array."""
    return {name: array[at : at + rows] for name, array in feeds.items()}


def joined(parts: list[Arrays]) -> Arrays:
    """Batches one after another, as one."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0]
    whole: dict[str, npt.NDArray[Any]] = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return whole
