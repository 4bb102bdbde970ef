"""Calibration arrays: what scores look like on ground where nothing happened, measured with the served networks.

Unpaired: ``odeed`` (n,), raw scores of held-out clear tiles. Paired, the same ground seen twice: ``pair_odeed_a``,
``pair_odeed_b`` (m,), ``pair_cls_distance`` (m,) = 1 - cosine, and where the bands know water ``pair_water_a``,
``pair_water_b`` (m,), shares 0..1. With the flood model ``flood_now``, ``flood_gain`` (K + 1,) come ``spectrum``
(n, K), ``pair_spectrum_a`` and ``pair_spectrum_b`` (m, K) of the same tiles (:mod:`engine.spectrum`). What the density
scorers are made from, measured on training tiles, is listed in :mod:`engine.scorers.normal`. All float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.runners.base import Runner
from engine.tiles import Tile, TileBatch
from engine.water import water_share
from training.data.classfolder import ClassFolder
from training.data.heldout import FloodTiles, SecondLook, class_tiles, flood_tiles, second_looks
from training.data.ombria import OmbriaFolder
from training.evaluate.fitted import Networks
from training.flood.fit import features_of
from training.presets import DenoiserPreset
from training.running.serving import cls_embeddings, cosine_distance, odeed_scores

Float32Array = npt.NDArray[np.float32]
Arrays = dict[str, Float32Array]


def held_out_floods(preset: DenoiserPreset, data: Path) -> FloodTiles:
    """Tiles of the events that the preset holds out."""
    folder = OmbriaFolder.open(data)
    return flood_tiles(folder.of_events(preset.held_out_events), preset.gains, preset.tile_px)


def calibrate_ombria(
    preset: DenoiserPreset, floods: FloodTiles, nets: Networks, *, tiles: int, pairs: int, rng: np.random.Generator
) -> Arrays:
    """From held-out events: *before* tiles, and real pairs of before and after tiles that the mask calls dry."""
    normal = floods.take(np.sort(rng.permutation(len(floods))[:tiles]))
    again = floods.sample(rng, dry=pairs, flooded=0)
    gsd_m = preset.gsd_range_m[0]
    return {
        "odeed": odeed_scores(nets.denoiser, nets.odeed, normal.before),
        "spectrum": features_of(normal.before, preset.bands),
        "pair_odeed_a": odeed_scores(nets.denoiser, nets.odeed, again.before),
        "pair_odeed_b": odeed_scores(nets.denoiser, nets.odeed, again.after),
        "pair_cls_distance": pair_distance(nets.encoder, again.before, again.after),
        "pair_water_a": water_of(again.before, preset.bands, gsd_m),
        "pair_water_b": water_of(again.after, preset.bands, gsd_m),
        "pair_spectrum_a": features_of(again.before, preset.bands),
        "pair_spectrum_b": features_of(again.after, preset.bands),
    }


def calibrate_classes(
    preset: DenoiserPreset,
    data: Path,
    nets: Networks,
    *,
    tiles: int,
    pairs: int,
    rng: np.random.Generator,
) -> Arrays:
    """From the held-out half of each class; its pairs are *simulated* second looks (:class:`SecondLook`)."""
    _, held_out = ClassFolder.open(data).halves()
    normal = class_tiles(rng, held_out, preset.gains, preset.tile_px, preset.sides_px, tiles)
    first, again = second_looks(rng, held_out, preset.gains, preset.tile_px, preset.sides_px, pairs, SecondLook())
    return {
        "odeed": odeed_scores(nets.denoiser, nets.odeed, normal),
        "pair_odeed_a": odeed_scores(nets.denoiser, nets.odeed, first),
        "pair_odeed_b": odeed_scores(nets.denoiser, nets.odeed, again),
        "pair_cls_distance": pair_distance(nets.encoder, first, again),
    }


def pair_distance(encoder: Runner, first: Float32Array, second: Float32Array) -> Float32Array:
    """1 - cosine of the CLS embeddings of two looks, reflectance (n, C, H, W) each.  (n,)"""
    return cosine_distance(cls_embeddings(encoder, first), cls_embeddings(encoder, second))


def water_of(tiles: Float32Array, bands: Sequence[str], gsd_m: float) -> Float32Array:
    """Share of open water by the engine's own rule, of complete reflectance tiles (n, C, H, W).  (n,)"""
    n, _, height, _ = tiles.shape
    # Training tiles lie nowhere on earth; the water rule reads pixels alone.
    nowhere = Tile(
        cell_id="", row=0, col=0, crs="EPSG:32631", transform=(gsd_m, 0, 0, 0, -gsd_m, 0), size_px=height, valid_ratio=1
    )
    return water_share(
        TileBatch(
            tiles=(nowhere,) * n,
            pixels=tiles,
            valid=np.ones((n, height, tiles.shape[3]), dtype=np.bool_),
            bands=tuple(bands),
            gsd_m=gsd_m,
        )
    )
