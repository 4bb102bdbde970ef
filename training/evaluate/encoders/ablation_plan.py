"""Which trainings the ablation of MSAD's modes needs, and what is left to do of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.errors import RunInvalid
from training.running.checkpoint import FILE, load_checkpoint
from training.running.runfolder import CONFIG, WEIGHTS, RunFolder

MODES = ("off", "position", "dense")
START = "start"
Kind = Literal["scratch", "start", "continual"]
State = Literal["finished", "started", "missing"]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training."""

    name: str
    """Of its folder."""
    kind: Kind
    msad: str
    seed: int
    options: tuple[str, ...]
    """Of ``vigie train xstars``, beside those of its length."""
    after: str | None = None
    """The run whose weights it starts from."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is trained, where and for how long."""

    out: Path
    ombria: Path
    classes: Path
    preset: str = "ablation"
    seeds: int = 3
    continual_seeds: int = 1
    steps: int | None = None
    """Of each run; else what fits ``minutes``; else the preset's."""
    minutes: float | None = None
    threads: int = 1
    adapt_to: str = "sentinel-2"
    """The sensor that continual runs are adapted to; the first one is aerial, whose classes are labelled."""
    hold_out: tuple[str, ...] = ()

    def runs(self) -> tuple[PlannedRun, ...]:
        """All trainings, those first that others wait for."""
        # Pairs of two sensors alone beside the aerial ones: another date of one sensor would take most of the steps.
        both = ("--pairs", f"ombria-radar={self.ombria}", "--classes", str(self.classes))
        scratch = [(mode, seed) for seed in range(self.seeds) for mode in MODES] + [("compat", 0)]
        start = (
            PlannedRun(
                name=START,
                kind="start",
                msad="off",
                seed=0,
                options=("--classes", str(self.classes), *self._common("off", 0)),
            ),
        )
        return (
            *(start if self.continual_seeds else ()),
            *(
                PlannedRun(
                    name=f"{mode}-{seed}",
                    kind="scratch",
                    msad=mode,
                    seed=seed,
                    options=(*both, *self._common(mode, seed)),
                )
                for mode, seed in scratch
            ),
            *(
                PlannedRun(
                    name=f"continual-{mode}-{seed}",
                    kind="continual",
                    msad=mode,
                    seed=seed,
                    options=(
                        *both,
                        *("--from", str(self.out / START), "--adapt-to", self.adapt_to),
                        *self._common(mode, seed),
                    ),
                    after=START,
                )
                for seed in range(self.continual_seeds)
                for mode in MODES
            ),
        )

    def state(self, run: PlannedRun) -> State:
        """How far a run is.

        Raises:
            RunInvalid: its folder holds a finished run of another preset, mode or seed.
        """
        folder = self.out / run.name
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            config = RunFolder.open(folder, "xstars").config
            found = (config["preset"]["name"], config["preset"]["msad"], config["seed"])
            if found != (self.preset, run.msad, run.seed):
                raise RunInvalid(
                    f"{folder} is a run of preset {found[0]}, MSAD {found[1]} and seed {found[2]}; the ablation plans "
                    f"{self.preset}, {run.msad} and {run.seed}: give another --out, or remove it"
                )
            return "finished"
        return "started" if (folder / FILE).is_file() else "missing"

    def arguments(self, run: PlannedRun) -> list[str]:
        """Of ``vigie``: the run's command. A started run keeps its number of steps, whatever would fit now.

        Raises:
            RunInvalid: its checkpoint cannot be read.
        """
        steps = self.steps
        if steps is None and self.state(run) == "started":
            kept = load_checkpoint(self.out / run.name)
            steps = kept[1]["steps"] if kept is not None else None
        length = ["--steps", str(steps)] if steps is not None else []
        if steps is None and self.minutes is not None:
            length = ["--minutes", f"{self.minutes:g}"]
        return ["train", "xstars", "--out", str(self.out / run.name), *run.options, *length]

    def _common(self, mode: str, seed: int) -> Sequence[str]:
        held_out = ("--hold-out", ",".join(self.hold_out)) if self.hold_out else ()
        return (
            *("--preset", self.preset, "--msad", mode, "--seed", str(seed), "--threads", str(self.threads)),
            *held_out,
        )
