"""Models and bundles small enough to build in a test, with weights that are random but not degenerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.bundle import ModelBundle
from engine.bundle_writer import FamilyParts, write_bundle
from engine.odeed import OdeedSettings
from engine.tiles import Float32Array
from engine.unet import DenoiserUNet, EDMDenoiser
from engine.vit import VisionTransformer

TILE_PX = 16
BANDS = {"sentinel-2": ("swir16", "nir", "red"), "aerial": ("red", "green", "blue")}


def tiles(count: int, seed: int = 0) -> Float32Array:
    """Smooth tiles in [-1, 1].  (N, 3, 16, 16)"""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-0.9, 0.9, (count, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    return coarse.astype(np.float32)


def encoder(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(3, TILE_PX, 8, 16, 2, 2).eval()


def denoiser(seed: int = 0, cond_chans: int = 0) -> EDMDenoiser:
    torch.manual_seed(seed)
    net = DenoiserUNet(3, cond_chans, 8, (1, 2), blocks=1)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    return EDMDenoiser(net, 0.4).eval()


def parts(name: str, **changes: Any) -> FamilyParts:
    values: dict[str, Any] = {
        "name": name,
        "bands": BANDS[name],
        "gsd_range_m": (10.0, 10.0),
        "tile_px": TILE_PX,
        "odeed": OdeedSettings(steps=3, sigma_max=5.0),
        "encoder": encoder(),
        "denoiser": denoiser(),
        "calibration": {"scores": np.arange(5, dtype=np.float32)},
        "golden_pixels": tiles(3),
    }
    return FamilyParts(**{**values, **changes})


def small_bundle(path: Path, *families: FamilyParts) -> ModelBundle:
    shared = encoder()
    chosen = families or tuple(parts(name, encoder=shared) for name in BANDS)
    return write_bundle(path, chosen, name="small", model_card="For tests.", provenance={"command": "none"})
