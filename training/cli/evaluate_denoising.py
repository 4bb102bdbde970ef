"""``vigie evaluate denoising``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from training.cli.common import Seed, Threads, errors_told
from training.cli.judging import JsonFile, command_line, machine_facts, now
from training.errors import TrainingDataInvalid
from training.evaluate.denoising import DenoisingRow, denoising_rows
from training.evaluate.record import Record, RecordTable
from training.running.runfolder import RunFolder


def denoising(
    run: Annotated[list[Path], typer.Option(help="Denoiser run; give several to compare.")],
    data: Annotated[
        list[str], typer.Option(help="The folder of each run, in order; those of a joint run with a comma between.")
    ],
    json: JsonFile,
    tiles: Annotated[int, typer.Option(min=1, help="Held-out tiles for each family and pixel size.")] = 200,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Compare how well networks denoise held-out tiles: one for each family, or one that is told family and gsd."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    with errors_told():
        if len(run) != len(data):
            raise TrainingDataInvalid(f"{len(run)} --run and {len(data)} --data; give one --data for each --run")
        rows: list[DenoisingRow] = []
        steps: dict[str, str] = {}
        for path, folders in zip(run, data, strict=True):
            opened = RunFolder.open(path, "denoiser")
            steps[path.name] = f"{opened.config['steps']} steps in {opened.config['seconds'] / 60:.1f} minutes"
            rows += denoising_rows(opened, [Path(folder) for folder in folders.split(",")], count=tiles, seed=seed)
            console.print(f"judged {path.name}")
        record = Record(
            title="Denoising of held-out tiles",
            command=command_line("denoising", {"run": run, "data": data, "json": json, "tiles": tiles, "seed": seed}),
            data={},
            models=steps,
            machine=machine_facts(threads),
            date=now(),
            settings={"tiles": tiles, "seed": seed},
            notes=["Tiles and noise are the same for every network. Mean squared error, images in [-1, 1]."],
            tables=[
                RecordTable(name="rows", title="Errors", text="Smaller is better.", rows=[asdict(row) for row in rows])
            ],
        )
        for path in record.write(json):
            console.print(str(path))
