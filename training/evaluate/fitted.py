"""What is fitted beside the networks, on the events that they were trained on: normal arrays and the flood model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.odeed import OdeedSettings
from engine.runners.base import Runner
from engine.scorers.normal import normal_arrays
from engine.tiles import Float32Array
from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.denoise.normal_tiles import open_tiles
from training.flood.fit import FloodExamples, FloodFit, examples_of, fit_flood_model
from training.presets import DenoiserPreset

Arrays = dict[str, Float32Array]


@dataclass(frozen=True, kw_only=True)
class Networks:
    """A family's networks, opened, and the settings that its tiles are scored with."""

    denoiser: Runner
    encoder: Runner
    odeed: OdeedSettings


def normal_of(preset: DenoiserPreset, data: Path, nets: Networks, count: int, rng: np.random.Generator) -> Arrays:
    """The arrays of the density scorers, on training tiles that are not augmented."""
    x = open_tiles(preset, data).pool.tiles(rng, count, preset.tile_px)
    valid = np.ones((len(x), *x.shape[2:]), dtype=np.bool_)
    return normal_arrays(nets.denoiser, nets.encoder, x, valid, nets.odeed.schedule())


def flood_examples(
    preset: DenoiserPreset, data: Path, how: FloodFit, rng: np.random.Generator, *, but: Sequence[str] = ()
) -> FloodExamples:
    """The features of every tile of the folder, or of all events but some, in varied light."""
    folder = OmbriaFolder.open(data)
    images = folder.of_events([event for event in folder.events if event not in but])
    return examples_of(flood_tiles(images, preset.gains, preset.tile_px), preset.bands, how, rng)


def flood_arrays(examples: FloodExamples, held_out: Sequence[str], how: FloodFit) -> Arrays:
    """The flood model, fitted on all events but those held out."""
    model = fit_flood_model(examples.of_events(held_out, but=True), how)
    return {"flood_now": model.now, "flood_gain": model.gain}
