"""``vigie train ...``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from training.align.xstars import XstarsTraining, open_sources
from training.cli.common import DryRun, Seed, Threads, errors_told, print_json
from training.data.quantiles import match_quantiles
from training.denoise.denoiser import DenoiserTraining
from training.denoise.normal_tiles import measure, open_tiles
from training.evaluate.sweep import sweep_settings
from training.presets import DENOISERS, ENCODERS, as_json, denoiser_preset, encoder_preset
from training.running.display import StepDisplay
from training.running.loop import measure_steps, run
from training.running.runfolder import RunFolder, machine, write_run

train = typer.Typer(help="Train the networks that the daemon serves.", no_args_is_help=True)

Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps; the schedules are fitted to it.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Instead of --steps: as many as fit, by a short timing.")]
Out = Annotated[Path, typer.Option(help="Run folder to write; a killed run in it goes on where its checkpoint stands.")]


@train.command()
def denoiser(
    data: Annotated[Path, typer.Option(help="Folder of training images in the preset's layout.")],
    out: Out,
    preset: Annotated[str, typer.Option(help=f"One of: {', '.join(DENOISERS)}.")] = "sentinel-2",
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Tiles per step, instead of the preset's.")] = None,
    hold_out: Annotated[str | None, typer.Option(help="Event blocks to leave out, such as B,C,K.")] = None,
    seed: Seed = 0,
    threads: Threads = 2,
    dry_run: DryRun = False,
) -> None:
    """Train an EDM denoiser on normal images of one family."""

    def prepare() -> tuple[Callable[[], DenoiserTraining], dict[str, Any]]:
        chosen = denoiser_preset(preset)
        chosen = replace(chosen, batch=batch) if batch else chosen
        chosen = replace(chosen, held_out_events=tuple(hold_out.split(","))) if hold_out else chosen
        tiles = open_tiles(chosen, data)
        moments = measure(tiles.pool, chosen.tile_px, seed)
        config = {
            "kind": "denoiser",
            "preset": as_json(chosen),
            "seed": seed,
            "data": {chosen.layout: tiles.digest},
            "images": len(tiles.pool),
            "mean": moments.mean,
            "sigma_data": moments.sigma,
        }
        return lambda: DenoiserTraining(chosen, tiles, moments, seed), config

    _train(prepare, out, steps, minutes, threads, dry_run)


@train.command()
def xstars(
    out: Out,
    ombria: Annotated[Path | None, typer.Option(help="Folder in the OMBRIA layout.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Aerial images in one sub-folder per class.")] = None,
    preset: Annotated[str, typer.Option(help=f"One of: {', '.join(ENCODERS)}.")] = "tiny",
    msad: Annotated[str | None, typer.Option(help="position or off, instead of the preset's.")] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    threads: Threads = 2,
    dry_run: DryRun = False,
) -> None:
    """Train the X-STARS encoder by DINO and the multi-sensor alignment loss."""

    def prepare() -> tuple[Callable[[], XstarsTraining], dict[str, Any]]:
        chosen = encoder_preset(preset)
        chosen = replace(chosen, msad=msad) if msad else chosen
        pools, sources, digests = open_sources(chosen, ombria, classes)
        config = {
            "kind": "xstars",
            "preset": as_json(chosen),
            "seed": seed,
            "data": digests,
            "images": sum(len(pool) for pool in pools),
            "pairs": sorted({source.sensors for source in sources}),
        }
        return lambda: XstarsTraining(chosen, pools, sources, seed), config

    _train(prepare, out, steps, minutes, threads, dry_run)


@train.command()
def quantiles(
    data: Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")],
    reference: Annotated[list[Path], typer.Option(help="Sentinel-2 GeoTIFF in reflectance of 1e-4; give several.")],
    sensor: Annotated[str, typer.Option(help="Sensor of the references.")] = "sentinel-2-l1c",
    per_band: Annotated[bool, typer.Option("--per-band", help="A gain for each band instead of one for all.")] = False,
) -> None:
    """Derive what an 8-bit number of OMBRIA is in reflectance, by matching quantiles with real reflectance."""
    with errors_told():
        from training.data.references import ombria_numbers, reflectance_pixels

        preset = denoiser_preset("sentinel-2")
        found = match_quantiles(
            ombria_numbers(data, preset.held_out_events),
            {path.parent.name + "/" + path.name: reflectance_pixels(path, sensor, preset.bands) for path in reference},
            preset.bands,
            per_band=per_band,
        )
    print_json({"bands": found.bands, "gains": found.gains, "by_reference": dict(found.by_reference)})


@train.command()
def sweep(
    run: Annotated[Path, typer.Option(help="Run folder of a denoiser.")],
    data: Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")],
    steps: Annotated[list[int], typer.Option(help="Steps of one leg; give several.")] = [2, 3, 4, 5, 8],  # noqa: B006
    ratio: Annotated[list[float], typer.Option(help="σ_max / σ_data; give several.")] = [10, 40, 160],  # noqa: B006
    tiles: Annotated[int, typer.Option(min=1, help="Dry tiles and flooded tiles, each.")] = 100,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Try ODEED settings on the event blocks that were trained on: flooded against dry tiles of after-images."""
    console = Console(stderr=True)
    with errors_told():
        table = sweep_settings(
            RunFolder.open(run, "denoiser"),
            data,
            steps,
            ratio,
            tiles=tiles,
            seed=seed,
            threads=threads,
            say=console.print,
        )
    print_json({"auroc": table})


def _train(
    prepare: Callable[[], tuple[Callable[[], DenoiserTraining | XstarsTraining], dict[str, Any]]],
    out: Path,
    steps: int | None,
    minutes: float | None,
    threads: int,
    dry_run: bool,
) -> None:
    console = Console(stderr=True)
    if (steps is None) == (minutes is None):
        raise typer.BadParameter("give either --steps or --minutes")
    torch.set_num_threads(threads)
    with errors_told():
        make, config = prepare()
        if dry_run:
            print_json({**config, "steps": steps, "minutes": minutes, "threads": threads})
            return
        if steps is None:
            console.print(f"timing a few steps to fill {minutes} minutes ...")
            steps = measure_steps(make, minutes or 0.0, time.monotonic)
        out.mkdir(parents=True, exist_ok=True)
        trainee = make()
        with StepDisplay(console, steps) as display:
            seconds = run(trainee, out, steps, clock=time.monotonic, show=display.show)
        last = dict(display.last.report.losses) if display.last else {}
        write_run(
            out,
            {**config, "steps": steps, "seconds": round(seconds, 1), "last_losses": last, **machine(threads)},
            trainee.weights(),
        )
    console.print(f"{out}: {steps} steps in {seconds / 60:.1f} minutes")
