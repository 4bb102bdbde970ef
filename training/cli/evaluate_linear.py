"""``vigie evaluate linear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.class_judging import Supervised, supervised_subjects, write_classes
from training.cli.common import Threads, errors_told
from training.cli.encoder_judging import Bundles, Runs, TilePx, open_judged
from training.cli.judging import Bars, Draws, JsonFile, command_line
from training.data.classfolder import ClassFolder
from training.evaluate.encoders.class_table import ClassTiles, Float32Array, IntArray, judge_classes
from training.evaluate.encoders.linear import GRID, probe
from training.evaluate.encoders.preprocessing import of_whole_images


def linear(
    classes: Annotated[Path, typer.Option(help="Aerial images in one sub-folder per class.")],
    json: JsonFile,
    bundle: Bundles = None,
    run: Runs = None,
    tile: TilePx = None,
    supervised: Supervised = 2.0,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of random weights and draws.")] = 0,
    threads: Threads = 2,
) -> None:
    """Tell an aerial image's class by a linear probe of frozen features, beside random weights, pixels and chance."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    with errors_told(), Progress(console=console) as progress:
        judged = open_judged(bundle, run, family="aerial", tile_px=tile)
        folder = ClassFolder.open(classes)
        how = of_whole_images(judged.tile_px)
        tiles = ClassTiles.open(folder, how)
        bars = Bars(progress)
        taught, told = supervised_subjects(judged, tiles, supervised, seed, bars.show)

        def classify(train: Float32Array, codes: IntArray, test: Float32Array) -> tuple[IntArray, dict[str, Any]]:
            fitted = probe(train, codes, len(folder.labels))
            return fitted.predict(test), {"features": train.shape[1], "l2": fitted.l2}

        rows, by_class = judge_classes(
            tiles,
            [*judged.with_controls(tiles.train, seed), *taught],
            classify,
            tiles.weights(draws, seed),
            bars.show,
        )
        written = write_classes(
            json,
            title="Linear probe",
            text="Multinomial logistic regression by L-BFGS on standardised features.",
            command=command_line(
                "linear",
                {
                    "classes": classes, "bundle": bundle, "run": run, "tile": tile, "json": json, "draws": draws,
                    "supervised_minutes": supervised, "seed": seed,
                },
            ),
            folder=folder,
            judged=judged,
            how=how,
            rows=rows,
            classes=by_class,
            settings={"l2": GRID, "draws": draws, "seed": seed},
            notes=[*told, "The penalty is chosen on every fourth image of the train half; then all of it is fitted."],
            threads=threads,
        )  # fmt: skip
    for path in written:
        console.print(str(path))
