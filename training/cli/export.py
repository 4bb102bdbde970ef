"""``vigie export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine.runners.base import RunnerName
from training.cli.common import DryRun, Seed, Threads, errors_told, print_json
from training.ship.export import export_bundle
from training.ship.model_card import ExportSizes


def export(
    name: Annotated[str, typer.Option(help="Name of the bundle, and of its folder.")],
    encoder: Annotated[Path, typer.Option(help="Finished run of `vigie train xstars`.")],
    denoiser: Annotated[list[Path], typer.Option(help="Finished run of `vigie train denoiser`; one per family.")],
    data: Annotated[list[Path], typer.Option(help="Its data folder, in the same order.")],
    out: Annotated[Path, typer.Option(help="Folder that holds bundles.")] = Path("engine/bundles"),
    tiles: Annotated[int, typer.Option(min=20, help="Held-out tiles that calibrate.")] = 1200,
    pairs: Annotated[int, typer.Option(min=20, help="Held-out pairs that calibrate.")] = 600,
    normal: Annotated[int, typer.Option(min=20, help="Training tiles that density scorers are made from.")] = 500,
    seed: Seed = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What measures: torch or onnxruntime.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle of that name.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Calibrate trained networks on held-out data, and write the bundle that the daemon serves."""
    console = Console(stderr=True)
    if len(denoiser) != len(data):
        raise typer.BadParameter(f"{len(denoiser)} --denoiser and {len(data)} --data: give one --data per --denoiser")
    sizes = ExportSizes(tiles=tiles, pairs=pairs, normal=normal)
    if dry_run:
        print_json(
            {
                "bundle": str(out / name),
                "encoder": str(encoder),
                "denoisers": {str(run): str(folder) for run, folder in zip(denoiser, data, strict=True)},
                "sizes": asdict(sizes),
                "seed": seed,
            }
        )
        return
    with errors_told():
        bundle = export_bundle(
            out,
            name,
            encoder,
            dict(zip(denoiser, data, strict=True)),
            sizes=sizes,
            seed=seed,
            threads=threads,
            runner=runner,
            overwrite=overwrite,
            say=console.print,
        )
    console.print(f"{bundle.path}: model {bundle.model_id}")
