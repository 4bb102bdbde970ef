"""The simulated place: where it is, and what it looks like from above on a given day and river stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from scipy import ndimage
from shapely.geometry import box, mapping

from daemon.demo.cover import STANDS_OUT, Cover, LandCover, make_cover
from daemon.demo.spectra import CROPS, SPECTRA, Shares, field_state, leaf_share, mixed, spectrum
from daemon.demo.terrain import PIXEL_M, SIDE_M, Terrain, make_terrain, smooth_noise
from engine.grid import to_lonlat
from engine.tiles import BoolArray, Float32Array

EPSG = 32632
WEST_M = 840 * 640.0
"""Easting of the west edge: a line of the cell grid."""
NORTH_M = 7790 * 640.0
"""Northing of the north edge: a line of the cell grid."""
LATITUDE = 45.0

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What differs from pass to pass on the ground."""

    time: datetime
    """Aware UTC."""
    stage_m: float
    """Water level above normal, metres."""
    moisture: float
    """How wet bare soil is, 0..1."""
    turbidity: float
    """Share of suspended sediment in the water's colour, 0..1."""
    seed: int
    """Of the day's own variations."""

    @property
    def day_of_year(self) -> float:
        """1..366."""
        return float(self.time.timetuple().tm_yday)

    @property
    def sun(self) -> tuple[float, float]:
        """Zenith angle and azimuth (clockwise from north) of the sun at a morning pass, radians.

        Declination after Cooper (1969); the pass is about an hour and a half before local noon.
        """
        declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + self.day_of_year) / 365)
        latitude, hour = math.radians(LATITUDE), math.radians(-22.0)
        cos_zenith = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(
            hour
        )
        zenith = math.acos(cos_zenith)
        cos_azimuth = (math.sin(declination) - math.sin(latitude) * cos_zenith) / (
            math.cos(latitude) * math.sin(zenith)
        )
        return zenith, math.acos(max(-1.0, min(1.0, cos_azimuth)))


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a pass sees of the ground, without air, clouds and sensor."""

    reflectance: Mapping[str, Float32Array]
    """Surface reflectance of each band.  (SIZE_PX, SIZE_PX)"""
    water: BoolArray
    """Ground below open water, roofs and woods that stand out of it not counted.  (SIZE_PX, SIZE_PX)"""


@dataclass(frozen=True, kw_only=True)
class SimulatedPlace:
    """A river valley of 5.12 x 5.12 km in UTM zone 32 N, determined by its seed."""

    seed: int
    terrain: Terrain
    cover: LandCover
    emergent: Float32Array
    """Share of a pixel that stays above a flood of a few metres, such as roofs.  (SIZE_PX, SIZE_PX)"""

    @classmethod
    def make(cls, seed: int) -> SimulatedPlace:
        """The place of a seed."""
        terrain = make_terrain(np.random.default_rng([seed, 1]))
        cover = make_cover(terrain, np.random.default_rng([seed, 2]))
        return cls(seed=seed, terrain=terrain, cover=cover, emergent=_emergent(cover))

    def ground(self, moment: Moment, bands: Iterable[str]) -> Ground:
        """The ground at a moment in the named bands (of :data:`daemon.demo.spectra.BANDS`)."""
        rng = np.random.default_rng([self.seed, 3, moment.seed])
        wanted = tuple(bands)
        mean, change = self._shares(moment, rng)
        brightness = self._brightness(moment)
        below = self.terrain.water_at(moment.stage_m) & ~self.cover.bridge
        # Water is worked out only where there is some: 1-D arrays, one value a pixel below the water level.
        depth = np.float32(moment.stage_m) - self.terrain.height_m[below]
        emergent = self.emergent[below]
        streaks = (
            np.float32(0.10) * smooth_noise(rng, scale_m=220, size_px=512, pixel_m=10).repeat(4, 0).repeat(4, 1)[below]
        )
        waves = 1 + np.float32(0.05) * rng.standard_normal(depth.size, dtype=np.float32)
        reflectance: dict[str, Float32Array] = {}
        for band in wanted:
            seen = mixed(change, band, moment.moisture)[self.cover.code]
            seen *= self.cover.texture
            seen += mixed(mean, band, moment.moisture)[self.cover.code]
            seen *= brightness
            land = seen[below]
            water = self._water_colour(moment, band, streaks) * waves
            # Beer-Lambert: ground shows through shallow water in the visible, hardly in the infrared.
            see_m = {"blue": 0.45, "green": 0.40, "red": 0.25, "nir": 0.05}.get(band, 0.01)
            through = np.exp(-np.maximum(depth, 0) / np.float32(see_m * (1.2 - moment.turbidity)))
            seen[below] = land * emergent + (land * through + water * (1 - through)) * (1 - emergent)
            reflectance[band] = np.clip(seen, 0.001, 1.0)
        open_water = below.copy()
        open_water[below] = emergent < 0.5
        return Ground(reflectance=reflectance, water=open_water)

    def _shares(self, moment: Moment, rng: np.random.Generator) -> tuple[Shares, Shares]:
        """Shares of pure covers for each code of the land cover, and how they go with the texture.  (codes,)"""
        cover = self.cover
        fields = cover.crop.size
        habit = np.random.default_rng([self.seed, 4]).normal(0, 8, size=fields)
        # Farmers do not work by the calendar: each field shifts a little from year to year and day to day.
        green, straw = field_state(cover.crop, moment.day_of_year, habit + rng.normal(0, 2, size=fields))
        meadow = np.isin(cover.crop, (CROPS.index("meadow"), CROPS.index("alfalfa")))
        leaf = leaf_share(moment.day_of_year)
        trees = {"leaves": leaf, "twigs": 1 - leaf}
        pure: Mapping[int, Mapping[str, float]] = {
            Cover.WOOD: trees,
            Cover.GRAVEL: {"gravel": 1.0},
            Cover.ROAD: {"asphalt": 1.0},
            Cover.RED_ROOF: {"red_roof": 1.0},
            Cover.GREY_ROOF: {"grey_roof": 1.0},
            Cover.GARDEN: {"grass": 0.62, "leaves": 0.2 * leaf, "twigs": 0.2 * (1 - leaf), "soil": 0.18},
            Cover.HEDGE: {"leaves": 0.55 * leaf, "twigs": 0.55 * (1 - leaf), "grass": 0.45},
        }
        mean = {name: np.zeros(cover.codes) for name in SPECTRA}
        mean["crop"][:fields], mean["grass"][:fields] = green * ~meadow, green * meadow
        mean["straw"][:fields], mean["soil"][:fields] = straw, 1 - green - straw
        for kind, shares in pure.items():
            for name, share in shares.items():
                mean[name][fields + kind] = share
        # Stands of plants are uneven, most of all half-grown ones: soil shows where there is less green.
        uneven = 0.05 * np.minimum(green, 1 - green) / 0.25 + 0.02 * green
        change = {name: np.zeros(cover.codes) for name in ("crop", "grass", "soil")}
        change["crop"][:fields], change["grass"][:fields] = uneven * ~meadow, uneven * meadow
        change["soil"][:fields] = -uneven
        return mean, change

    def _brightness(self, moment: Moment) -> Float32Array:
        """Parcel brightness, texture and the light on slopes."""
        zenith, azimuth = moment.sun
        # n·s / cos z for the normal n = (-dz/dE, -dz/dN, 1); three quarters of the light come straight from the sun.
        facing = self.terrain.slope_south * np.float32(math.cos(azimuth)) - self.terrain.slope_east * np.float32(
            math.sin(azimuth)
        )
        light = np.clip(1 + 0.75 * np.float32(math.tan(zenith)) * facing, 0.7, 1.25)
        rough = np.full(self.cover.codes, 0.05, dtype=np.float32)
        rough[self.cover.crop.size + Cover.WOOD] = 0.13
        brightness = rough[self.cover.code] * self.cover.texture
        brightness += 1
        brightness *= self.cover.brightness.astype(np.float32)[self.cover.code]
        brightness *= light
        return brightness

    def _water_colour(self, moment: Moment, band: str, streaks: Float32Array) -> Float32Array:
        turbid = np.clip(np.float32(moment.turbidity) * (1 + streaks), 0, 1)
        clear = np.float32(spectrum("clear_water", band))
        return np.asarray(clear + (np.float32(spectrum("turbid_water", band)) - clear) * turbid, dtype=np.float32)


def _emergent(cover: LandCover) -> Float32Array:
    """Share of a pixel that stays above a flood of a few metres."""
    emergent = cover.is_any(*STANDS_OUT).astype(np.float32)
    emergent[cover.is_any(Cover.WOOD)] = 0.62
    emergent[cover.is_any(Cover.HEDGE)] = 0.3
    emergent[cover.is_any(Cover.GARDEN)] = 0.12
    return np.asarray(ndimage.gaussian_filter(emergent, 0.6), dtype=np.float32)


def transform(gsd_m: float, *, west_m: float = WEST_M, north_m: float = NORTH_M) -> Transform:
    """Affine a..f of a raster of the place, from (column, row) to UTM metres."""
    return (gsd_m, 0.0, west_m, 0.0, -gsd_m, north_m)


def square_lonlat(west_m: float, north_m: float, side_m: float) -> Mapping[str, Any]:
    """A square of the zone as GeoJSON, EPSG:4326."""
    geometry: Mapping[str, Any] = mapping(to_lonlat(box(west_m, north_m - side_m, west_m + side_m, north_m), EPSG))
    return geometry


def area_geometry() -> Mapping[str, Any]:
    """The area of interest: the whole place, less a rim so narrow that no cell beyond is met."""
    rim = 4 * PIXEL_M
    return square_lonlat(WEST_M + rim, NORTH_M - rim, SIDE_M - 2 * rim)
