"""``vigie train statistics``."""

from __future__ import annotations

import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from training.cli.common import errors_told, print_json
from training.cli.judging import command_line, machine_facts, now
from training.data.measuring import Tally, tally
from training.data.moments import Moments, pooled
from training.data.msc_france import MOMENTS, SIDES
from training.data.pool import ImagePool
from training.data.sources import PAIR_LAYOUTS, SourceSettings, open_sources
from training.evaluate.record import Record, RecordTable
from training.presets import AERIAL_GAINS, OMBRIA_GAINS

ALL_PIXELS = "pooled, every pixel counts"
ALL_SENSORS = "pooled, every sensor counts the same"
BANDS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class SensorStatistics:
    """What was measured of one sensor's images."""

    sensor: str
    tally: Tally
    sides: Sequence[int]
    """Shorter side of each image, pixels."""


def statistics(
    layout: Annotated[str, typer.Option(help=f"One of: {', '.join(PAIR_LAYOUTS)}.")],
    data: Annotated[Path, typer.Option(help="Folder in that layout.")],
    json: Annotated[
        Path | None, typer.Option(help="JSON file to write, and Markdown beside it, instead of printing the JSON.")
    ] = None,
) -> None:
    """Measure each sensor's mean and standard deviation, and those of all sensors together."""
    console = Console(stderr=True)
    with errors_told():
        gains = {"ombria": OMBRIA_GAINS, "classes": AERIAL_GAINS, "sentinel-1": AERIAL_GAINS}
        # What is measured here is what standardising needs: it must not see standardised numbers.
        found = open_sources(SourceSettings(gains=gains, standardise=False, keep_bytes=0), [(layout, data)])
        for note in found.notes:
            console.print(note)
        with Progress(console=console) as progress:
            measured = [_measured(pool, progress) for pool in found.pools]
        stated = MOMENTS if layout == "msc-france" else {}
        record = Record(
            title=f"Statistics of {layout} images",
            command=command_line("statistics", {"layout": layout, "data": data, "json": json}, group="train"),
            data=dict(found.digests),
            models={},
            machine=machine_facts(1),
            date=now(),
            settings={"layout": layout},
            notes=[
                "Of numbers from 0 to 1 (reflectance as this layout understands it), missing ground left out; the "
                "standard deviation is that of the pixels themselves.",
                *([f"{ALL_PIXELS}: the finest sensor decides."] if len(measured) > 1 else []),
                *(["`stated` is what the authors' code has."] if stated else []),
            ],
            tables=[
                RecordTable(name="sensors", title="Sensors", text="Sides in pixels.", rows=_sensors(measured, layout)),
                RecordTable(
                    name="moments", title="Moments", text="By sensor and band.", rows=_moments(measured, stated)
                ),
            ],
        )
        if json is None:
            print_json(record.to_dict())
            return
        for path in record.write(json):
            console.print(str(path))


def _measured(pool: ImagePool, progress: Progress) -> SensorStatistics:
    total = Tally.none(len(pool.gains))
    sides: list[int] = []
    for i in progress.track(range(len(pool)), description=pool.sensor):
        image = pool.images[i]
        sides.append(min(image.shape[:2]))
        total = total.merged(tally(image, pool.gains))
    return SensorStatistics(sensor=pool.sensor, tally=total, sides=sides)


def _sensors(measured: Sequence[SensorStatistics], layout: str) -> list[dict[str, Any]]:
    """Each sensor's images, and how its sides stand to those of the coarsest."""
    medians = [numbers.median(one.sides) for one in measured]
    rows: list[dict[str, Any]] = []
    for one, median in zip(measured, medians, strict=True):
        row = {
            "sensor": one.sensor,
            "images": len(one.sides),
            "pixels": one.tally.count,
            "smallest_side": min(one.sides),
            "median_side": median,
            "largest_side": max(one.sides),
            "side_to_coarsest": round(median / min(medians), 4),
        }
        rows.append({**row, "stated_ratio": SIDES[one.sensor]} if layout == "msc-france" else row)
    return rows


def _moments(measured: Sequence[SensorStatistics], stated: Mapping[str, Moments]) -> list[dict[str, Any]]:
    """Each sensor's moments, and the two ways of pooling them where the sensors have as many bands."""
    named = [(one.sensor, one.tally.moments()) for one in measured]
    if len({len(moments.mean) for _, moments in named}) == 1 and len(named) > 1:
        total = measured[0].tally
        for one in measured[1:]:
            total = total.merged(one.tally)
        named += [(ALL_PIXELS, total.moments()), (ALL_SENSORS, pooled([moments for _, moments in named]))]
    told = {**stated, ALL_SENSORS: pooled(list(stated.values()))} if stated else {}
    rows: list[dict[str, Any]] = []
    for sensor, moments in named:
        for i, (mean, std) in enumerate(zip(moments.mean, moments.std, strict=True)):
            row: dict[str, Any] = {"sensor": sensor, "band": BANDS[i] if stated else i + 1, "mean": mean, "std": std}
            if stated:
                ours = told.get(sensor)
                row |= {"stated_mean": ours.mean[i] if ours else None, "stated_std": ours.std[i] if ours else None}
            rows.append(row)
    return rows
