"""``vigie evaluate sweep``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from training.cli.common import Seed, Threads, errors_told
from training.cli.judging import JsonFile, command_line, machine_facts, now
from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.denoise.run_preset import preset_of
from training.evaluate.record import Record, RecordTable
from training.evaluate.sweep import KNEE, SweepGrid, SweepPoint, knee, sweep_run
from training.evaluate.sweep_report import ranked, sweep_png
from training.running.runfolder import RunFolder
from training.running.serving import open_denoiser, open_encoder

Data = Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")]


def sweep(
    run: Annotated[list[Path], typer.Option(help="Denoiser run; its held-out events are judged. Give several.")],
    encoder: Annotated[Path, typer.Option(help="Run of `vigie train xstars`.")],
    data: Data,
    json: JsonFile,
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
            command=command_line(
                "sweep", {"run": run, "encoder": encoder, "data": data, "json": json, "tiles": tiles, "seed": seed}
            ),
            data={"digest": folder.digest(), "flooded": points[0].n_pos, "dry": points[0].n_neg},
            models={point.run: ", ".join(point.events) for point in points},
            machine=machine_facts(threads),
            date=now(),
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
