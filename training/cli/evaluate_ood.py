"""``vigie evaluate ood``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from engine.bundle import ModelBundle
from engine.runners import open_runner
from engine.runners.base import RunnerName
from engine.scorers.lpips import Lpips
from training.cli.common import DryRun, Threads, errors_told, print_json
from training.cli.judging import (
    Bands,
    Bars,
    BundleName,
    Draws,
    Events,
    Gain,
    JsonFile,
    command_line,
    machine_facts,
    now,
    open_bundle,
    pixel_meaning,
)
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.errors import TrainingDataInvalid
from training.evaluate.comparison import differences, knowledge
from training.evaluate.detectors import Detector, subjects_of
from training.evaluate.figures import auroc_png, examples_png
from training.evaluate.folds import Folds, judge_by_event
from training.evaluate.memo import MemoRunner, Savings
from training.evaluate.ood import Judging, Outcome, RunSettings, Subject
from training.evaluate.report import Report, write_report
from training.evaluate.table import Tables
from training.running.runfolder import RunFolder

PICTURED = "odeed"
"""The scorer whose maps are shown with the example tiles."""


def ood(
    data: Annotated[Path, typer.Option(help="Folder with before/, after/ and mask/ (WebP, PNG, GeoTIFF).")],
    json: JsonFile,
    bundle: BundleName = "base",
    fold: Annotated[
        list[Path] | None,
        typer.Option(help="Denoiser run: its held-out events are judged by it and not by the bundle. Give several."),
    ] = None,
    family: Annotated[str, typer.Option(help="Sensor family of the images.")] = "sentinel-2",
    bands: Bands = None,
    gain: Gain = None,
    event: Events = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this scorer or kind alone; give several.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors): ODEED by LPIPS too.")] = None,
    tiles: Annotated[int, typer.Option(min=3, help="Tiles that expensive scorers run on.")] = RunSettings.tiles,
    pixels: Annotated[int, typer.Option(min=1, help="Judged pixels of each tile.")] = RunSettings.pixels,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of tiles and pixels, and of the draws.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the networks run on.")] = "auto",
    dry_run: DryRun = False,
) -> None:
    """Judge every scorer beside its controls, on floods that nobody needs to have seen before.

    With --fold the folder must be the one that the runs were trained on: each of its events is judged by the run that
    held it out, and by a flood model that is fitted without it.
    """
    console = Console(stderr=True)
    given = {"data": data, "json": json, "bundle": bundle, "fold": fold, "family": family, "bands": bands, "gain": gain}
    given |= {"event": event, "only": only, "lpips": lpips, "tiles": tiles, "pixels": pixels, "draws": draws}
    command = command_line("ood", {**given, "seed": seed, "threads": threads})
    with errors_told(), ExitStack() as stack:
        folder = TripleFolder.open(data)
        folder = folder.of_events(event) if event else folder
        model = open_bundle(bundle)
        spec = model.family(family)
        meaning = pixel_meaning(spec, bands, gain)
        savings = Savings(time.monotonic)
        detector = _detector(stack, model, family, savings, lpips, threads=threads, runner=runner)
        settings = RunSettings(tile_px=spec.tile_px, tiles=tiles, pixels=pixels, seed=seed)
        subjects = _chosen(subjects_of(detector), only or [])
        told = {**asdict(settings), "draws": draws, "family": family, "bands": spec.bands, "gains": meaning.gains}
        if dry_run:
            print_json({"command": command, "settings": told, **_plan(folder, model, subjects)})
            return
        bars = Bars(stack.enter_context(Progress(console=console, transient=True)))
        judge = _judge(meaning, savings, bars)
        if fold:
            runs = [RunFolder.open(path, "denoiser") for path in fold]
            folds = stack.enter_context(Folds(runs, detector, data, savings, threads=threads, seed=seed))
            folds.check(folder.events)

            def judge_event(part: TripleFolder, which: str, share: int) -> Outcome:
                chosen = _chosen(subjects_of(folds.detector(which)), only or [])
                return judge(part, chosen, replace(settings, tiles=share))

            outcome = judge_by_event(folder, judge_event, tiles)
            told["folds"] = {run.path.name: run.config["preset"]["held_out_events"] for run in runs}
        else:
            outcome = judge(folder, subjects, settings)
        tables = Tables.of(subjects, outcome, draws=draws, seed=seed)
        report = Report(
            data=_data(folder, outcome),
            machine=machine_facts(threads),
            date=now(),
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


def _detector(
    stack: ExitStack,
    model: ModelBundle,
    family: str,
    savings: Savings,
    lpips: Path | None,
    *,
    threads: int,
    runner: RunnerName,
) -> Detector:
    """The bundle's networks, opened, and what it has beside them."""
    spec = model.family(family)
    denoiser, encoder = (
        MemoRunner(
            stack.enter_context(open_runner(network, runner=runner, device="cpu", threads=threads)),
            savings,
        )
        for network in (model.denoiser_model(family), model.encoder_model(family))
    )
    return Detector(
        bands=spec.bands,
        sigma_data=spec.sigma_data,
        settings=spec.odeed,
        denoiser=denoiser,
        encoder=encoder,
        arrays=spec.calibration,
        lpips=None if lpips is None else Lpips.open(lpips).distance,
    )


def _judge(
    meaning: PixelMeaning, savings: Savings, bars: Bars
) -> Callable[[TripleFolder, list[Subject], RunSettings], Outcome]:
    def judge(folder: TripleFolder, subjects: list[Subject], settings: RunSettings) -> Outcome:
        return Judging(
            folder=folder,
            subjects=subjects,
            meaning=meaning,
            settings=settings,
            monotonic=savings.clock,
            progress=bars.show,
        ).run(PICTURED)

    return judge


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
