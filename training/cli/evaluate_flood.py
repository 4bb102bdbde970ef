"""``vigie evaluate flood``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.cli.common import Seed, errors_told
from training.cli.judging import Draws, JsonFile, command_line, machine_facts, now
from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.evaluate.flood_study import study
from training.evaluate.record import Record, RecordTable
from training.flood.fit import FloodFit
from training.presets import denoiser_preset

Data = Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")]


def flood(data: Data, json: JsonFile, seed: Seed = 0, draws: Draws = 1000) -> None:
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
            command=command_line("flood", {"data": data, "json": json, "seed": seed, "draws": draws}),
            data={"digest": folder.digest(), "events": len(folder.events), "tiles": len(tiles)},
            models={},
            machine=machine_facts(1),
            date=now(),
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
