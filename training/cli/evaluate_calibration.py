"""``vigie evaluate calibration``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from engine.bundle import ModelBundle
from engine.flood import FloodModel
from engine.runners.base import RunnerName
from engine.scoring import RunnerChoice, SceneScorer
from engine.spectrum import feature_names
from training.cli.common import Threads, errors_told
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
from training.data.classfolder import ClassFolder
from training.data.reflectance import PixelMeaning
from training.data.triples import TripleFolder
from training.errors import TrainingDataInvalid
from training.evaluate.calibration_family import (
    CheckSettings,
    FamilyScenes,
    events_tables,
    halves_table,
    support_table,
)
from training.evaluate.decisions import FloodModels, refitted
from training.evaluate.record import Record
from training.evaluate.scenes import (
    Progress as Show,
)
from training.evaluate.scenes import (
    Scenes,
    by_networks,
    by_spectrum,
    images_of_each_event,
    of_classes,
    of_triples,
)
from training.flood.fit import FloodFit
from training.presets import denoiser_preset

SATELLITE, AERIAL = "sentinel-2", "aerial"
NO_EXCHANGE = (
    "Tiles of one land are alike and those of another differ: across events exchangeability fails, and no calibration "
    "promises anything there. The interval by event is the honest one for a new place."
)


def calibration(
    json: JsonFile,
    data: Annotated[Path | None, typer.Option(help="Satellite folder with before/, after/ and mask/.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Aerial images in one sub-folder per class.")] = None,
    bundle: BundleName = "base",
    event: Events = None,
    bands: Bands = None,
    gain: Gain = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the flood model anew without each event, whatever the bundle has.")
    ] = False,
    images: Annotated[int, typer.Option(min=2, help="Satellite images that the networks run on.")] = 150,
    tiles: Annotated[int, typer.Option(min=2, help="Aerial tiles.")] = 1200,
    splits: Annotated[int, typer.Option(min=1, help="Random halves.")] = 200,
    looks_per_month: Annotated[float, typer.Option(min=0.01, help="How often a place is seen.")] = 6.0,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of images and tiles, the halves, and the draws.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the networks run on.")] = "auto",
) -> None:
    """Is a p-value worth its name? Measured false-tile rates beside what was asked for, and recall at the budget."""
    console = Console(stderr=True)
    command = command_line("calibration", {name: value for name, value in locals().items() if name != "console"})
    how = CheckSettings(splits=splits, draws=draws, seed=seed)
    with errors_told(), ExitStack() as stack:
        if data is None and classes is None:
            raise TrainingDataInvalid("there is nothing to judge on; give --data, --classes, or both")
        model = open_bundle(bundle)
        show = Bars(stack.enter_context(Progress(console=console, transient=True))).show
        choice = RunnerChoice(runner=runner, device="cpu", threads=threads)
        scorer = stack.enter_context(SceneScorer(model, choice))
        families: list[FamilyScenes] = []
        facts: dict[str, Any] = {}
        notes = [NO_EXCHANGE]
        if data is not None:
            folder = TripleFolder.open(data)
            folder = folder.of_events(event) if event else folder
            meaning = pixel_meaning(model.family(SATELLITE), bands, gain)
            some = images_of_each_event(folder, images, np.random.default_rng((seed, 0xCA0)))
            found, note = _satellite(scorer, folder, some, meaning, refit, show)
            families.append(found)
            notes += [*folder.notes, note]
            facts |= {f"{SATELLITE}_digest": folder.digest(), f"{SATELLITE}_events": list(folder.events)}
        if classes is not None:
            folder_of_classes = ClassFolder.open(classes)
            families.append(_aerial(scorer, folder_of_classes, tiles, seed, show))
            notes.append("Aerial second looks are simulated; their classes stand for events.")
            facts |= {f"{AERIAL}_digest": folder_of_classes.digest()}
        for each in families:
            colour = 0 if each.colour is None else len(each.colour)
            facts |= {f"{each.family}_tiles": len(each.networks), f"{each.family}_flood_tiles": colour}
        pooled, one_by_one = events_tables(families, how)
        record = Record(
            title="Calibration: measured false tiles",
            command=command,
            data=facts,
            models={"bundle": model.name, "model": model.model_id},
            machine=machine_facts(threads),
            date=now(),
            settings={
                "seed": seed,
                "splits": splits,
                "draws": draws,
                "images": images,
                "tiles": tiles,
                "refit": refit,
                "looks_per_month": looks_per_month,
            },
            notes=notes,
            tables=[halves_table(families, how), pooled, one_by_one, support_table(families, looks_per_month)],
        )
        written = record.write(json)
    for path in written:
        console.print(str(path))


def _satellite(
    scorer: SceneScorer, folder: TripleFolder, some: TripleFolder, meaning: PixelMeaning, refit: bool, show: Show
) -> tuple[FamilyScenes, str]:
    spec = scorer.bundle.family(SATELLITE)

    def measured(of: TripleFolder, networks: bool) -> Scenes:
        measure = by_networks(scorer, SATELLITE) if networks else by_spectrum(spec.bands)
        stage = "networks" if networks else "colour"
        return of_triples(
            of, meaning, spec.bands, spec.tile_px, measure, lambda _, done, total: show(stage, done, total)
        )

    every = measured(folder, False)
    models, note = flood_models(scorer.bundle, every, refit)
    return FamilyScenes(family=SATELLITE, networks=measured(some, True), colour=every, models=models), note


def _aerial(scorer: SceneScorer, folder: ClassFolder, tiles: int, seed: int, show: Show) -> FamilyScenes:
    spec, preset = scorer.bundle.family(AERIAL), denoiser_preset(AERIAL)
    _, held_out = folder.halves()
    found = of_classes(
        held_out,
        preset.gains,
        spec.bands,
        spec.tile_px,
        preset.sides_px,
        tiles,
        by_networks(scorer, AERIAL),
        np.random.default_rng((seed, 0xAE1)),
        show,
    )
    return FamilyScenes(family=AERIAL, networks=found, colour=None, models=lambda _: None)


def flood_models(bundle: ModelBundle, scenes: Scenes, refit: bool) -> tuple[FloodModels, str]:
    """The flood models of the events, and a sentence that says where they come from."""
    spec = bundle.family(SATELLITE)
    shipped = FloodModel.from_arrays(spec.calibration, len(feature_names(spec.bands)))
    if shipped is None or refit:
        why = "as was asked" if shipped is not None else "for the bundle has none"
        return refitted(scenes, FloodFit()), f"The flood model was fitted anew without each event, {why}."
    return (lambda _: shipped), (
        "The flood model is the bundle's. If it was fitted on these very events (see the model card), the flood rows "
        "flatter it: give --refit."
    )
