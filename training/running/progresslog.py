"""``progress.jsonl`` in the run folder: how a run went, for machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from training.running.loop import Progress

FILE = "progress.jsonl"


class ProgressLog:
    """One JSON object a line: step, steps, losses by name, lr, images_per_s, seconds, eta_s, and measures by name
    where a training has some.

    A line is written at the first step, then at most every ``every_s`` seconds, and at the last step. A run that goes
    on from a checkpoint first drops the lines of steps that it repeats, and a last line that a kill cut short.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float], every_s: float = 1.0) -> None:
        self.path = folder / FILE
        self._clock = clock
        self._every_s = every_s
        self._wrote: float | None = None

    def show(self, progress: Progress) -> None:
        """Take in one step."""
        now = self._clock()
        if self._wrote is None:
            self._keep_before(progress.step)
        elif now - self._wrote < self._every_s and progress.step != progress.steps:
            return
        self._wrote = now
        line: dict[str, object] = {
            "step": progress.step,
            "steps": progress.steps,
            "losses": dict(progress.report.losses),
            "lr": progress.report.lr,
            "images_per_s": round(progress.images_per_s, 2),
            "seconds": round(progress.seconds, 2),
            "eta_s": round(progress.eta_s, 1),
        }
        if progress.report.measures:
            line["measures"] = {name: round(value, 4) for name, value in progress.report.measures.items()}
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, sort_keys=True) + "\n")

    def _keep_before(self, step: int) -> None:
        if not self.path.is_file():
            return
        kept: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, self.path)  # noqa: PTH105 - atomic on one file system
