"""The pixels that :mod:`training.data.quantiles` compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import SensorUnknown
from engine.sensors import SENSORS
from training.data.ombria import OmbriaFolder, has_data, read_rgb
from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]

EVERY = 8
"""Of the 8-bit images, every 8th row and column is taken: neighbours tell the same."""


def ombria_numbers(data: Path, held_out: Sequence[str]) -> Float32Array:
    """8-bit pixels of the *before* images of the events that are not held out.  (n, 3)"""
    folder = OmbriaFolder.open(data)
    images = [read_rgb(image.before) for image in folder.of_events(e for e in folder.events if e not in held_out)]
    thinned = [image[::EVERY, ::EVERY] for image in images]
    return np.concatenate([image[has_data(image)] for image in thinned]).astype(np.float32)


def reflectance_pixels(path: Path, sensor: str, bands: Sequence[str]) -> Float32Array:
    """Clear pixels of a GeoTIFF, as the daemon would read them.  (n, C)

    Raises:
        SensorUnknown: there is no such sensor.
        TrainingDataInvalid: no tile of the file is clear enough.
    """
    # Rasters are read by this command alone; training works where GDAL is not installed.
    from engine.raster import describe, plan_of_file, read_tiles

    if sensor not in SENSORS:
        raise SensorUnknown(f"no sensor {sensor!r}; there are {', '.join(SENSORS)}")
    plan = plan_of_file(describe(path), SENSORS[sensor], bands)
    pixels = [
        batch.select(bands).transpose(0, 2, 3, 1)[batch.valid]
        for batch in read_tiles(plan, None, tile_px=64, min_valid_ratio=0.3)
    ]
    if not pixels:
        raise TrainingDataInvalid(f"{path} has no tile with 30 % of clear ground; leave it out")
    return np.concatenate(pixels)
