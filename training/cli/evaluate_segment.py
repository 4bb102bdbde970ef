"""``vigie evaluate segment``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.common import Threads, errors_told
from training.cli.encoder_judging import Bundles, HeldOut, Runs, TilePx, open_judged
from training.cli.judging import Bars, Draws, JsonFile, command_line, machine_facts, now
from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.errors import TrainingDataInvalid
from training.evaluate.encoders.preprocessing import GAINS, of_windows
from training.evaluate.encoders.report import Dot, Panel, dots_png
from training.evaluate.encoders.segment import (
    Float32Array,
    Overlap,
    best_threshold,
    chosen_images,
    event_row,
    pixel_logits,
    segment_row,
    water_index,
)
from training.evaluate.encoders.segment_heads import HeadFit, fit_head, head_names, token_maps
from training.evaluate.record import Record, RecordTable


def segment(
    ombria: Annotated[Path, typer.Option(help="Folder in the OMBRIA layout.")],
    json: JsonFile,
    bundle: Bundles = None,
    run: Runs = None,
    head: Annotated[list[str] | None, typer.Option(help="linear or upernet-light; both if not given.")] = None,
    event: HeldOut = None,
    tile: TilePx = None,
    images: Annotated[int, typer.Option(min=1, help="Training images, evenly over their events.")] = 120,
    steps: Annotated[int, typer.Option(min=1, help="Of each head.")] = HeadFit.steps,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of images, heads, random weights and draws.")] = 0,
    threads: Threads = 2,
) -> None:
    """Map floods from frozen tokens, on events that neither encoder nor head saw, beside pixels and the water index."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    with errors_told(), Progress(console=console) as progress:
        heads = head_names(head)
        judged = open_judged(bundle, run, family="sentinel-2", tile_px=tile)
        folder = OmbriaFolder.open(ombria)
        held_out = judged.held_out(folder, event)
        # Blocks that an encoder held out train no head, even if they are not judged.
        kept = {name for each in judged.encoders for name in each.held_out_events or ()} | {i.event for i in held_out}
        others = folder.of_events(name for name in folder.events if name not in kept)
        if not others:
            raise TrainingDataInvalid(f"all event blocks of {ombria} are held out; none is left to train heads on")
        chosen = chosen_images(others, images, seed)
        gains = GAINS["sentinel-2"]
        train, test = (flood_tiles(part, gains, judged.tile_px) for part in (chosen, held_out))
        how = HeadFit(steps=steps)
        side = (judged.tile_px, judged.tile_px)
        bars = Bars(progress)
        rows: list[dict[str, Any]] = []
        by_event: list[dict[str, Any]] = []

        def told(name: str, kind: str, by: str, on_train: Float32Array, on_test: Float32Array) -> None:
            threshold = best_threshold(on_train, train.mask, train.known, seed)
            overlap = Overlap.of(on_test > threshold, test.mask, test.known)
            rows.append(segment_row(name, kind, by, overlap, test, draws, seed))
            by_event.append(event_row(name, by, overlap, test))

        for subject in judged.with_controls(train.after, seed):
            network = subject.network("sentinel-2")
            if network is None:
                continue
            seen, unseen = (token_maps(network, part.after) for part in (train, test))
            for name in heads:
                fitted = fit_head(
                    name, seen, train.mask, train.known, how,
                    seed=seed, progress=bars.show, told=f"{subject.name}, {name}",
                )  # fmt: skip
                told(subject.name, subject.kind, name, fitted.logits(seen, side), fitted.logits(unseen, side))
        told("pixels", "control", "logistic regression", *pixel_logits(train, test.after, seed))
        told("water index", "control", "threshold", water_index(train.after), water_index(test.after))
        everywhere = Overlap.of(np.ones_like(test.mask), test.mask, test.known)
        rows.append(segment_row("flooded everywhere", "control", "–", everywhere, test, draws, seed))
        by_event.append(event_row("flooded everywhere", "–", everywhere, test))
        preprocessing = of_windows(judged.tile_px, ["sentinel-2"]).to_dict()
        record = Record(
            title="Flood maps from frozen tokens",
            command=command_line(
                "segment",
                {
                    "ombria": ombria, "bundle": bundle, "run": run, "head": head, "event": event, "tile": tile,
                    "images": images, "steps": steps, "json": json, "draws": draws, "seed": seed,
                },
            ),
            data={
                "ombria": folder.digest(),
                "train_images": len(chosen),
                "train_events": ", ".join(sorted({image.event for image in chosen})),
                "train_tiles": len(train),
                "test_images": len(held_out),
                "test_events": ", ".join(sorted({image.event for image in held_out})),
                "test_tiles": len(test),
                "flooded_share": round(float((test.mask & test.known).sum() / test.known.sum()), 5),
            },
            models=judged.models,
            machine=machine_facts(threads),
            date=now(),
            settings={"preprocessing": preprocessing, **asdict(how), "images": images, "draws": draws, "seed": seed},
            notes=[
                *judged.notes,
                "Maps are of the image after the flood alone. Heads, pixel regression and thresholds are fitted on "
                "training events, and judged on events that no encoder was trained on.",
                f"A token covers {judged.encoders[0].vit.config.patch_size if judged.encoders[0].vit else 16} px: "
                "heads cannot draw a finer shore than they interpolate, the pixel controls can.",
                "IoU: all tiles' counts together, over pixels that the mask knows. Intervals: 95 % of draws of events.",
                f"Preprocessing: {preprocessing}.",
            ],
            tables=[
                RecordTable(name="rows", title="Intersection over union", text="Of flooded pixels.", rows=rows),
                RecordTable(name="events", title="By event", text="IoU of flooded pixels.", rows=by_event),
            ],
        )  # fmt: skip
        dots = [
            Dot(
                label=f"{row['subject']} · {row['head']}",
                kind=row["kind"],
                value=row["iou"] or 0.0,
                low=row["low"],
                high=row["high"],
            )
            for row in rows
        ]
        panel = Panel(title=f"{len(test)} tiles, events {', '.join(sorted(set(test.events)))}", axis="IoU", dots=dots)
        written = record.write(json, {"iou": dots_png([panel], record.title)})
    for path in written:
        console.print(str(path))
