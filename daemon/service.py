"""Runs a wired daemon: its loops in threads, until it is told to stop or has nothing left to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from daemon.app import App
from daemon.clock import Clock
from daemon.errors import StoreUnavailable
from daemon.score.model_change import strange_areas
from engine.errors import BuildStopped, DeviceLost

log = structlog.get_logger(__name__)

COUNTS_EVERY_S = 5.0
"""How often the store is counted for the metrics."""
TURN_S = 0.2
"""How often the main thread looks after its loops."""


@dataclass
class _Loops:
    """The threads of one run."""

    stop: threading.Event
    threads: list[threading.Thread] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def start(self, name: str, target: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                target()
            except Exception:
                # A loop that dies takes the process with it: its supervisor restarts a daemon that is whole.
                log.exception("a loop failed; the daemon stops", action="loop.failed", loop=name)
                self.failed.append(name)
                self.stop.set()

        thread = threading.Thread(target=guarded, name=name)
        self.threads.append(thread)
        thread.start()


def serve(app: App, stop: threading.Event, clock: Clock, *, until_idle: bool = False) -> bool:
    """Run the app's loops, as its role says, until ``stop`` is set; then hand back what is in hand.

    Args:
        app: a wired daemon.
        stop: set by a signal handler or a test; a loop that fails sets it too.
        clock: waited on.
        until_idle: stop by itself once every catalog was polled, every scene has ended and every alert is sent.

    Returns:
        Whether every loop ended in good order.
    """
    loops = _Loops(stop=stop)
    if app.http is not None:
        log.info("metrics and health are served", action="http.start", url=app.http.url)
    if app.role in ("all", "watch"):
        watcher = app.watcher()
        for name in app.catalogs:
            app.heartbeats.expect(f"watch {name}", within_s=600.0)
        loops.start("watch", lambda: watcher.run(stop))
    if app.role in ("all", "score"):
        app.metrics.workers(app.settings.worker.count)
        _tell_model_change(app)
        for number in range(app.settings.worker.count):
            _start_worker(app, loops, number)
    if app.role in ("all", "publish"):
        relay = app.relay()
        loops.start("publish", lambda: relay.run(stop))
    counted_at = float("-inf")
    while not clock.wait(stop, TURN_S):
        try:
            if clock.monotonic() - counted_at >= COUNTS_EVERY_S:
                counted_at = clock.monotonic()
                app.metrics.store(app.store.counts())
            if until_idle and app.polled >= set(app.catalogs) and app.store.idle():
                log.info("nothing is left to do", action="stop.idle")
                break
        except StoreUnavailable as error:
            log.warning("the store does not answer; trying again", action="store.wait", error=str(error))
    stop.set()
    log.info("stopping: work in hand is handed back", action="stop.begin")
    deadline = clock.monotonic() + app.settings.worker.drain_s
    for thread in loops.threads:
        thread.join(max(0.0, deadline - clock.monotonic()))
    late = [thread.name for thread in loops.threads if thread.is_alive()]
    if late:
        log.error("loops did not stop in time; their leases run out by themselves", action="stop.late", loops=late)
    else:
        log.info("stopped", action="stop.end")
    return not (late or loops.failed)


def _tell_model_change(app: App) -> None:
    """Say which places this model does not know yet, though another one did."""
    try:
        strange = strange_areas(app.store.look_counts(), app.model, app.areas)
    except StoreUnavailable as error:
        log.warning("the store does not answer; trying again", action="store.wait", error=str(error))
        return
    for each in strange:
        log.warning(
            each.sentence,
            action="model.changed",
            area=each.area,
            looks=each.looks,
            looks_of_others=each.looks_of_others,
        )


def _start_worker(app: App, loops: _Loops, number: int) -> None:
    worker, name = app.worker(number), f"score {number}"
    # The longest legal silence is one read of a whole scene's first block.
    app.heartbeats.expect(name, within_s=2 * app.settings.access.read_timeout_s + 60.0)

    def work() -> None:
        def beat() -> None:
            app.heartbeats.beat(name)

        try:
            # Before the first claim: networks that do not reproduce their golden batch here must never judge a scene.
            app.open_engine(loops.stop, beat)
            worker.run(loops.stop, beat)
        except BuildStopped as error:
            log.info("stopped before the networks were open", action="engine.stopped", reason=str(error))
        except DeviceLost:
            app.device_lost.set()
            raise

    loops.start(name, work)
