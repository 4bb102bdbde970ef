"""``vigie evaluate flood`` and ``vigie evaluate sweep``: what the flood model and ODEED's settings rest on."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from training.cli.common import Seed, Threads, errors_told
from training.cli.evaluate import evaluate
from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.evaluate.flood_study import study
from training.evaluate.record import Record, RecordTable
from training.evaluate.sweep import KNEE, SweepGrid, SweepPoint, knee, sweep_run
from training.evaluate.sweep_report import ranked, sweep_png
from training.flood.fit import FloodFit
from training.presets import denoiser_preset
from training.running.runfolder import RunFolder, machine, preset_of
from training.running.serving import open_denoiser, open_encoder

Data = Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")]
Json = Annotated[Path, typer.Option(help="JSON file to write; Markdown and figures go beside it.")]


@evaluate.command()
def flood(data: Data, json: Json, seed: Seed = 0, draws: int = 1000) -> None:
    """Judge the flood model and what was tried instead, one event left out after the other, also in other light."""
    console = Console(stderr=True)
    preset = denoiser_preset("sentinel-2")
    how = FloodFit()
    with errors_told():
        folder = OmbriaFolder.open(data)
        tiles = flood_tiles(folder.images, preset.gains, preset.tile_px)
        rows = study(tiles, preset.bands, how, draws=draws, seed=seed, say=console.print)
        record = Record(
            title="The flood model, one event left out after the other",
            command=shlex.join(["vigie", "evaluate", "flood", "--data", str(data), "--json", str(json)]),
            data={"digest": folder.digest(), "events": len(folder.events), "tiles": len(tiles)},
            models={},
            machine=machine(1),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            settings={**asdict(how), "seed": seed, "draws": draws},
            notes=[
                "Every event is judged by a model that was fitted without it. Flooded: a quarter of the tile and more.",
                "Intervals of 95 % are drawn by event. Recall and false rate are those at log odds of 0, among the "
                "after-tiles.",
                "The lights multiply or shift the reflectance of both looks, or of the new one alone.",
            ],
            tables=[
                RecordTable(name="rows", title="Variants and lights", text="AUROC.", rows=[asdict(row) for row in rows])
            ],
        )
        for path in record.write(json):
            console.print(str(path))


@evaluate.command()
def sweep(
    run: Annotated[list[Path], typer.Option(help="Denoiser run; its held-out events are judged. Give several.")],
    encoder: Annotated[Path, typer.Option(help="Run of `vigie train xstars`.")],
    data: Data,
    json: Json,
    tiles: Annotated[int, typer.Option(min=2, help="Flooded tiles and dry tiles of each run, each.")] = 40,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Try ODEED's steps, σ_max, solver and distance on events that the networks never saw, and choose."""
    console = Console(stderr=True)
    grid = SweepGrid()
    with errors_told(), ExitStack() as stack:
        folder = OmbriaFolder.open(data)
        opened = stack.enter_context(open_encoder(RunFolder.open(encoder, "xstars"), threads=threads))
        points: list[SweepPoint] = []
        for each in [RunFolder.open(path, "denoiser") for path in run]:
            preset = preset_of(each)
            held_out = flood_tiles(folder.of_events(preset.held_out_events), preset.gains, preset.tile_px)
            chosen = held_out.sample(np.random.default_rng((seed, 0x53)), dry=tiles, flooded=tiles)
            denoiser = stack.enter_context(open_denoiser(each, threads=threads))
            points += sweep_run(
                each,
                preset.held_out_events,
                denoiser,
                opened,
                chosen,
                grid,
                lambda point: console.print(
                    f"{point.run}: {point.solver} {point.steps}, {point.ratio:g} σ_data, {point.distance}: "
                    f"{point.flooded_vs_dry:.3f} {point.after_vs_before:.3f}"
                ),
            )
        default = knee(points)
        record = Record(
            title="ODEED: steps, σ_max, solver and distance",
            command=shlex.join(
                ["vigie", "evaluate", "sweep", *(word for path in run for word in ("--run", path.name))]
                + ["--encoder", encoder.name, "--data", str(data), "--json", str(json)]
            ),
            data={"digest": folder.digest(), "flooded": points[0].n_pos, "dry": points[0].n_neg},
            models={point.run: ", ".join(point.events) for point in points},
            machine=machine(threads),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            settings={**asdict(grid), "tiles": tiles, "seed": seed},
            notes=[
                "Each network is judged on events that it never saw; figures are means over the networks.",
                f"The default is the cheapest setting whose mean of both protocols is within {KNEE} of the best among "
                f"those of 16 evaluations or fewer: {default.solver}, {default.steps} steps, σ_max {default.ratio:g} "
                "σ_data.",
            ],
            tables=[
                RecordTable(
                    name="settings",
                    title="Settings, best first",
                    text="AUROC; energy correlation is Spearman's, with the mean of x²: at 1 the score is the energy.",
                    rows=ranked(points),
                ),
                RecordTable(
                    name="points", title="Each network", text="AUROC.", rows=[asdict(point) for point in points]
                ),
            ],
        )
        for path in record.write(json, {"auroc": sweep_png(points, default)}):
            console.print(str(path))
