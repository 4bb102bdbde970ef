"""``vigie evaluate ...``."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from engine.bundle import ModelBundle, bundled
from engine.manifest import FamilySpec
from engine.runners import open_runner
from engine.runners.base import RunnerName
from training.cli.common import DryRun, Threads, errors_told, print_json
from training.cli.evaluate_calibration import calibration
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.errors import TrainingDataInvalid
from training.evaluate.comparison import differences, knowledge
from training.evaluate.figures import auroc_png, examples_png
from training.evaluate.ood import Judging, Outcome, RunSettings, Subject
from training.evaluate.report import Report, write_report
from training.evaluate.subjects import controls_of, networks_of
from training.evaluate.table import Tables
from training.presets import DENOISERS
from training.running.runfolder import machine

evaluate = typer.Typer(help="Judge what the daemon's networks and decisions are worth.", no_args_is_help=True)

PICTURED = "odeed"
"""The scorer whose maps are shown with the example tiles."""


@evaluate.callback()
def _evaluate() -> None:
    """A group of commands, even while there is one."""


evaluate.command()(calibration)


@evaluate.command()
def ood(
    data: Annotated[Path, typer.Option(help="Folder with before/, after/ and mask/ (WebP, PNG, GeoTIFF).")],
    json: Annotated[Path, typer.Option(help="JSON file to write; Markdown and figures go beside it.")],
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name, or a bundle's folder with a / in it.")] = "base",
    family: Annotated[str, typer.Option(help="Sensor family of the images.")] = "sentinel-2",
    bands: Annotated[str | None, typer.Option(help="Which bands of the files, from 1, such as 12,8,4.")] = None,
    gain: Annotated[
        float | None, typer.Option(min=1e-9, help="Reflectance per 8-bit number, instead of the preset's.")
    ] = None,
    event: Annotated[list[str] | None, typer.Option(help="Judge on this event alone; give several.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this scorer or kind alone; give several.")] = None,
    tiles: Annotated[int, typer.Option(min=3, help="Tiles that expensive scorers run on.")] = RunSettings.tiles,
    pixels: Annotated[int, typer.Option(min=1, help="Judged pixels of each tile.")] = RunSettings.pixels,
    draws: Annotated[int, typer.Option(min=10, help="Bootstrap draws.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of tiles and pixels, and of the draws.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the networks run on.")] = "auto",
    dry_run: DryRun = False,
) -> None:
    """Judge every scorer beside its controls, on floods that nobody needs to have seen before."""
    console = Console(stderr=True)
    command = "vigie evaluate ood " + shlex.join(
        _given(data=data, json=json, bundle=bundle, family=family, bands=bands, gain=gain, event=event, only=only)
        + _given(tiles=tiles, pixels=pixels, draws=draws, seed=seed, threads=threads)
    )
    with errors_told(), ExitStack() as stack:
        folder = TripleFolder.open(data)
        folder = folder.of_events(event) if event else folder
        model = ModelBundle.load(Path(bundle) if "/" in bundle else bundled(bundle))
        spec = model.family(family)
        meaning = _meaning(spec, bands, gain)
        denoiser = stack.enter_context(
            open_runner(model.denoiser_model(family), runner=runner, device="cpu", threads=threads)
        )
        subjects = _chosen(
            [
                *controls_of(spec.bands, spec.calibration),
                *networks_of(denoiser, spec.odeed, spec.sigma_data),
            ],
            only or [],
        )
        settings = RunSettings(tile_px=spec.tile_px, tiles=tiles, pixels=pixels, seed=seed)
        told = {**asdict(settings), "draws": draws, "family": family, "bands": spec.bands, "gains": meaning.gains}
        if dry_run:
            print_json({"command": command, "settings": told, **_plan(folder, model, subjects)})
            return
        progress = stack.enter_context(Progress(console=console, transient=True))
        outcome = Judging(
            folder=folder,
            subjects=subjects,
            meaning=meaning,
            settings=settings,
            monotonic=time.monotonic,
            progress=_Bars(progress).show,
        ).run(PICTURED)
        tables = Tables.of(subjects, outcome, draws=draws, seed=seed)
        report = Report(
            data=_data(folder, outcome),
            machine={**machine(threads), "cpu": f"{os.cpu_count()} cores, {machine(threads)['machine']}"},
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            bundle={"name": model.name, "model": model.model_id},
            command=command,
            settings=told,
            notes=folder.notes,
            rows=tables.rows(),
            common=tables.rows(common=True),
            differences=differences(tables),
            knowledge=knowledge(tables),
            per_event=tables.per_event(),
        )
        title = f"{len(folder.images)} images, {len(folder.events)} events, {int(outcome.common.sum())} common tiles"
        figures = {
            "auroc": auroc_png(report.common, title),
            "tiles": examples_png(outcome.examples, PICTURED),
        }
        written = write_report(json, report, figures)
    for path in written:
        console.print(str(path))


class _Bars:
    """One progress bar a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """See :data:`training.evaluate.ood.Progress`."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)


def _meaning(spec: FamilySpec, bands: str | None, gain: float | None) -> PixelMeaning:
    """What numbers are taken for: the gain given, else that of the family's training images."""
    preset = DENOISERS.get(spec.name)
    if gain is None and (preset is None or len(preset.gains) != len(spec.bands)):
        raise TrainingDataInvalid(f"no preset says what an 8-bit number of {spec.name!r} is; give --gain")
    gains = preset.gains if gain is None and preset is not None else (gain or 0.0,) * len(spec.bands)
    try:
        wanted = tuple(int(band) for band in bands.split(",")) if bands else None
    except ValueError as error:
        raise TrainingDataInvalid(f"--bands {bands} is no list of numbers; give one such as 12,8,4") from error
    if wanted is not None and len(wanted) != len(spec.bands):
        raise TrainingDataInvalid(f"--bands {bands}: {spec.name!r} needs {len(spec.bands)} bands, {spec.bands}")
    return PixelMeaning(gains=gains, bands=wanted)


def _chosen(subjects: list[Subject], only: list[str]) -> list[Subject]:
    unknown = set(only) - {subject.name for subject in subjects} - {subject.kind for subject in subjects}
    if unknown:
        names = ", ".join(subject.name for subject in subjects)
        raise TrainingDataInvalid(f"--only {', '.join(sorted(unknown))}: there are {names}, and the kinds of scorers")
    return [subject for subject in subjects if not only or subject.name in only or subject.kind in only]


def _plan(folder: TripleFolder, model: ModelBundle, subjects: list[Subject]) -> dict[str, Any]:
    return {
        "bundle": {"name": model.name, "model": model.model_id},
        "images": len(folder.images),
        "events": len(folder.events),
        "notes": folder.notes,
        "scorers": [
            {"scorer": each.name, "kind": each.kind, "nfe": each.nfe, "tiles": "chosen" if each.expensive else "all"}
            for each in subjects
        ],
    }


def _data(folder: TripleFolder, outcome: Outcome) -> dict[str, Any]:
    ground = outcome.ground
    return {
        "digest": folder.digest(),
        "images": len(folder.images),
        "events": len(folder.events),
        "tiles": len(ground),
        "flooded": int(ground.flooded.sum()),
        "dry": int(ground.dry.sum()),
        "common": int(outcome.common.sum()),
    }


def _given(**options: Any) -> list[str]:
    """Options as they would be typed."""
    words: list[str] = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{name}", str(each)]
    return words
