"""``vigie evaluate knn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.class_judging import Supervised, supervised_subjects, write_classes
from training.cli.common import Threads, errors_told
from training.cli.encoder_judging import Bundles, Runs, TilePx, open_judged
from training.cli.judging import Bars, Draws, JsonFile, command_line
from training.data.classfolder import ClassFolder
from training.evaluate.encoders.class_table import ClassTiles, judge_classes
from training.evaluate.encoders.knn import vote
from training.evaluate.encoders.preprocessing import of_whole_images


def knn(
    classes: Annotated[Path, typer.Option(help="Aerial images in one sub-folder per class.")],
    json: JsonFile,
    bundle: Bundles = None,
    run: Runs = None,
    tile: TilePx = None,
    neighbours: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote.")] = 20,
    supervised: Supervised = 2.0,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of random weights and draws.")] = 0,
    threads: Threads = 2,
) -> None:
    """Tell an aerial image's class by its nearest neighbours, beside random weights, pixels and chance."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    with errors_told(), Progress(console=console) as progress:
        judged = open_judged(bundle, run, family="aerial", tile_px=tile)
        folder = ClassFolder.open(classes)
        how = of_whole_images(judged.tile_px)
        tiles = ClassTiles.open(folder, how)
        bars = Bars(progress)
        taught, told = supervised_subjects(judged, tiles, supervised, seed, bars.show)
        rows, by_class = judge_classes(
            tiles,
            [*judged.with_controls(tiles.train, seed), *taught],
            lambda train, codes, test: (vote(train, codes, test, neighbours), {}),
            tiles.weights(draws, seed),
            bars.show,
        )
        written = write_classes(
            json,
            title=f"Class by {neighbours} nearest neighbours",
            text=f"Cosine, k = {neighbours}, the most frequent class; ties go to the larger summed similarity.",
            command=command_line(
                "knn",
                {
                    "classes": classes, "bundle": bundle, "run": run, "tile": tile, "json": json, "k": neighbours,
                    "supervised_minutes": supervised,
                    "draws": draws, "seed": seed,
                },
            ),
            folder=folder,
            judged=judged,
            how=how,
            rows=rows,
            classes=by_class,
            settings={"k": neighbours, "draws": draws, "seed": seed},
            notes=told,
            threads=threads,
        )  # fmt: skip
    for path in written:
        console.print(str(path))
