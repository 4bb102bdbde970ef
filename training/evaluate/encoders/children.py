"""Trainings as child processes: several at a time, each after the one it needs, all stopped in order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.errors import RunInvalid


@dataclass(frozen=True, kw_only=True)
class Job:
    """One child."""

    name: str
    command: Sequence[str]
    log: Path
    """Where its output goes, appended."""
    after: str | None = None
    """A job that has to end well before."""


@dataclass(kw_only=True)
class Children:
    """Runs jobs; a caller asks it to stop from a signal handler."""

    jobs: int
    """Children at a time."""
    pause: Callable[[float], object]
    """Waits so many seconds, or less."""
    say: Callable[[str], None]
    environment: Mapping[str, str] | None = None
    """Of the children; this process's own if None."""
    grace_s: float = 30.0
    """What a child gets to end in after it was asked to."""
    stopping: bool = False
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def stop(self) -> None:
        """Ask that no further job is begun and that children end; safe in a signal handler."""
        self.stopping = True

    def run(self, planned: Sequence[Job]) -> None:
        """Run all jobs. A job whose forerunner failed is not begun; the others go on.

        Raises:
            RunInvalid: a job failed, and the end of what it said; or a stop was asked for.
        """
        waiting = list(planned)
        failed: list[Job] = []
        by_name = {job.name: job for job in planned}
        try:
            while waiting or self._running:
                if self.stopping:
                    raise RunInvalid("stopped; the same command goes on where the checkpoints stand")
                names = {job.name for job in waiting} | set(self._running)
                lost = {job.name for job in failed}
                failed += [job for job in waiting if job.after in lost]
                waiting = [job for job in waiting if job.after not in lost]
                for job in [job for job in waiting if job.after not in names][: self.jobs - len(self._running)]:
                    waiting.remove(job)
                    self._begin(job)
                self.pause(0.2)
                for name, child in list(self._running.items()):
                    if child.poll() is not None:
                        del self._running[name]
                        self.say(f"{name}: {'finished' if child.returncode == 0 else f'ended by {child.returncode}'}")
                        failed += [by_name[name]] if child.returncode else []
        finally:
            self._end()
        if failed:
            told = "; ".join(f"{job.name}: {_last_lines(job.log)}" for job in failed)
            raise RunInvalid(f"trainings failed: {told}. Their logs have more; the same command tries them again")

    def _begin(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"{job.name}: {' '.join(job.command)}")
        with job.log.open("ab") as log:
            # A session of its own: a Ctrl-C of the terminal reaches this process alone, which stops them in order.
            self._running[job.name] = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.environment is None else dict(self.environment),
                start_new_session=True,
            )

    def _end(self) -> None:
        for child in self._running.values():
            child.terminate()
        for child in self._running.values():
            try:
                child.wait(self.grace_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._running.clear()


def _last_lines(log: Path, lines: int = 3) -> str:
    if not log.is_file():
        return "was not begun, since what it starts from failed"
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]) or "said nothing"
