"""One training run from its configuration to its folder: what all ``vigie train`` commands that train share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors
import torch
import typer
from rich.console import Console

from training.align.pictures import EncoderPictures
from training.align.xstars import XstarsTraining
from training.cli.common import errors_told, print_json
from training.denoise.denoiser import DenoiserTraining
from training.denoise.pictures import Pictures
from training.running.display import StepDisplay
from training.running.distributed import World, joined
from training.running.loop import Progress, measure_steps, run
from training.running.progresslog import ProgressLog
from training.running.runfolder import CONFIG, machine, write_run

Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps; the schedules are fitted to it.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Instead of --steps: as many as fit, by a short timing.")]
Out = Annotated[Path, typer.Option(help="Run folder to write; a killed run in it goes on where its checkpoint stands.")]

PresetFile = Annotated[Path | None, typer.Option(help="TOML or JSON file of preset fields that replace the preset's.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: CUDA where there is one.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="What the network computes in: fp32 or bf16.")]
Checkpoints = Annotated[float, typer.Option("--checkpoint-every", min=0.0, help="Seconds between checkpoints.")]

Trainees = DenoiserTraining | XstarsTraining
Prepared = tuple[Callable[[], Trainees], dict[str, Any]]
"""What makes a fresh training, and its configuration."""


def carry_out(
    prepare: Callable[[World], Prepared],
    out: Path,
    *,
    steps: int | None,
    minutes: float | None,
    threads: int,
    dry_run: bool,
    device: str = "cpu",
    pictures: bool = False,
    checkpoint_every_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train and write the run folder, or print the configuration.

    Args:
        prepare: opens the data, given the processes of the run.
        out: the run folder.
        steps: length of the run; else ``minutes``, else the preset's own ``steps``.
        minutes: time to fill.
        threads: CPU threads of each process.
        dry_run: print and stop.
        device: ``cpu``, ``cuda`` or ``auto``.
        pictures: whether pictures are drawn.
        checkpoint_every_s: seconds between checkpoints.
        environment: where torchrun tells each process who it is; the process's own if None.
    """
    if steps is not None and minutes is not None:
        raise typer.BadParameter("give either --steps or --minutes")
    torch.set_num_threads(threads)
    with errors_told(), joined(os.environ if environment is None else environment, device) as world:
        console = Console(stderr=True, quiet=not world.leads)
        make, config = prepare(world)
        if steps is None and minutes is None:
            steps = config["preset"].get("steps")
            if steps is None:
                raise typer.BadParameter("give either --steps or --minutes")
        config |= {"processes": world.size, "device": world.device.type}
        if dry_run:
            if world.leads:
                print_json({**config, "steps": steps, "minutes": minutes, "threads": threads})
            return
        if steps is None:
            console.print(f"timing a few steps to fill {minutes} minutes ...")
            steps = world.agree(measure_steps(make, minutes or 0.0, time.monotonic))
        if world.leads:
            out.mkdir(parents=True, exist_ok=True)
        seconds = _run(
            make(),
            config,
            out,
            steps,
            threads,
            world,
            console,
            pictures=pictures,
            checkpoint_every_s=checkpoint_every_s,
        )
    console.print(f"{out}: {steps} steps in {seconds / 60:.1f} minutes")


def _run(
    trainee: Trainees,
    config: Mapping[str, Any],
    out: Path,
    steps: int,
    threads: int,
    world: World,
    console: Console,
    *,
    pictures: bool,
    checkpoint_every_s: float,
) -> float:
    clock = time.monotonic
    log = ProgressLog(out, clock=clock)
    book: Pictures | EncoderPictures | None = None
    if pictures and world.leads:
        if isinstance(trainee, DenoiserTraining):
            book = Pictures(trainee, out, clock=clock)
        else:
            book = EncoderPictures(trainee, out, clock=clock)
    # A run may be continued on another device or by more processes; its results then differ by rounding alone.
    lasting = {key: value for key, value in config.items() if key not in ("processes", "device")}
    with StepDisplay(console, steps, clock=clock) as display:

        def show(progress: Progress) -> None:
            display.show(progress)
            if world.leads:
                log.show(progress)

        seconds = run(
            trainee,
            out,
            steps,
            clock=clock,
            show=show,
            checkpoint_every_s=checkpoint_every_s,
            configuration=lasting,
            world=world,
            at_checkpoint=None if book is None else book.now_and_then,
        )
    if display.last is None and (out / CONFIG).is_file():
        console.print(f"{out} was finished before; its weights stay as they are")
    elif world.leads:
        last = dict(display.last.report.losses) if display.last else {}
        measured = {"steps": steps, "seconds": round(seconds, 1), "last_losses": last}
        write_run(out, {**config, **measured, **machine(threads), **_versions(world)}, trainee.weights())
    if book is not None:
        book.draw()
    return seconds


def _versions(world: World) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    return {"gpu": gpu, "numpy": np.__version__, "safetensors": safetensors.__version__}
