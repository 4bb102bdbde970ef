"""One line that shows how a run goes on."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.running.loop import Progress


class StepDisplay:
    """A bar with loss, learning rate and images per second; plain lines now and then where there is no terminal."""

    def __init__(self, console: Console, steps: int, *, lines: int = 20) -> None:
        self.console = console
        self.every = max(1, steps // lines)
        self.last: Progress | None = None
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
        if not self.console.is_terminal and (progress.step % self.every == 0 or progress.step == progress.steps):
            self.console.print(f"{progress.step}/{progress.steps}  {text}", highlight=False)
