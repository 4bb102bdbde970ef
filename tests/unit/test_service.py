"""Loops in threads: they end together, in time, or are named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from daemon.app import App
from daemon.clock import SystemClock
from daemon.errors import StoreUnavailable
from daemon.operate.health import Heartbeats
from daemon.score.judging import ModelIdentity
from daemon.service import serve
from daemon.store import LookCount
from engine.errors import BuildStopped, DeviceLost

DRAIN_S = 0.4

Loop = Callable[[threading.Event], None]


@dataclass
class FakeWorker:
    loop: Loop

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        beat()
        self.loop(stop)


@dataclass
class FakeApp:
    """The part of an app that is served: workers only."""

    loops: list[Loop]
    role: str = "score"
    http: None = None
    idle_after: int = 0
    """Turns until the store says that nothing is left."""
    faults: list[Exception] = field(default_factory=list)
    """What counting the store raises, one a turn."""
    looks: tuple[LookCount, ...] = ()
    """What the store holds of each area through each model."""
    counted: int = 0
    engine_opened: bool = False
    opening: Loop | None = None
    """What opening the networks is like; None: quick."""

    def __post_init__(self) -> None:
        self.settings = SimpleNamespace(
            worker=SimpleNamespace(count=len(self.loops), drain_s=DRAIN_S), access=SimpleNamespace(read_timeout_s=1.0)
        )
        self.heartbeats = Heartbeats(SystemClock())
        self.device_lost = threading.Event()
        self.catalogs: dict[str, Any] = {}
        self.polled: set[str] = set()
        self.metrics = SimpleNamespace(store=lambda counts: None, workers=lambda count: None)
        self.store = SimpleNamespace(counts=self.count, idle=self.is_idle, look_counts=lambda: self.looks)
        self.model = ModelIdentity(name="base", model_hash="new", families=("sentinel-2",))
        self.areas = {"valley": None, "hills": None}

    def open_engine(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        self.engine_opened = True
        if self.opening is not None:
            self.opening(stop)

    def worker(self, number: int) -> FakeWorker:
        return FakeWorker(self.loops[number])

    def count(self) -> None:
        self.counted += 1
        if self.faults:
            raise self.faults.pop()

    def is_idle(self) -> bool:
        self.idle_after -= 1
        return self.idle_after < 0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets loops that hang go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def well_behaved(stop: threading.Event) -> None:
    stop.wait()


def run(app: FakeApp, *, stop: threading.Event | None = None, until_idle: bool = False) -> tuple[bool, float]:
    began = time.monotonic()
    in_order = serve(cast("App", app), stop or threading.Event(), SystemClock(), until_idle=until_idle)
    return in_order, time.monotonic() - began


def test_stops_when_told(release: threading.Event) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    in_order, _ = run(FakeApp(loops=[well_behaved, well_behaved]), stop=stop)
    assert in_order


def test_stops_by_itself_when_nothing_is_left() -> None:
    app = FakeApp(loops=[well_behaved], idle_after=2)
    assert run(app, until_idle=True)[0]
    assert app.idle_after < 0
    assert app.engine_opened


def test_a_store_that_does_not_answer_is_waited_for() -> None:
    app = FakeApp(loops=[well_behaved], faults=[StoreUnavailable("down")])
    assert run(app, until_idle=True)[0]
    assert app.counted == 1  # the count that failed; the next is due in some seconds


def test_a_loop_that_fails_stops_the_others() -> None:
    ended = threading.Event()

    def breaks(stop: threading.Event) -> None:
        raise ValueError("a bug")

    def notes(stop: threading.Event) -> None:
        stop.wait()
        ended.set()

    in_order, _ = run(FakeApp(loops=[breaks, notes]))
    assert not in_order
    assert ended.is_set()


def test_loops_that_hang_share_one_deadline(release: threading.Event) -> None:
    stop = threading.Event()
    stop.set()
    in_order, seconds = run(FakeApp(loops=[lambda stop: cast("None", release.wait())] * 4), stop=stop)
    assert not in_order
    assert DRAIN_S <= seconds < 2 * DRAIN_S


def test_a_build_that_a_stop_ends_is_an_end_in_good_order() -> None:
    """Fault test 14: SIGTERM while TensorRT builds."""
    stop = threading.Event()

    def builds(stop: threading.Event) -> None:
        stop.wait()
        raise BuildStopped("stopped while building")

    threading.Timer(0.2, stop.set).start()
    in_order, _ = run(FakeApp(loops=[well_behaved], opening=builds), stop=stop)
    assert in_order


def test_a_broken_device_ends_the_service_and_is_told_apart() -> None:
    def breaks(stop: threading.Event) -> None:
        raise DeviceLost("an illegal memory access was encountered")

    app = FakeApp(loops=[breaks, well_behaved])
    in_order, _ = run(app)
    assert not in_order
    assert app.device_lost.is_set()
    other = FakeApp(loops=[well_behaved])
    run(other, until_idle=True)
    assert not other.device_lost.is_set()


def test_a_model_that_does_not_know_a_place_yet_is_said_once_at_the_start() -> None:
    looks = (
        LookCount(area="hills", model_hash="new", looks=3),
        LookCount(area="valley", model_hash="old", looks=12),
    )
    with capture_logs() as told:
        run(FakeApp(loops=[well_behaved, well_behaved], looks=looks, idle_after=1), until_idle=True)
    (line,) = (line for line in told if line["action"] == "model.changed")
    assert (line["log_level"], line["area"], line["looks"], line["looks_of_others"]) == ("warning", "valley", 0, 12)
    assert "vigie reembed --area 'valley'" in line["event"]
