"""``vigie evaluate cascade``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from engine.runners.base import RunnerName
from engine.scoring import RunnerChoice, SceneScorer
from training.cli.common import Threads, errors_told
from training.cli.evaluate_calibration import SATELLITE, flood_models
from training.cli.judging import (
    Bands,
    Bars,
    BundleName,
    Events,
    Gain,
    JsonFile,
    command_line,
    machine_facts,
    now,
    open_bundle,
    pixel_meaning,
)
from training.data.triples import TripleFolder
from training.evaluate.cascade import KEEP, Costs
from training.evaluate.cascade_report import (
    Full,
    TimedMeasure,
    cascade_png,
    cascade_tables,
    cascades_of,
    decision_of,
    notes_of,
)
from training.evaluate.decisions import Basis
from training.evaluate.record import Record
from training.evaluate.scenes import by_networks, by_spectrum, images_of_each_event, of_triples


def cascade(
    data: Annotated[Path, typer.Option(help="Folder with before/, after/ and mask/ (WebP, PNG, GeoTIFF).")],
    json: JsonFile,
    bundle: BundleName = "base",
    event: Events = None,
    bands: Bands = None,
    gain: Gain = None,
    full: Annotated[Full, typer.Option(help="The full decision: both tracks, or the anomaly track.")] = "decision",
    basis: Annotated[
        Basis, typer.Option(help="single: nothing is known of the place; pair: one earlier look.")
    ] = "single",
    per_1000: Annotated[float, typer.Option(min=0.01, help="Working threshold: false tiles per 1,000.")] = 10.0,
    keep: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the recall to keep.")] = KEEP,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the flood model anew without each event, whatever the bundle has.")
    ] = False,
    images: Annotated[int, typer.Option(min=2, help="Images that are judged.")] = 150,
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the networks run on.")] = "auto",
) -> None:
    """How many tiles must the full decision still see, if a cheap score goes first and the recall is to be kept?"""
    console = Console(stderr=True)
    command = command_line("cascade", {name: value for name, value in locals().items() if name != "console"})
    with errors_told(), ExitStack() as stack:
        model = open_bundle(bundle)
        spec = model.family(SATELLITE)
        meaning = pixel_meaning(spec, bands, gain)
        folder = TripleFolder.open(data)
        folder = folder.of_events(event) if event else folder
        some = images_of_each_event(folder, images, np.random.default_rng((seed, 0xCA5)))
        show = Bars(stack.enter_context(Progress(console=console, transient=True))).show
        scorer = stack.enter_context(SceneScorer(model, RunnerChoice(runner=runner, device="cpu", threads=threads)))
        scorer.open(SATELLITE)
        colour = TimedMeasure(by_spectrum(spec.bands), time.monotonic)
        networks = TimedMeasure(by_networks(scorer, SATELLITE), time.monotonic)
        every = of_triples(
            folder, meaning, spec.bands, spec.tile_px, colour, lambda _, done, total: show("colour", done, total)
        )
        models, note = flood_models(model, every, refit)
        scenes = of_triples(
            some, meaning, spec.bands, spec.tile_px, networks, lambda _, done, total: show("networks", done, total)
        )
        costs = Costs(cheap=colour.ms_per_tile, full=networks.ms_per_tile)
        decision = decision_of(scenes, full, basis, per_1000, models)
        cascades = cascades_of(scenes, decision, costs, keep)
        notes = [*notes_of(full, keep, list(decision.cheap)), note, *folder.notes]
        if decision.extrapolated:
            notes.append("The calibration is too small for this rate: a fitted tail set a threshold.")
        record = Record(
            title="Cascade: a cheap score before the full decision",
            command=command,
            data={
                "digest": folder.digest(),
                "images": len(some.images),
                "events": list(some.events),
                "tiles": len(scenes),
                "flooded": int(scenes.flooded.sum()),
            },
            models={"bundle": model.name, "model": model.model_id},
            machine=machine_facts(threads),
            date=now(),
            settings={
                "full": full,
                "basis": basis,
                "per_1000": per_1000,
                "keep": keep,
                "refit": refit,
                "seed": seed,
                "cheap_ms_per_tile": round(costs.cheap, 4),
                "full_ms_per_tile": round(costs.full, 4),
            },
            notes=notes,
            tables=cascade_tables(cascades),
        )
        picture = cascade_png(scenes, decision, cascades, keep)
        written = record.write(json, {"curve": picture} if picture else None)
    for path in written:
        console.print(str(path))
