"""What shows how a run goes on: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.running.loop import Progress


class StepDisplay:
    """A bar with loss, learning rate and images per second.

    Where there is no terminal (a log file), a plain line with the time left: the first step, then one every
    ``every_s`` seconds, and the last step.
    """

    def __init__(self, console: Console, steps: int, *, clock: Callable[[], float], every_s: float = 30.0) -> None:
        self.console = console
        self.last: Progress | None = None
        self._clock = clock
        self._every_s = every_s
        self._said: float | None = None
        self._smooth: dict[str, float] = {}
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=steps)

    def __enter__(self) -> StepDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Take in one step; losses are shown as their running mean."""
        self.last = progress
        for name, value in progress.report.losses.items():
            self._smooth[name] = 0.95 * self._smooth.get(name, value) + 0.05 * value
        losses = "  ".join(f"{name} {value:.4f}" for name, value in self._smooth.items())
        text = f"{losses}  lr {progress.report.lr:.2e}  {progress.images_per_s:.0f} images/s"
        self._bar.update(self._task, completed=progress.step, description=text)
        if self.console.is_terminal:
            return
        now = self._clock()
        if self._said is None or now - self._said >= self._every_s or progress.step == progress.steps:
            self._said = now
            left = f"{progress.step}/{progress.steps}  {text}  ETA {_minutes(progress.eta_s)}"
            # soft_wrap: a log file has no width.
            self.console.print(left, highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
