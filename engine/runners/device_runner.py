"""A runner whose network lives on a device: several batches in flight, and a batch that shrinks when memory is full."""

from __future__ import annotations

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import DeviceMemoryFull, InputMismatch, VigieError
from engine.ode import Schedule, SolverName
from engine.runners.base import Arrays, InputSpec, RoundTrips, Runner
from engine.runners.device import Plan, Queue
from engine.runners.faults import MemoryFull, told_apart
from engine.runners.lanes import Evaluation, Lane, Loop, Work, joined, split

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class _Berth:
    """A place for one batch in flight; its lane is made when it is first used."""

    lane: Lane | None = None


class DeviceRunner(Runner, RoundTrips):
    """Runs a plan on as many lanes as there are batches in flight.

    A call takes one lane and, if it has more rows than fit one batch, further ones that are idle. Memory that is full
    halves the largest batch for good, and the rows are tried again. A broken context is
    :class:`~engine.errors.DeviceLost`.
    """

    def __init__(
        self,
        name: str,
        spec: InputSpec,
        plan: Plan,
        *,
        make_queue: Callable[[], Queue],
        probe: Callable[[], None],
        largest: int,
        lanes: int = 2,
        graphs: bool = True,
        release: Callable[[], None] = lambda: None,
        on_halving: Callable[[], None] = lambda: None,
    ) -> None:
        """Open; lanes are made when they are first used.

        Args:
            name: for messages.
            spec: of the network.
            plan: the loaded network.
            make_queue: makes a queue for each lane.
            probe: waits for the device, and raises if its context is broken.
            largest: rows of the largest batch.
            lanes: batches in flight.
            graphs: whether work is recorded and replayed; else each call does it step by step.
            release: gives the device's free memory back.
            on_halving: called when memory was full, for a counter.
        """
        super().__init__(name, spec)
        self.largest = largest
        """Rows of the largest batch from now on."""
        self._plan: Plan | None = plan
        self._make_queue = make_queue
        self._probe = probe
        self._free_memory = release
        self.graphs = graphs
        """Whether lanes made from now on record their work."""
        self._on_halving = on_halving
        self._lanes = lanes
        self._idle: SimpleQueue[_Berth] = SimpleQueue()
        for _ in range(lanes):
            self._idle.put(_Berth())
        self._halving = threading.Lock()

    def round_trip(
        self, feeds: Mapping[str, npt.NDArray[Any]], schedule: Schedule, solver: SolverName
    ) -> npt.NDArray[Any]:
        """As :class:`~engine.runners.base.RoundTrips` says, in one call of the device for each batch."""
        self._require_open()
        batch = len(feeds["x"]) if "x" in feeds else 0
        self.spec.check({**feeds, "sigma": np.ones(batch, dtype=np.float32)})
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        return self._through(arrays, Loop(schedule=schedule, solver=solver))[self.spec.outputs[0].name]

    def _compute(self, feeds: Arrays) -> Arrays:
        return self._through(feeds, Evaluation())

    def _release(self) -> None:
        # Nothing runs now, so that every berth is idle.
        self._idle = SimpleQueue()
        self._plan = None
        self._free_memory()

    def _require_open(self) -> None:
        if not self._open:
            raise InputMismatch(f"runner {self.name} is closed; open another")

    def _through(self, feeds: Arrays, work: Work) -> Arrays:
        """All rows, in order, in batches that fit."""
        parts: list[Arrays] = []
        total = len(next(iter(feeds.values())))
        while (done := sum(_rows(part) for part in parts)) < total:
            largest, full = self.largest, ""
            try:
                self._flight(split(feeds, done, total - done), work, largest, parts)
            except MemoryFull as error:
                full = str(error)
            # Outside of the clause: the error's frames hold the very tensors that are to be freed.
            if full:
                self._halve(largest, full)
        return joined(parts)

    def _flight(self, feeds: Arrays, work: Work, largest: int, parts: list[Arrays]) -> None:
        """Send all rows, as many batches at once as there are idle berths, and add what comes back to ``parts``."""
        total = _rows(feeds)
        berths = self._berth(-(-total // largest))
        flying: deque[Lane] = deque()
        sound = False
        try:
            for number, at in enumerate(range(0, total, largest)):
                if len(flying) == len(berths):
                    parts.append(self._guarded(flying.popleft().finish))
                lane = self._lane(berths[number % len(berths)], largest)
                self._guarded(partial(lane.start, split(feeds, at, largest), work))
                flying.append(lane)
            while flying:
                parts.append(self._guarded(flying.popleft().finish))
            sound = True
        finally:
            for berth in berths:
                if not sound:
                    berth.lane = None  # What a fault left in it is not known; another is made in its place.
                self._idle.put(berth)

    def _berth(self, wanted: int) -> list[_Berth]:
        """One berth, waited for, and up to ``wanted`` where more are idle."""
        berths = [self._idle.get()]
        while len(berths) < wanted:
            try:
                berths.append(self._idle.get_nowait())
            except Empty:
                break
        return berths

    def _lane(self, berth: _Berth, largest: int) -> Lane:
        if berth.lane is None or (berth.lane.largest, berth.lane.graphs) != (largest, self.graphs):
            berth.lane = None  # Its memory first, then the new one's.
            berth.lane = self._guarded(partial(self._new_lane, largest))
        return berth.lane

    def _new_lane(self, largest: int) -> Lane:
        if self._plan is None:
            raise InputMismatch(f"runner {self.name} is closed; open another")
        return Lane(self._plan, self.spec, self._make_queue(), largest=largest, graphs=self.graphs)

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except VigieError:
            raise
        except Exception as error:
            raise told_apart(error, self._probe) from error

    def _halve(self, largest: int, told: str) -> None:
        if largest == 1:
            raise DeviceMemoryFull(
                f"runner {self.name}: not one tile fits into the device's memory ({told}); end other processes on it, "
                "or set device: cpu"
            )
        with self._halving:
            # Of two threads that met the limit at once, one halves.
            if self.largest == largest:
                self.largest = largest // 2
                log.warning(
                    "The device's memory is full; runner %s goes on with batches of %d: %s",
                    self.name,
                    self.largest,
                    told,
                )
                self._on_halving()
        for berth in self._berth(self._lanes):
            berth.lane = None
            self._idle.put(berth)
        gc.collect()
        self._free_memory()


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
