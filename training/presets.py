"""What denoisers are trained with: one frozen value per network, printed by ``--dry-run``.

``sentinel-2`` and ``aerial`` are shipped and fit a CPU. ``sentinel-2-large`` and ``spacenet8`` are for a GPU; ``joint``
answers whether one network for both families does as well as one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from engine.unet import UnetConfig
from training.data.pool import Augmentation
from training.errors import RunInvalid

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HELD_OUT_EVENTS = ("B", "C", "K")
"""OMBRIA event blocks that no network is trained on: they calibrate and judge."""

OMBRIA_GAINS = (0.00267, 0.00267, 0.00267)
"""Reflectance per 8-bit number of OMBRIA's SWIR, NIR and red: an assumption, made by ``vigie train quantiles``."""

AERIAL_GAINS = (1 / 255, 1 / 255, 1 / 255)
"""Aerial 8-bit numbers are read as dn / 255, here as in the daemon."""


@dataclass(frozen=True, kw_only=True)
class DenoiserPreset:
    """One EDM denoiser of one family."""

    name: str
    layout: str
    """How the training folder is laid out, by name: :data:`training.denoise.layouts.LAYOUTS`, or ``joint``."""
    family: str
    bands: tuple[str, ...]
    gsd_range_m: tuple[float, float]
    gains: tuple[float, ...]
    """Reflectance per number as it is stored (8-bit in all presets here), one per band."""
    image_gsd_m: float = 10.0
    """Pixel size of the images as they are stored, metres; what a joint network is told of them."""
    tile_px: int = 64
    unet: UnetConfig = field(
        default_factory=lambda: UnetConfig(in_chans=3, width=16, mults=(1, 2, 4, 6), blocks=1, attention=True)
    )
    """Narrow at full resolution: on 2 CPU cores it is 3 times faster than width 32 with as many parameters."""
    crop_px: int = 32
    """Side of the tiles in the first part of a run: 4 times as many different ones for the price of a whole tile."""
    finish: float = 0.2
    """Share of the steps, the last ones, on whole tiles, which are what is served."""
    batch: int = 32
    """Tiles of ``crop_px`` a step; as many pixels of whole tiles."""
    steps: int | None = None
    """Length of a run where none is asked for; None: it must be asked for."""
    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 50
    ema: float = 0.995
    p_mean: float = -1.2
    """P_mean of Karras et al. for σ_data = 0.5; training shifts it by ln(σ_data / 0.5)."""
    p_std: float = 1.2
    wide: float = 0.15
    """Share of noise levels drawn log-uniform over the whole range that ODEED integrates over."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    conditioned: float = 0.5
    """Share of tiles that are seen with the same ground's other look as condition, where the U-Net takes one."""
    held_out_events: tuple[str, ...] = ()
    held_out_classes: tuple[str, ...] = ()
    """Classes (layout ``classes``) that a network is not shown, so that they can judge it as anomalies."""
    held_out_share: float = 0.0
    """Share of files (``folder``) or tiles (``spacenet8``) left out, chosen by a hash of their names."""
    parts: tuple[str, ...] = ()
    """Of a ``joint`` preset: the presets whose data it learns, the satellite's first."""
    sides_px: tuple[int, ...] = ()
    """Sides that each image is area-averaged to, to show coarser pixels; empty: as it is."""
    odeed_steps: int = 5
    odeed_ratio: float = 40.0
    """σ_max of ODEED over σ_data; chosen by a sweep over settings on events that are not held out."""


DENOISERS: Mapping[str, DenoiserPreset] = {
    "sentinel-2": DenoiserPreset(
        name="sentinel-2",
        layout="ombria",
        family="sentinel-2",
        bands=("swir16", "nir", "red"),
        gsd_range_m=(10.0, 10.0),
        gains=OMBRIA_GAINS,
        unet=UnetConfig(in_chans=3, cond_chans=4, width=16, mults=(1, 2, 4, 6), blocks=1, attention=True),
        # No pair ties the 8-bit images to reflectance; light that varies this much covers the doubt.
        augmentation=Augmentation(gain=0.15, offset=0.015),
        # Chosen by `vigie evaluate sweep` (deploy/docs/evaluation/sweep.md).
        odeed_steps=8,
        odeed_ratio=160.0,
        held_out_events=HELD_OUT_EVENTS,
    ),
    "aerial": DenoiserPreset(
        name="aerial",
        layout="classes",
        family="aerial",
        bands=("red", "green", "blue"),
        gsd_range_m=(0.3, 2.5),
        gains=AERIAL_GAINS,
        image_gsd_m=0.4,
        # 192 px of about 0.4 m become 128 px of 0.6 m and 64 px of 1.2 m, near the daemon's 0.625 and 1.25 m cells.
        sides_px=(192, 128, 64),
    ),
    # For a GPU: 6.3 M parameters, within the 7 M that a bundle takes. On a CPU a step takes minutes.
    "sentinel-2-large": DenoiserPreset(
        name="sentinel-2-large",
        layout="ombria",
        family="sentinel-2",
        bands=("swir16", "nir", "red"),
        gsd_range_m=(10.0, 10.0),
        gains=OMBRIA_GAINS,
        unet=UnetConfig(in_chans=3, cond_chans=4, width=32, mults=(1, 2, 4, 4), blocks=2, attention=True),
        batch=256,
        steps=30_000,
        lr=1e-3,
        warmup=500,
        ema=0.999,
        augmentation=Augmentation(gain=0.15, offset=0.015),
        held_out_events=HELD_OUT_EVENTS,
    ),
    # The ODEED paper's own (Le Bellier & Audebert 2024): 27.7 M parameters, whole patches of 256 px at half
    # resolution, batch 80, 40,000 steps of AdamW. Learning rate and average are ours: the paper's are not known.
    "spacenet8": DenoiserPreset(
        name="spacenet8",
        layout="spacenet8",
        family="aerial",
        bands=("red", "green", "blue"),
        gsd_range_m=(0.3, 2.5),
        gains=AERIAL_GAINS,
        image_gsd_m=0.8,
        tile_px=256,
        unet=UnetConfig(in_chans=3, width=64, mults=(1, 2, 2, 4, 4), blocks=2, attention=True),
        crop_px=256,
        finish=1.0,
        batch=80,
        steps=40_000,
        lr=2e-4,
        warmup=1000,
        ema=0.9995,
        held_out_share=0.2,
    ),
    # One network for both families, told by two constant planes which one and how fine. As large as the two together.
    "joint": DenoiserPreset(
        name="joint",
        layout="joint",
        family="joint",
        bands=("1", "2", "3"),
        gsd_range_m=(0.3, 10.0),
        gains=AERIAL_GAINS,
        unet=UnetConfig(in_chans=3, cond_chans=2, width=24, mults=(1, 2, 4, 5), blocks=1, attention=True),
        parts=("sentinel-2", "aerial"),
    ),
}


def denoiser_preset(name: str) -> DenoiserPreset:
    """A denoiser preset by name.

    Raises:
        RunInvalid: there is none of that name.
    """
    if name not in DENOISERS:
        raise RunInvalid(f"no denoiser preset {name!r}; there are {', '.join(DENOISERS)}")
    return DENOISERS[name]


def as_json(preset: DataclassInstance) -> dict[str, Any]:
    """Plain values, ready for JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(preset).items()}
