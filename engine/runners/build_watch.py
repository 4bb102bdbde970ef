"""What a long build tells meanwhile, and whether it shall go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine.errors import BuildStopped

log = logging.getLogger(__name__)


class BuildWatch:
    """Told of every step of a build; may be called from any thread.

    Args:
        stop: asked at each step; true ends the build.
        beat: called at each step, for whoever watches that the process advances.
    """

    def __init__(self, *, stop: Callable[[], bool] = lambda: False, beat: Callable[[], None] = lambda: None) -> None:
        self._stop = stop
        self._beat = beat
        self._lock = threading.Lock()
        self._what = ""
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        """Phase to its parent, steps done, steps in all."""

    @property
    def doing(self) -> str:
        """What is going on, such as ``building sentinel-2 denoiser: Building engine 40 %``; empty: nothing."""
        with self._lock:
            outer = [(name, done, steps) for name, (parent, done, steps) in self._phases.items() if parent is None]
            told = "".join(f": {name} {100 * done // max(steps, 1)} %" for name, done, steps in outer[-1:])
            return f"{self._what}{told}"

    def begin(self, what: str) -> None:
        """Say what is built now; empty text: nothing any more."""
        with self._lock:
            self._what = what
            self._phases.clear()

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        """A phase with so many steps begins, within another or at the top."""
        with self._lock:
            self._phases[name] = (parent, 0, steps)

    def step(self, name: str, number: int) -> bool:
        """A step of a phase is done; returns whether to go on."""
        with self._lock:
            parent, before, steps = self._phases.get(name, (None, 0, 1))
            done = min(number + 1, steps)
            self._phases[name] = (parent, done, steps)
        # A line for each quarter of what takes long: enough to see that it goes on.
        if parent is None and steps >= 4 and 4 * done // steps > 4 * before // steps:
            log.info("%s", self.doing)
        self._beat()
        return not self._stop()

    def end(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._phases.pop(name, None)

    def check(self) -> None:
        """Beat, and raise :class:`~engine.errors.BuildStopped` where the build shall not go on."""
        self._beat()
        if self._stop():
            raise BuildStopped(f"stopped while {self._what or 'opening a network'}; it is done again at the next start")
