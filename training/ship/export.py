"""Makes a model bundle from finished runs: calibrates their networks, then writes all with a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.bundle import ModelBundle
from engine.bundle_writer import FamilyParts, write_bundle
from engine.condition import condition_of
from engine.odeed import OdeedSettings
from engine.runners.base import Runner, RunnerName
from engine.unet import EDMDenoiser
from engine.vit import VisionTransformer
from training.data.classfolder import ClassFolder
from training.data.heldout import FloodTiles, class_tiles
from training.denoise.run_preset import preset_of
from training.errors import RunInvalid
from training.evaluate.encoders.checks import Figure, neighbour_accuracy, recall_at_1
from training.evaluate.encoders.preprocessing import of_whole_images, whole_images
from training.evaluate.encoders.subjects import plain_pixels
from training.evaluate.fitted import Networks, flood_arrays, flood_examples, normal_of
from training.flood.fit import FloodFit
from training.presets import DenoiserPreset
from training.running.runfolder import RunFolder
from training.running.serving import (
    build_denoiser,
    build_encoder,
    cls_embeddings,
    open_denoiser,
    open_encoder,
    settings_of,
)
from training.ship.calibration import (
    calibrate_classes,
    calibrate_ombria,
    held_out_floods,
)
from training.ship.model_card import CardFacts, ExportSizes, model_card

Float32Array = npt.NDArray[np.float32]
Say = Callable[[str], None]

GOLDEN_TILES = 4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one family's networks."""

    arrays: Mapping[str, Float32Array]
    """Calibration."""
    figures: tuple[Figure, ...]
    """Of the encoder."""
    golden: Float32Array
    """A few held-out tiles, reflectance.  (N, C, H, W)"""
    golden_cond: Float32Array | None
    """Their conditions, where the denoiser takes one: every second tile's other look, nothing for the others."""
    notes: Mapping[str, Any]
    """For the manifest."""


def export_bundle(
    out: Path,
    name: str,
    encoder_run: Path,
    denoisers: Mapping[Path, Path],
    *,
    sizes: ExportSizes,
    seed: int,
    threads: int,
    runner: RunnerName,
    overwrite: bool,
    say: Say,
) -> ModelBundle:
    """Calibrate and write a bundle.

    Args:
        out: folder that will hold the bundle's folder ``name``.
        name: of the bundle.
        encoder_run: finished ``xstars`` run; its encoder serves all families, each behind its own patch
            embedding if it has one.
        denoisers: finished ``denoiser`` run -> its data folder, whose held-out part calibrates.
        sizes: how much is measured.
        seed: of the choice of held-out tiles.
        threads: CPU threads.
        runner: what measures; the golden batch is recorded by torch in any case.
        overwrite: replace a bundle of that name.
        say: told what goes on.

    Raises:
        RunInvalid: a run is not finished or of another kind.
        TrainingDataInvalid: a data folder is not of its preset's layout.
        BundleError: the bundle is there already, or the weights cannot be stored.
    """
    if not denoisers:
        raise RunInvalid("a bundle needs a denoiser: give --denoiser RUN and its --data FOLDER")
    encoder = RunFolder.open(encoder_run, "xstars")
    families: list[FamilyParts] = []
    measured: dict[str, Measured] = {}
    runs: dict[str, RunFolder] = {}
    opened = [(RunFolder.open(path, "denoiser"), data) for path, data in denoisers.items()]
    # One thread for each family at once does more than all threads on one family after the other.
    workers = min(threads, len(opened))
    inner = max(1, threads // workers)

    def work(run: RunFolder, data: Path, denoiser: Runner) -> tuple[RunFolder, FamilyParts, Measured]:
        preset = preset_of(run)
        settings = settings_of(run.config, steps=preset.odeed_steps, ratio=preset.odeed_ratio)
        say(f"{preset.family}: calibrating {run.path.name} ...")
        found = _measure(
            preset, data, Networks(denoiser=denoiser, encoder=embeddings[preset.family], odeed=settings), sizes, seed
        )
        return run, _parts(preset, settings, encoders[preset.family], build_denoiser(run), found), found

    with ExitStack() as stack:
        # Graphs are made here, one after the other: their exporter is not made for threads.
        served = [preset_of(run).family for run, _ in opened]
        # The writer stores one network once, however many families it serves.
        shared = None if encoder.config["preset"].get("patch_embedding") == "per-sensor" else build_encoder(encoder)
        encoders = {family: shared or build_encoder(encoder, family) for family in served}
        embeddings = {
            family: stack.enter_context(open_encoder(encoder, sensor=family, runner=runner, threads=inner))
            for family in served
        }
        nets = [stack.enter_context(open_denoiser(run, runner=runner, threads=inner)) for run, _ in opened]
        executor = stack.enter_context(ThreadPoolExecutor(workers))
        for run, parts, found in executor.map(work, *zip(*opened, strict=True), nets):
            runs[parts.name], measured[parts.name] = run, found
            families.append(parts)
    facts = CardFacts(
        name=name,
        encoder=encoder.config,
        denoisers={family: run.config for family, run in runs.items()},
        settings={parts.name: parts.odeed for parts in families},
        sizes=sizes,
        figures=tuple(figure for found in measured.values() for figure in found.figures),
        calibration={family: found.arrays for family, found in measured.items()},
    )
    return write_bundle(
        out / name,
        families,
        name=name,
        model_card=model_card(facts),
        provenance={
            "encoder": _provenance(encoder),
            "denoisers": {family: _provenance(run) for family, run in runs.items()},
            "calibration": {family: dict(found.notes) for family, found in measured.items()},
            "seed": seed,
        },
        overwrite=overwrite,
    )


def _measure(preset: DenoiserPreset, data: Path, nets: Networks, sizes: ExportSizes, seed: int) -> Measured:
    rng = np.random.default_rng((seed, 0xCA1))
    arrays = normal_of(preset, data, nets, sizes.normal, rng)
    if preset.layout == "ombria":
        floods = held_out_floods(preset, data)
        arrays |= calibrate_ombria(preset, floods, nets, tiles=sizes.tiles, pairs=sizes.pairs, rng=rng)
        how = FloodFit()
        seen = flood_examples(preset, data, how, rng, but=preset.held_out_events)
        arrays |= flood_arrays(seen, preset.held_out_events, how)
        figures = (_places(floods, nets.encoder, sizes, rng),)
        some = np.sort(rng.permutation(len(floods))[:GOLDEN_TILES])
        golden = floods.before[some]
        known = np.arange(GOLDEN_TILES) % 2 == 0
        cond = condition_of(
            floods.after[some], np.broadcast_to(known[:, None, None], (GOLDEN_TILES, *golden.shape[2:]))
        )
        notes = {"held_out": f"event blocks {', '.join(preset.held_out_events)}", "pairs": "before and dry after"}
    else:
        _, held_out = ClassFolder.open(data).halves()
        arrays |= calibrate_classes(preset, data, nets, tiles=sizes.tiles, pairs=sizes.pairs, rng=rng)
        figures = (_classes(preset, data, nets.encoder),)
        golden = class_tiles(rng, held_out, preset.gains, preset.tile_px, preset.sides_px, GOLDEN_TILES)
        cond = condition_of(golden, np.zeros((GOLDEN_TILES, *golden.shape[2:]), dtype=np.bool_))
        notes = {"held_out": "every second image of each class", "pairs": "simulated"}
    return Measured(
        arrays=arrays,
        figures=figures,
        golden=golden,
        golden_cond=cond if preset.unet.cond_chans else None,
        notes=notes,
    )


def _places(floods: FloodTiles, encoder: Runner, sizes: ExportSizes, rng: np.random.Generator) -> Figure:
    dry = floods.sample(rng, dry=sizes.pairs, flooded=0)
    return Figure(
        name=f"place found again in the later image among {len(dry)} (recall@1)",
        encoder=recall_at_1(cls_embeddings(encoder, dry.after), cls_embeddings(encoder, dry.before)),
        pixels=recall_at_1(plain_pixels(dry.after), plain_pixels(dry.before)),
        chance=1 / len(dry),
    )


def _classes(preset: DenoiserPreset, data: Path, encoder: Runner) -> Figure:
    folder = ClassFolder.open(data)
    how = replace(of_whole_images(preset.tile_px), gains={"aerial": preset.gains})
    (train, labels), (test, wanted) = (
        (whole_images(half, how), [image.label for image in half]) for half in folder.halves()
    )
    return Figure(
        name=f"class by 20 neighbours, {len(folder.labels)} classes, whole images averaged to {preset.tile_px} px",
        encoder=neighbour_accuracy(cls_embeddings(encoder, train), labels, cls_embeddings(encoder, test), wanted),
        pixels=neighbour_accuracy(plain_pixels(train), labels, plain_pixels(test), wanted),
        chance=1 / len(folder.labels),
    )


def _parts(
    preset: DenoiserPreset,
    settings: OdeedSettings,
    encoder: VisionTransformer,
    denoiser: EDMDenoiser,
    found: Measured,
) -> FamilyParts:
    return FamilyParts(
        name=preset.family,
        bands=preset.bands,
        gsd_range_m=preset.gsd_range_m,
        tile_px=preset.tile_px,
        odeed=settings,
        encoder=encoder,
        denoiser=denoiser,
        calibration=found.arrays,
        golden_pixels=np.asarray(found.golden * 2 - 1, dtype=np.float32),
        golden_cond=found.golden_cond,
    )


def _provenance(run: RunFolder) -> dict[str, Any]:
    """What decides a run's weights; times and machines are left to the model card."""
    return {key: run.config[key] for key in ("preset", "seed", "steps", "threads", "data")}
