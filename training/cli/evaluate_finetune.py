"""``vigie evaluate finetune``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.class_judging import write_classes
from training.cli.common import Threads, errors_told
from training.cli.encoder_judging import Bundles, Runs, TilePx, open_judged
from training.cli.judging import Bars, Draws, JsonFile, command_line
from training.data.classfolder import ClassFolder
from training.evaluate.encoders.class_table import ClassTiles, accuracy_row, chance_row, class_rows
from training.evaluate.encoders.finetune import SUPERVISED, FineTuning, fresh, tune
from training.evaluate.encoders.linear import probe
from training.evaluate.encoders.preprocessing import of_whole_images
from training.evaluate.encoders.subjects import Kind, pixel_controls, vit_facts


def finetune(
    classes: Annotated[Path, typer.Option(help="Aerial images in one sub-folder per class.")],
    json: JsonFile,
    bundle: Bundles = None,
    run: Runs = None,
    tile: TilePx = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train half, at most.")] = FineTuning.epochs,
    minutes: Annotated[float, typer.Option(min=0.01, help="Of each network, at most.")] = FineTuning.minutes,
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = FineTuning.batch,
    lr: Annotated[float, typer.Option(min=1e-7, help="Peak learning rate.")] = FineTuning.lr,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of heads, order, turns, fresh weights and draws.")] = 0,
    threads: Threads = 2,
) -> None:
    """Let whole encoders learn the aerial classes, beside the same network from scratch and a probe of raw pixels."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    how = FineTuning(epochs=epochs, minutes=minutes, batch=batch, lr=lr)
    with errors_told(), Progress(console=console) as progress:
        judged = open_judged(bundle, run, family="aerial", tile_px=tile)
        folder = ClassFolder.open(classes)
        preprocessing = of_whole_images(judged.tile_px)
        tiles = ClassTiles.open(folder, preprocessing)
        weights = tiles.weights(draws, seed)
        count = len(tiles.labels)
        bars = Bars(progress)
        starts: list[tuple[str, Kind, Any]] = [
            (each.name, "encoder", each.network("aerial")) for each in judged.encoders
        ]
        configs = {vit_facts(each.vit.config): each.vit.config for each in judged.encoders if each.vit is not None}
        starts += [
            (
                f"{SUPERVISED} ({size})" if len(configs) > 1 else SUPERVISED,
                "supervised",
                fresh(config, seed, tiles.train),
            )
            for size, config in configs.items()
        ]
        rows: list[dict[str, Any]] = []
        hits_of: dict[str, Any] = {}
        for name, kind, vit in starts:
            tuned = tune(
                vit, tiles.train, tiles.train_codes, count, how,
                seed=seed, clock=time.monotonic, progress=bars.show, name=name,
            )  # fmt: skip
            hits_of[name] = (tuned.predict(tiles.test) == tiles.test_codes).astype(np.float64)
            done = {"epochs": round(tuned.epochs, 2), "seconds": round(tuned.seconds, 1)}
            rows.append({**accuracy_row(name, kind, "fine-tuned", hits_of[name], weights), **done})
        none = {"epochs": None, "seconds": None}
        for control in pixel_controls():
            train, test = (next(iter(control.embed(part, "aerial", ()).values())) for part in (tiles.train, tiles.test))
            fitted = probe(train, tiles.train_codes, count)
            hits_of[control.name] = (fitted.predict(test) == tiles.test_codes).astype(np.float64)
            rows.append({**accuracy_row(control.name, "control", "probe", hits_of[control.name], weights), **none})
        rows.append({**chance_row(tiles), **none})
        written = write_classes(
            json,
            title="Fine-tuning",
            text="All weights learn, and a linear head on the class token. Pixels have a linear probe instead.",
            command=command_line(
                "finetune",
                {
                    "classes": classes, "bundle": bundle, "run": run, "tile": tile, "json": json, "epochs": epochs,
                    "minutes": minutes, "batch": batch, "lr": lr, "draws": draws, "seed": seed,
                },
            ),
            folder=folder,
            judged=judged,
            how=preprocessing,
            rows=rows,
            classes=class_rows(tiles, hits_of),
            settings={**asdict(how), "draws": draws, "seed": seed},
            notes=[
                "The supervised network from scratch has the encoder's size, and learns as long by the same settings.",
                "A network that ran out of minutes has fewer epochs, and its learning rate came down all the same.",
            ],
            threads=threads,
        )  # fmt: skip
    for path in written:
        console.print(str(path))
