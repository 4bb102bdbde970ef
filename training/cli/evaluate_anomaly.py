"""``vigie evaluate anomaly``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from engine.odeed import OdeedSettings
from engine.runners import open_runner
from engine.runners.base import Runner, RunnerName
from engine.scoring import RunnerChoice, SceneScorer
from training.cli.common import Threads, errors_told
from training.cli.judging import (
    Bars,
    BundleName,
    Draws,
    JsonFile,
    command_line,
    machine_facts,
    now,
    open_bundle,
)
from training.data.classfolder import ClassFolder, ClassImage
from training.data.digests import digest_of_files
from training.data.heldout import class_tiles
from training.denoise.run_preset import preset_of
from training.errors import RunInvalid, TrainingDataInvalid
from training.evaluate.anomaly import (
    USUAL,
    class_tables,
    image_tiles,
    images_of_each_class,
    measured_normal,
    score_images,
    tables_of,
)
from training.evaluate.before_after import daemon_table, files_of, judge_ground, read_ground, thinned
from training.evaluate.detectors import Detector, subjects_of
from training.evaluate.ood import Subject
from training.evaluate.record import Record, RecordTable
from training.presets import DenoiserPreset, denoiser_preset
from training.running.runfolder import RunFolder
from training.running.serving import open_denoiser, settings_of

AERIAL = "aerial"
HOW = "vigie train denoiser --preset aerial --hold-out-classes beach,harbor,river --data CLASSES --out RUN"


def anomaly(
    json: JsonFile,
    classes: Annotated[Path, typer.Option(help="Aerial images in one sub-folder per class.")],
    joplin: Annotated[Path | None, typer.Option(help="Folder with pre/ and post/ GeoTIFFs of the same ground.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Denoiser run that held classes out; give several.")] = None,
    bundle: BundleName = "base",
    every: Annotated[bool, typer.Option("--all", help="Judge all scorers, not the usual ones alone.")] = False,
    images: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 20,
    side: Annotated[int, typer.Option(min=1, help="Side in pixels that images are averaged to.")] = 128,
    normal: Annotated[int, typer.Option(min=20, help="Normal tiles that density scorers are made from.")] = 300,
    tiles: Annotated[int, typer.Option(min=1, help="Tiles before and tiles after, each at most.")] = 400,
    draws: Draws = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice of images and tiles, and of the draws.")] = 0,
    threads: Threads = 2,
    runner: Annotated[RunnerName, typer.Option(help="What the networks run on.")] = "auto",
) -> None:
    """Judge strangeness apart from floods: classes that a network was not shown, and a place before and after."""
    console = Console(stderr=True)
    command = command_line("anomaly", {name: value for name, value in locals().items() if name != "console"})
    with errors_told(), ExitStack() as stack:
        runs = [RunFolder.open(path, "denoiser") for path in run or []]
        held_out = [_held_out(each) for each in runs]
        model = open_bundle(bundle)
        spec = model.family(AERIAL)
        show = Bars(stack.enter_context(Progress(console=console, transient=True))).show
        encoder = stack.enter_context(
            open_runner(model.encoder_model(AERIAL), runner=runner, device="cpu", threads=threads)
        )
        folder = ClassFolder.open(classes)
        data: dict[str, Any] = {"classes_digest": folder.digest(), "classes": len(folder.labels)}
        notes = [
            "No label and no map is used, for training or for thresholds.",
            "The encoder is the bundle's: it has seen images of all classes, without their names.",
        ]
        pooled: list[dict[str, Any]] = []
        each: list[dict[str, Any]] = []
        for one, names in zip(runs, held_out, strict=True):
            preset = preset_of(one)
            denoiser = stack.enter_context(open_denoiser(one, runner=runner, threads=threads))
            settings = settings_of(one.config, steps=preset.odeed_steps, ratio=preset.odeed_ratio)
            shown = [image for image in folder.halves()[0] if image.label not in names]
            rng = np.random.default_rng((seed, 0xA0A))
            detector = _detector(
                preset, denoiser, encoder, settings, float(one.config["sigma_data"]), shown, side, normal, every, rng
            )
            subjects = _judged(detector, every, paired=False)
            chosen = images_of_each_class(folder.halves()[1], images, rng)
            scored = score_images(
                chosen,
                subjects,
                _tiles_by(preset, side),
                time.monotonic,
                lambda _, done, total, name=one.path.name: show(f"{name}: images", done, total),  # type: ignore[misc]
            )
            rows, by_class = class_tables(one.path.name, scored, names, draws=draws, seed=seed)
            pooled += rows
            each += by_class
            notes.append(f"{one.path.name} was trained without {', '.join(names)}.")
        if not runs:
            notes.append(f"No run held classes out, so none is judged here. This makes one: {HOW}")
        tables: list[RecordTable] = list(tables_of(pooled, each)) if runs else []
        if joplin is not None:
            files = {part: files_of(joplin / part) for part in ("pre", "post")}
            data["joplin_digest"] = digest_of_files(joplin, [*files["pre"], *files["post"]])
            rng = np.random.default_rng((seed, 0x0B1))
            pre, post = (
                read_ground(some, spec.bands, spec.tile_px, lambda _, done, total, name=part: show(name, done, total))  # type: ignore[misc]
                for part, some in files.items()
            )
            data |= {"tiles_before": len(pre.cell_ids), "tiles_after": len(post.cell_ids)}
            scorer = stack.enter_context(SceneScorer(model, RunnerChoice(runner=runner, device="cpu", threads=threads)))
            denoiser = stack.enter_context(
                open_runner(model.denoiser_model(AERIAL), runner=runner, device="cpu", threads=threads)
            )
            preset = denoiser_preset(AERIAL)
            detector = _detector(
                preset, denoiser, encoder, spec.odeed, spec.sigma_data, folder.halves()[0], side, normal, every, rng
            )
            pre, post = thinned(pre, post, tiles, rng)
            tables += [
                judge_ground(pre, post, _judged(detector, every, paired=True), draws=draws, seed=seed, show=show),
                daemon_table(scorer, AERIAL, pre, post),
            ]
            notes.append(
                "The images before and after differ in light, season, resolution and processing, and were re-encoded "
                "as JPEG: an AUROC away from 0.5 is no proof of damage seen."
            )
        if not tables:
            raise TrainingDataInvalid(f"there is nothing to judge; give --joplin, or --run with a run made by: {HOW}")
        record = Record(
            title="Anomalies without labels",
            command=command,
            data=data,
            models={
                "bundle": model.name,
                "model": model.model_id,
                **{one.path.name: one.config["steps"] for one in runs},
            },
            machine=machine_facts(threads),
            date=now(),
            settings={
                "seed": seed,
                "images": images,
                "side": side,
                "normal": normal,
                "tiles": tiles,
                "draws": draws,
                "all": every,
            },
            notes=notes,
            tables=tables,
        )
        written = record.write(json)
    for path in written:
        console.print(str(path))


def _held_out(run: RunFolder) -> tuple[str, ...]:
    names = tuple(run.config["preset"].get("held_out_classes", ()))
    if not names:
        raise RunInvalid(f"{run.path} held no class out, so no class is new to it; train one with: {HOW}")
    return names


def _detector(
    preset: DenoiserPreset,
    denoiser: Runner,
    encoder: Runner,
    settings: OdeedSettings,
    sigma_data: float,
    shown: Sequence[ClassImage],
    side: int,
    count: int,
    every: bool,
    rng: np.random.Generator,
) -> Detector:
    tiles = class_tiles(rng, shown, preset.gains, preset.tile_px, (side,), count)
    return Detector(
        bands=preset.bands,
        sigma_data=sigma_data,
        settings=settings,
        denoiser=denoiser,
        encoder=encoder,
        arrays=measured_normal(denoiser if every else None, encoder, tiles, settings.schedule()),
    )


def _judged(detector: Detector, every: bool, *, paired: bool) -> list[Subject]:
    return [
        subject
        for subject in subjects_of(detector)
        if (subject.unpaired is None and paired) or (subject.unpaired is not None and (every or subject.name in USUAL))
    ]


def _tiles_by(preset: DenoiserPreset, side: int) -> Any:
    return lambda image: image_tiles(image, preset.gains, preset.tile_px, side)
