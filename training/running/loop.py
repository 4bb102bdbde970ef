"""The loop that all trainings share: steps, progress, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from training.errors import RunInvalid
from training.running.checkpoint import load_checkpoint, save_checkpoint

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did."""

    losses: Mapping[str, float]
    """By name; ``loss`` is the one that is minimised."""
    lr: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is shown while a run goes on."""

    step: int
    """Steps done."""
    steps: int
    report: StepReport
    images_per_s: float


class Trainee(Protocol):
    """A training whose step is a function of (state, step number): no hidden randomness.

    Whatever is random in step k is drawn from generators seeded by (run seed, k), so a resumed run repeats it.
    """

    def step(self, index: int, steps: int) -> StepReport:
        """Do the step ``index`` of ``steps``, counted from 0."""

    def tensors(self) -> Mapping[str, Tensor]:
        """All state, by name."""

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up the state of :meth:`tensors`."""


def measure_steps(make: Callable[[], Trainee], minutes: float, clock: Clock, *, probes: int = 4) -> int:
    """How many steps fit in ``minutes``, by timing a throw-away training; at least 1.

    Fixing the number beforehand makes ``--minutes`` a run that ``--steps`` can repeat exactly.
    """
    trainee = make()
    trainee.step(0, probes + 1)
    started = clock()
    for index in range(1, probes + 1):
        trainee.step(index, probes + 1)
    return max(1, math.floor(minutes * 60 * probes / max(clock() - started, 1e-9)))


def run(
    trainee: Trainee,
    folder: Path,
    steps: int,
    *,
    clock: Clock,
    show: Callable[[Progress], None],
    checkpoint_every_s: float = 60.0,
) -> float:
    """Train to ``steps``, from the folder's checkpoint if there is one; seconds spent in this call.

    Raises:
        RunInvalid: the loss is not finite, or the checkpoint is of a run with another number of steps.
    """
    done = _resume(trainee, folder, steps)
    started = saved = clock()
    images = 0
    for index in range(done, steps):
        report = trainee.step(index, steps)
        if not math.isfinite(report.losses["loss"]):
            raise RunInvalid(f"the loss is {report.losses['loss']} at step {index}; lower the learning rate")
        images += report.images
        now = clock()
        rate = images / max(now - started, 1e-9)
        show(Progress(step=index + 1, steps=steps, report=report, images_per_s=rate))
        if now - saved >= checkpoint_every_s or index + 1 == steps:
            save_checkpoint(folder, trainee.tensors(), {"step": index + 1, "steps": steps})
            saved = now
    return clock() - started


def _resume(trainee: Trainee, folder: Path, steps: int) -> int:
    found = load_checkpoint(folder)
    if found is None:
        return 0
    tensors, counters = found
    if counters["steps"] != steps:
        raise RunInvalid(
            f"{folder} holds a run of {counters['steps']} steps, and {steps} are asked for; its schedules would not "
            f"fit: give --steps {counters['steps']}, or another --out"
        )
    trainee.load(tensors, counters)
    return counters["step"]
