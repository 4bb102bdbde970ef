"""``vigie train ...``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.cli.common import DryRun, Seed, Threads, errors_told, print_json
from training.cli.runs import Checkpoints, Device, Minutes, Out, PrecisionName, Prepared, PresetFile, Steps, carry_out
from training.cli.train_statistics import statistics
from training.cli.train_xstars import xstars
from training.data.quantiles import match_quantiles
from training.denoise.denoiser import DenoiserTraining
from training.denoise.layouts import LAYOUTS
from training.denoise.normal_tiles import measure, open_tiles
from training.presets import DENOISERS, as_json, denoiser_preset
from training.running.distributed import World
from training.running.overrides import overridden, read_overrides
from training.running.precision import checked, require_precision

train = typer.Typer(help="Train the networks that the daemon serves.", no_args_is_help=True)

train.command()(xstars)
train.command()(statistics)


@train.command()
def denoiser(
    data: Annotated[list[Path], typer.Option(help="Folder of training images; for a joint preset one per part.")],
    out: Out,
    preset: Annotated[str, typer.Option(help=f"One of: {', '.join(DENOISERS)}.")] = "sentinel-2",
    preset_file: PresetFile = None,
    layout: Annotated[
        str | None, typer.Option(help=f"Layout of the folder, instead of the preset's: {', '.join(LAYOUTS)}.")
    ] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Tiles per step, instead of the preset's.")] = None,
    hold_out: Annotated[str | None, typer.Option(help="Event blocks to leave out, such as B,C,K.")] = None,
    hold_out_classes: Annotated[
        str | None, typer.Option(help="Aerial classes to leave out, such as beach,river.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = 2,
    device: Device = "auto",
    precision: PrecisionName = "fp32",
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw samples and reconstructions.")
    ] = True,
    checkpoint_every: Checkpoints = 60.0,
    dry_run: DryRun = False,
) -> None:
    """Train an EDM denoiser on normal images of one family.

    Over several processes: torchrun --nproc-per-node N --no-python vigie train denoiser ... ; the batch is shared.
    """

    def prepare(world: World) -> Prepared:
        chosen = denoiser_preset(preset)
        chosen = overridden(chosen, read_overrides(preset_file)) if preset_file else chosen
        chosen = replace(chosen, layout=layout) if layout else chosen
        chosen = replace(chosen, batch=batch) if batch else chosen
        chosen = replace(chosen, held_out_events=tuple(hold_out.split(","))) if hold_out else chosen
        chosen = replace(chosen, held_out_classes=tuple(hold_out_classes.split(","))) if hold_out_classes else chosen
        number = checked(precision)
        require_precision(number, world.device)
        tiles = open_tiles(chosen, data)
        moments = measure(tiles.pool, chosen.tile_px, seed)
        config = {
            "kind": "denoiser",
            "preset": as_json(tiles.preset),
            "seed": seed,
            "data": dict(tiles.digests),
            "images": len(tiles.pool),
            "mean": moments.mean,
            "sigma_data": moments.sigma,
            "precision": number,
        }

        def make() -> DenoiserTraining:
            return DenoiserTraining(tiles.preset, tiles, moments, seed, world=world, precision=number)

        return make, config

    carry_out(
        prepare,
        out,
        steps=steps,
        minutes=minutes,
        threads=threads,
        dry_run=dry_run,
        device=device,
        pictures=pictures,
        checkpoint_every_s=checkpoint_every,
    )


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
