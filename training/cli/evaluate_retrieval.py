"""``vigie evaluate retrieval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.common import Threads, errors_told
from training.cli.encoder_judging import (
    WEBP_COPY,
    Bundles,
    Classes,
    HeldOut,
    Ombria,
    Runs,
    TilePx,
    class_facts,
    open_judged,
)
from training.cli.judging import Bars, Draws, JsonFile, command_line, machine_facts, now
from training.data.classfolder import ClassFolder
from training.data.ombria import OmbriaFolder
from training.errors import TrainingDataInvalid
from training.evaluate.encoders.preprocessing import of_windows
from training.evaluate.encoders.report import Dot, Panel, dots_png
from training.evaluate.encoders.retrieval import PairTiles, before_to_later, coarse_to_fine, radar_to_optical
from training.evaluate.encoders.retrieval_table import judge_pairs
from training.evaluate.encoders.subjects import WAYS
from training.evaluate.record import Record, RecordTable

FACTORS = (2, 4)
"""How many times coarser the simulated sensors are."""


def retrieval(
    json: JsonFile,
    ombria: Ombria = None,
    classes: Classes = None,
    bundle: Bundles = None,
    run: Runs = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="The runs' projection heads too, in which alignment was trained.")
    ] = False,
    event: HeldOut = None,
    tile: TilePx = None,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of random weights, simulated light and draws.")] = 0,
    threads: Threads = 2,
) -> None:
    """Find the same ground in another sensor's tiles, or in another date's: the direct test of alignment."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    with errors_told(), Progress(console=console) as progress:
        if ombria is None and classes is None:
            raise TrainingDataInvalid("nothing to judge on: give --ombria, --classes, or both")
        judged = open_judged(
            bundle, run, family="aerial" if ombria is None else "sentinel-2", tile_px=tile, heads=heads
        )
        notes = [*judged.notes]
        data: dict[str, Any] = {}
        pairs: list[PairTiles] = []
        if ombria is not None:
            folder = OmbriaFolder.open(ombria)
            images = judged.held_out(folder, event)
            data |= {"ombria": folder.digest(), "events": ", ".join(sorted({image.event for image in images}))}
            data["images"] = len(images)
            seen = [image for image in images if image.s1_before is not None]
            data["images_with_sentinel_1"] = len(seen)
            notes.append(
                f"{len(seen)} of {len(images)} images have a Sentinel-1 view"
                + "".join(
                    f"; block {name} has none"
                    for name in sorted({image.event for image in images} - {image.event for image in seen})
                )
                + "."
            )
            for task, found in (
                ("Sentinel-1 and Sentinel-2", radar_to_optical(images, judged.tile_px)),
                ("Sentinel-2 before and dry after", before_to_later(images, judged.tile_px)),
            ):
                if found is None or len(found) < 2:
                    notes.append(f"{task}: no two whole tiles of {judged.tile_px} px, so nothing is said of them.")
                else:
                    pairs.append(found)
        if classes is not None:
            aerial = ClassFolder.open(classes)
            data |= class_facts(aerial)
            pairs += [coarse_to_fine(aerial.halves()[1], judged.tile_px, factor, seed) for factor in FACTORS]
            notes.append(
                f"Aerial pairs are simulated from the {WEBP_COPY}, of images not trained on: no data here can show "
                "alignment of real Sentinel-2 and aerial images, which is not verified."
            )
        notes += [
            "recall@k: share of tiles whose own ground is among the k nearest of the whole gallery by cosine; ties "
            "count against the query. Chance is k / gallery.",
            "Intervals: 95 % of bootstrap draws of events (of images within their class for aerial tiles); the gallery "
            "stays whole. Few events make wide intervals.",
            "Embeddings: class token, mean of the patch tokens, and patch tokens compared place by place.",
        ]
        bars = Bars(progress)
        rows = [row for each in pairs for row in judge_pairs(each, judged.with_controls, draws, seed, bars.show)]
        how = of_windows(judged.tile_px, ["sentinel-2", "sentinel-1"] if ombria else [])
        if classes is not None:
            how = of_windows(judged.tile_px, [*how.gains, "aerial"])
        record = Record(
            title="Retrieval across sensors and dates",
            command=command_line(
                "retrieval",
                {
                    "ombria": ombria, "classes": classes, "bundle": bundle, "run": run, "heads": heads,
                    "event": event, "tile": tile, "json": json, "draws": draws, "seed": seed,
                },
            ),
            data=data,
            models=judged.models,
            machine=machine_facts(threads),
            date=now(),
            settings={"preprocessing": how.to_dict(), "ways": WAYS, "factors": FACTORS, "draws": draws, "seed": seed},
            notes=[*notes, f"Preprocessing: {how.to_dict()}."],
            tables=_tables(pairs, rows),
        )  # fmt: skip
        written = record.write(json, {"recall": _figure(rows)})
    for path in written:
        console.print(str(path))


def _tables(pairs: Sequence[PairTiles], rows: Sequence[dict[str, Any]]) -> list[RecordTable]:
    return [
        RecordTable(
            name=f"retrieval_{number}",
            title=each.task,
            text=f"n = {len(each)} tiles of {len(np.unique(each.images))} images and "
            f"{len(each.unit_names)} {'classes' if each.simulated else 'event blocks'} "
            f"({', '.join(each.unit_names)}).",
            rows=[row for row in rows if row["task"] == each.task],
        )
        for number, each in enumerate(pairs)
    ]


def _figure(rows: Sequence[dict[str, Any]]) -> bytes:
    panels = []
    for task, way in dict.fromkeys((row["task"], row["direction"]) for row in rows):
        here = [row for row in rows if (row["task"], row["direction"]) == (task, way)]
        panels.append(
            Panel(
                title=f"{task}\n{way}",
                axis=f"recall@1 of {here[0]['gallery']}; dashed: chance",
                dots=[
                    Dot(
                        label=f"{row['subject']} · {row['embedding']}",
                        kind=row["kind"],
                        value=row["recall_at_1"],
                        low=row["low"],
                        high=row["high"],
                    )
                    for row in here
                    if row["subject"] != "chance"
                ],
                chance=1 / here[0]["gallery"],
            )
        )
    return dots_png(panels, "Retrieval across sensors and dates")
