"""How the simulated ground looks in each band, and how that goes with the seasons.

Reflectances are typical surface values for the Sentinel-2 bands of the same name, rounded; phenology is a double
logistic of the day of year, as is usual for crops in temperate Europe.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engine.tiles import Float32Array

BANDS = ("blue", "green", "red", "nir", "swir16")

#                blue   green  red    nir    swir16
SPECTRA: Mapping[str, tuple[float, float, float, float, float]] = {
    "crop": (0.028, 0.070, 0.038, 0.450, 0.190),
    "grass": (0.035, 0.080, 0.055, 0.360, 0.225),
    "leaves": (0.020, 0.046, 0.026, 0.330, 0.125),
    "twigs": (0.042, 0.062, 0.078, 0.185, 0.190),
    "soil": (0.075, 0.110, 0.155, 0.235, 0.310),
    "straw": (0.095, 0.150, 0.205, 0.310, 0.360),
    "gravel": (0.170, 0.205, 0.235, 0.280, 0.320),
    "asphalt": (0.085, 0.095, 0.105, 0.130, 0.150),
    "red_roof": (0.085, 0.115, 0.220, 0.270, 0.300),
    "grey_roof": (0.150, 0.160, 0.170, 0.200, 0.225),
    "clear_water": (0.048, 0.058, 0.038, 0.018, 0.008),
    "turbid_water": (0.085, 0.130, 0.150, 0.075, 0.018),
}

CROPS = ("cereal", "maize", "meadow", "alfalfa", "orchard", "fallow")
CROP_SHARES = (0.30, 0.24, 0.22, 0.10, 0.06, 0.08)

FloatArray = npt.NDArray[np.float64]
Shares = Mapping[str, FloatArray]
"""Share of each pure cover, by its name in :data:`SPECTRA`; arrays of one shape."""


def spectrum(name: str, band: str) -> float:
    """Reflectance of a pure cover in a band."""
    return SPECTRA[name][BANDS.index(band)]


def _season(day: FloatArray, up: float, down: float, pace: float) -> FloatArray:
    """Double logistic, 0..1: half-way up on day ``up``, half-way down on day ``down``; ``pace`` in days."""
    rise = 1 / (1 + np.exp(-(day - up) / pace))
    fall = 1 / (1 + np.exp((day - down) / pace))
    return np.asarray(rise * fall)


def field_state(crop: npt.NDArray[np.int64], day_of_year: float, shift_days: FloatArray) -> tuple[FloatArray, ...]:
    """Shares of green plants and of straw in each field; the rest is soil.

    ``crop`` indexes :data:`CROPS`; ``shift_days`` is how much later than usual each field is.  All (fields,)
    """
    day = day_of_year - shift_days
    autumn = day - 365 * (day > 300)  # winter crops are sown in October and belong to the next year
    zeros = np.zeros_like(day)
    green = {
        "cereal": np.maximum(0.92 * _season(autumn, 85, 165, 9), 0.22 * _season(autumn, -45, 120, 8)),
        "maize": 0.92 * _season(day, 168, 262, 8),
        "meadow": 0.50 + 0.42 * _season(day, 95, 290, 14) - 0.30 * np.exp(-(((day - 160) / 9) ** 2)),
        "alfalfa": 0.30 + 0.55 * _season(day, 90, 285, 12) * (0.6 + 0.4 * np.cos(2 * np.pi * day / 38)),
        "orchard": 0.25 + 0.40 * _season(day, 110, 295, 10),
        "fallow": 0.18 + 0.15 * _season(day, 120, 200, 15),
    }
    straw = {
        "cereal": 0.80 * _season(day, 170, 225, 6),
        "maize": 0.55 * _season(day, 268, 320, 8),
        "fallow": 0.25 + zeros,
        "orchard": 0.10 + zeros,
    }
    shares = [np.stack([table.get(name, zeros) for name in CROPS]) for table in (green, straw)]
    fields = np.arange(crop.size)
    green_share = np.clip(shares[0][crop, fields], 0.0, 1.0)
    straw_share = np.clip(shares[1][crop, fields], 0.0, 1.0 - green_share)
    return green_share, straw_share


def leaf_share(day_of_year: float) -> float:
    """Share of a deciduous canopy that is in leaf."""
    return float(0.12 + 0.85 * _season(np.asarray(float(day_of_year)), 108, 300, 9))


def wet_soil(band: str, moisture: float) -> float:
    """Reflectance of bare soil, darker when wet and most so in the short-wave infrared; ``moisture`` 0..1."""
    loss = {"nir": 0.45, "swir16": 0.60}.get(band, 0.40)
    return spectrum("soil", band) * (1 - loss * moisture)


def mixed(shares: Shares, band: str, moisture: float) -> Float32Array:
    """Linear mixture of pure covers in one band, with soil as wet as ``moisture``; the shares' shape."""
    colours = {name: wet_soil(band, moisture) if name == "soil" else spectrum(name, band) for name in shares}
    return np.asarray(sum(share * colours[name] for name, share in shares.items()), dtype=np.float32)
