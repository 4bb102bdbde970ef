"""The loop that all trainings share: steps, progress, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from training.errors import RunInvalid
from training.running.checkpoint import load_checkpoint, save_checkpoint
from training.running.distributed import ALONE, World

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did."""

    losses: Mapping[str, float]
    """By name; ``loss`` is the one that is minimised."""
    lr: float
    images: int
    measures: Mapping[str, float] = field(default_factory=dict)
    """What was found beside the losses, by name, such as an accuracy within the batch."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is shown while a run goes on."""

    step: int
    """Steps done."""
    steps: int
    report: StepReport
    images_per_s: float
    """Of this call, all processes together."""
    seconds: float
    """Spent on the run so far, earlier calls included."""
    eta_s: float
    """Still to go, at the pace of this call."""


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
    configuration: Mapping[str, Any] | None = None,
    world: World = ALONE,
    at_checkpoint: Callable[[], None] | None = None,
) -> float:
    """Train to ``steps``, from the folder's checkpoint if there is one.

    Args:
        trainee: what is trained; a replica in each process.
        folder: the run's, where the first process writes checkpoints and all read them.
        steps: number of the last step, counted from 1.
        clock: seconds.
        show: told of every step.
        checkpoint_every_s: seconds between checkpoints.
        configuration: what the run is; a checkpoint of another one is refused.
        world: the processes of the run.
        at_checkpoint: called in the first process after each checkpoint but the last.

    Returns:
        Seconds spent on the run, those before its last interruption included as far as they were kept.

    Raises:
        RunInvalid: the loss is not finite, or the checkpoint is of a run with another number of steps or configuration.
        ProcessLost: another process ended or fell silent.
    """
    done, earlier_s = _resume(trainee, folder, steps, configuration, world)
    started = saved = clock()
    images = 0
    for index in range(done, steps):
        report = trainee.step(index, steps)
        if not math.isfinite(report.losses["loss"]):
            raise RunInvalid(f"the loss is {report.losses['loss']} at step {index}; lower the learning rate")
        images += report.images
        now = clock()
        elapsed = max(now - started, 1e-9)
        show(
            Progress(
                step=index + 1,
                steps=steps,
                report=report,
                images_per_s=images / elapsed,
                seconds=earlier_s + elapsed,
                eta_s=elapsed / (index + 1 - done) * (steps - index - 1),
            )
        )
        last = index + 1 == steps
        if world.leads and (last or now - saved >= checkpoint_every_s):
            counters = {"step": index + 1, "steps": steps, "milliseconds": round(1000 * (earlier_s + elapsed))}
            save_checkpoint(folder, trainee.tensors(), counters, configuration)
            if at_checkpoint is not None and not last:
                at_checkpoint()
            saved = clock()
    return earlier_s + clock() - started


def _resume(
    trainee: Trainee, folder: Path, steps: int, configuration: Mapping[str, Any] | None, world: World
) -> tuple[int, float]:
    """Steps done before, and the seconds that they took."""
    found = load_checkpoint(folder, configuration)
    step, seconds = 0, 0.0
    if found is not None:
        tensors, counters = found
        if counters["steps"] != steps:
            raise RunInvalid(
                f"{folder} holds a run of {counters['steps']} steps, and {steps} are asked for; its schedules would "
                f"not fit: give --steps {counters['steps']}, or another --out"
            )
        trainee.load(tensors, counters)
        step, seconds = counters["step"], counters.get("milliseconds", 0) / 1000
    world.require_same(step, "the checkpoint's step")
    return step, seconds
