"""``vigie train xstars``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from training.align.continual import Start
from training.align.msad import MODES
from training.align.pretrained import NORMALISATIONS, read_pretrained
from training.align.xstars import XstarsTraining
from training.cli.common import DryRun, Seed, Threads
from training.cli.runs import (
    Checkpoints,
    Device,
    Minutes,
    Out,
    PrecisionName,
    Prepared,
    PresetFile,
    Steps,
    carry_out,
)
from training.data.sources import PAIR_LAYOUTS, SourceSettings, open_sources, parse_pairs
from training.encoder_presets import ENCODERS, PATCH_EMBEDDINGS, encoder_preset
from training.errors import RunInvalid
from training.presets import as_json
from training.running.distributed import World
from training.running.overrides import overridden, read_overrides
from training.running.precision import checked, require_precision

SENSOR_OF = {"ombria": "sentinel-2", "classes": "aerial"}
"""Layouts of one sensor, by which ``--adapt-to`` may name it."""


def xstars(
    out: Out,
    ombria: Annotated[Path | None, typer.Option(help="Folder in the OMBRIA layout.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Aerial images in one sub-folder per class.")] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(help=f"LAYOUT=DIR, a folder of co-located images; give several. {', '.join(PAIR_LAYOUTS)}."),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"One of: {', '.join(ENCODERS)}.")] = "tiny",
    preset_file: PresetFile = None,
    msad: Annotated[
        str | None, typer.Option(help=f"Alignment loss, instead of the preset's: {', '.join(MODES)}.")
    ] = None,
    patch_embedding: Annotated[
        str | None, typer.Option(help=f"Instead of the preset's: {', '.join(PATCH_EMBEDDINGS)}.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Continue a pretrained ViT: run folder, bundle, or safetensors (ours, timm's, DINO's)."
        ),
    ] = None,
    from_input: Annotated[
        str | None,
        typer.Option(help=f"How its input was normalised: {', '.join(NORMALISATIONS)}; else by its layout."),
    ] = None,
    adapt_to: Annotated[
        str | None, typer.Option(help="With --from: the sensor to adapt to, by its name or its folder's layout.")
    ] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int | None, typer.Option(min=1, help="DINO's samples per step, instead of the preset's.")] = None,
    pairs_per_step: Annotated[
        int | None, typer.Option(min=2, help="MSAD's pairs per step, instead of the preset's.")
    ] = None,
    hold_out: Annotated[
        str | None, typer.Option(help="Event blocks of OMBRIA to leave out, such as B,C,K, instead of the preset's.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = 2,
    device: Device = "auto",
    precision: PrecisionName = "fp32",
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw attention and neighbours.")] = True,
    checkpoint_every: Checkpoints = 60.0,
    dry_run: DryRun = False,
) -> None:
    """Train the X-STARS encoder by DINO and the multi-sensor alignment loss (MSAD).

    Over several processes: torchrun --nproc-per-node N --no-python vigie train xstars ... ; the batch is shared.
    """

    def prepare(world: World) -> Prepared:
        chosen = encoder_preset(preset)
        chosen = overridden(chosen, read_overrides(preset_file)) if preset_file else chosen
        chosen = replace(chosen, msad=msad) if msad else chosen
        chosen = replace(chosen, patch_embedding=patch_embedding) if patch_embedding else chosen
        chosen = replace(chosen, batch=batch) if batch else chosen
        chosen = replace(chosen, pairs=pairs_per_step) if pairs_per_step else chosen
        chosen = replace(chosen, held_out_events=tuple(hold_out.split(","))) if hold_out else chosen
        number = checked(precision)
        require_precision(number, world.device)
        named = [(layout, folder) for layout, folder in (("ombria", ombria), ("classes", classes)) if folder]
        named += [parse_pairs(text) for text in pairs or []]
        settings = SourceSettings(gains=chosen.gains, held_out_events=chosen.held_out_events)
        found = open_sources(settings, named)
        if world.leads:
            for note in found.notes:
                typer.echo(note, err=True)
        start = _start(from_, from_input, adapt_to)
        config: dict[str, Any] = {
            "kind": "xstars",
            "preset": as_json(chosen),
            "seed": seed,
            "data": dict(found.digests),
            "images": sum(len(pool) for pool in found.pools),
            "pairs": sorted({source.sensors for source in found.pairs}),
            "precision": number,
        }
        if start is not None:
            config["start"] = {
                "weights": start.pretrained.digest,
                "input": start.pretrained.normalisation,
                "adapt_to": start.adapt_to,
            }

        def make() -> XstarsTraining:
            return XstarsTraining(chosen, found.pools, found.pairs, seed, world=world, precision=number, start=start)

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


def _start(weights: Path | None, normalisation: str | None, adapt_to: str | None) -> Start | None:
    """What ``--from``, ``--from-input`` and ``--adapt-to`` ask for."""
    if weights is None:
        if adapt_to is not None or normalisation is not None:
            raise RunInvalid("--adapt-to and --from-input go with --from: say which weights to continue")
        return None
    if adapt_to is None:
        raise RunInvalid("--from needs --adapt-to: the sensor that the weights are adapted to, such as sentinel-2")
    return Start(pretrained=read_pretrained(weights, normalisation), adapt_to=SENSOR_OF.get(adapt_to, adapt_to))
