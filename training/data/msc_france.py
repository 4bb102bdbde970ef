"""The MSC-France layout: ``MSC-France/{Sentinel,Landsat,SPOT}/{City}/{same file name}``, RGB.

The three files of a name show the same ground, each at its sensor's own pixel size: 30 m, 10 m and 1.5 m, so that the
sides of the images are as 1 : 3 : about 6.55 x 3. Source: Marsocci & Audebert, *Cross-sensor self-supervised training
and alignment for remote sensing*, IEEE JSTARS 18:12278 (2025); the images are distributed by eotdl.com.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.data.colocated import ColocatedFolder, SensorLook, by_name, checked
from training.data.moments import Moments
from training.errors import TrainingDataInvalid

FOLDERS: Mapping[str, str] = {"landsat": "Landsat", "sentinel": "Sentinel", "spot": "SPOT"}
"""Folder of each sensor, the coarsest first."""

SIDES: Mapping[str, float] = {"landsat": 1.0, "sentinel": 3.0, "spot": 3 * 6.55}
"""Sides of the three images of a name, in Landsat pixels' number."""

MOMENTS: Mapping[str, Moments] = {
    "landsat": Moments(mean=(0.2706, 0.2784, 0.1806), std=(0.1741, 0.1480, 0.1260)),
    "sentinel": Moments(mean=(0.1432, 0.1452, 0.0923), std=(0.1324, 0.1033, 0.0817)),
    "spot": Moments(mean=(0.3101, 0.3487, 0.2399), std=(0.1671, 0.1429, 0.1630)),
}
"""Of red, green and blue from 0 to 1, as the authors' code states them; ``vigie train statistics`` measures them."""


def open_msc_france(root: Path) -> ColocatedFolder:
    """The images of the three sensors.

    Args:
        root: the folder ``MSC-France`` or the one that holds it.

    Raises:
        TrainingDataInvalid: a sensor's folder is missing or empty, or no two share a file name.
    """
    inner = root / "MSC-France"
    root = inner if inner.is_dir() else root
    missing = [folder for folder in FOLDERS.values() if not (root / folder).is_dir()]
    if missing:
        raise TrainingDataInvalid(f"{root} lacks {', '.join(missing)}; give the folder that holds all three")
    files = {sensor: by_name(root / folder) for sensor, folder in FOLDERS.items()}
    empty = [FOLDERS[sensor] for sensor, found in files.items() if not found]
    if empty:
        raise TrainingDataInvalid(f"{root}: there is no image in {', '.join(empty)}")
    looks = {sensor: SensorLook(bands=(1, 2, 3), moments=MOMENTS[sensor]) for sensor in FOLDERS}
    return ColocatedFolder(root=root, files=checked(root, files), looks=looks)
