"""What grows and stands on the simulated ground: fields, woods, gravel, roads and a village by the river."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from daemon.demo.spectra import CROP_SHARES, CROPS
from daemon.demo.terrain import PIXEL_M, SIDE_M, SIZE_PX, Terrain, smooth_noise
from engine.tiles import BoolArray, Float32Array

VILLAGE_EAST_M = 3300.0
VILLAGE_SOUTH_OF_RIVER_M = 300.0


class Cover(IntEnum):
    """Classes of ground."""

    FIELD = 0
    WOOD = 1
    GRAVEL = 2
    ROAD = 3
    RED_ROOF = 4
    GREY_ROOF = 5
    GARDEN = 6
    HEDGE = 7


STANDS_OUT = (Cover.RED_ROOF, Cover.GREY_ROOF)
"""What stays above a flood of a few metres."""


@dataclass(frozen=True, kw_only=True)
class LandCover:
    """The cover of each pixel, row 0 in the north; arrays are (SIZE_PX, SIZE_PX) where not said otherwise."""

    cover: npt.NDArray[np.uint8]
    """Values of :class:`Cover`."""
    code: npt.NDArray[np.int32]
    """What decides a pixel's colour: the number of its field, or the number of fields plus its :class:`Cover`."""
    crop: npt.NDArray[np.int64]
    """What grows in each field: index into :data:`~daemon.demo.spectra.CROPS`.  (fields,)"""
    brightness: npt.NDArray[np.float64]
    """Brightness of each code's ground against the usual, about 1.  (codes,)"""
    bridge: BoolArray
    """Road above the water."""
    texture: Float32Array
    """Fine structure, mean 0, standard deviation 1."""
    village_m: tuple[float, float]
    """Middle of the village: metres east of the west edge, metres south of the north edge."""

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return self.crop.size + len(Cover)

    def is_any(self, *covers: Cover) -> BoolArray:
        """Where one of the covers is."""
        wanted = np.zeros(len(Cover), dtype=np.bool_)
        wanted[list(covers)] = True
        return np.asarray(wanted[self.cover])


def make_cover(terrain: Terrain, rng: np.random.Generator) -> LandCover:
    """Land cover that fits the terrain."""
    y_m, x_m = np.meshgrid(*[(np.arange(SIZE_PX, dtype=np.float32) + 0.5) * np.float32(PIXEL_M)] * 2, indexing="ij")
    parcel, hedge, parcels = _parcels(x_m, y_m, rng)
    crop = rng.choice(len(CROPS), size=parcels, p=CROP_SHARES)
    cover = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint8)

    woods = smooth_noise(rng, scale_m=650, exponent=2.6)
    steep = np.hypot(terrain.slope_east, terrain.slope_south)
    riverside = (terrain.river_m > 45) & (terrain.river_m < 85) & (woods > 0.1)
    cover[(woods + 14 * steep - 0.6 * (terrain.height_m < 4) > 1.05) | riverside] = Cover.WOOD
    bars = smooth_noise(rng, scale_m=260)
    cover[(terrain.river_m > 30) & (terrain.river_m < 46) & (bars > 0.6)] = Cover.GRAVEL

    column = int(VILLAGE_EAST_M / PIXEL_M)
    village = (VILLAGE_EAST_M, float(terrain.river_row[column]) * PIXEL_M + VILLAGE_SOUTH_OF_RIVER_M)
    hamlet = (1100.0, float(terrain.river_row[int(1100 / PIXEL_M)]) * PIXEL_M - 1050.0)
    outline = 40 * smooth_noise(rng, scale_m=160)
    _build(cover, x_m, y_m, village, 290.0, 0.42, outline, rng)
    _build(cover, x_m, y_m, hamlet, 150.0, -0.25, outline, rng)

    valley = np.convolve(np.pad(terrain.river_row * PIXEL_M, 200, mode="edge"), np.ones(401) / 401, mode="valid")
    along = np.abs(y_m - (valley + 640.0)[None, :]) < 4
    across = np.abs(x_m - (VILLAGE_EAST_M - 60 + 90 * np.sin(y_m / 800))) < 4
    cover[along | across] = Cover.ROAD
    cover[hedge & (cover == Cover.FIELD)] = Cover.HEDGE
    brightness = np.ones(parcels + len(Cover))
    brightness[:parcels] += 0.09 * rng.standard_normal(parcels)
    return LandCover(
        cover=cover,
        code=np.where(cover == Cover.FIELD, parcel, parcels + cover.astype(np.int32)).astype(np.int32),
        crop=crop,
        brightness=brightness,
        bridge=across & (terrain.river_m < 60),
        texture=(0.6 * smooth_noise(rng, scale_m=12, exponent=2.0) + 0.8 * smooth_noise(rng, scale_m=90)).astype(
            np.float32
        ),
        village_m=village,
    )


def _parcels(
    x_m: Float32Array, y_m: Float32Array, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], BoolArray, int]:
    """Long fields in strips that follow the valley loosely: numbers, boundaries, count."""
    angle = 0.22
    bend = 45 * smooth_noise(rng, scale_m=1800)
    u = x_m * np.float32(np.cos(angle)) + y_m * np.float32(np.sin(angle)) + bend
    v = y_m * np.float32(np.cos(angle)) - x_m * np.float32(np.sin(angle)) + bend
    strips = np.cumsum(rng.uniform(90, 330, size=60)).astype(np.float32) - np.float32(0.4 * SIDE_M)
    strip = np.searchsorted(strips, v.ravel()).reshape(v.shape)
    # Each strip is cut at places of its own.
    shifted = u + rng.uniform(0, 400, size=strips.size + 1).astype(np.float32)[strip]
    cuts = np.cumsum(rng.uniform(140, 480, size=60)).astype(np.float32) - np.float32(0.3 * SIDE_M)
    piece = np.searchsorted(cuts, shifted.ravel()).reshape(v.shape)
    parcel = (strip * (cuts.size + 1) + piece).astype(np.int32)
    edge = np.zeros(parcel.shape, dtype=np.bool_)
    edge[:, 1:] |= parcel[:, 1:] != parcel[:, :-1]
    edge[1:, :] |= parcel[1:, :] != parcel[:-1, :]
    edge &= rng.random((strips.size + 1) * (cuts.size + 1))[parcel] < 0.55
    return parcel, edge, (strips.size + 1) * (cuts.size + 1)


def _build(
    cover: npt.NDArray[np.uint8],
    x_m: Float32Array,
    y_m: Float32Array,
    centre: tuple[float, float],
    radius_m: float,
    angle: float,
    outline: Float32Array,
    rng: np.random.Generator,
) -> None:
    """Write houses, gardens and streets into ``cover``."""
    reach = int((radius_m + 130) / PIXEL_M)
    column, row = int(centre[0] / PIXEL_M), int(centre[1] / PIXEL_M)
    part = np.s_[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach]
    east, south = x_m[part] - centre[0], y_m[part] - centre[1]
    inside = np.hypot(east, south) < radius_m + outline[part]
    u = east * np.cos(angle) + south * np.sin(angle) + 1000
    v = south * np.cos(angle) - east * np.sin(angle) + 1000
    street = (u % 78 < 7) | (v % 54 < 7)
    plot_u, plot_v = (u // 19.5).astype(int), (v // 18).astype(int)
    chance = rng.random((150, 150))[plot_u, plot_v]
    width, depth = rng.uniform(8, 13, size=(2, 150, 150))
    house = (np.abs(u % 19.5 - 10) < width[plot_u, plot_v] / 2) & (np.abs(v % 18 - 9) < depth[plot_u, plot_v] / 2)
    kind = np.where(chance < 0.55, int(Cover.RED_ROOF), int(Cover.GREY_ROOF))
    kind = np.where(house & (chance < 0.85), kind, int(Cover.GARDEN))
    kind = np.where(street, int(Cover.ROAD), kind)
    cover[part] = np.where(inside, kind, cover[part])
