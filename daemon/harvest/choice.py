"""Which scenes and which squares of ground are read, where there are more than are wanted.

What is chosen goes by a hash of the seed and of what is chosen from, not by the order of a list: a scene more in the
catalog moves few of the others.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from daemon.errors import HarvestInvalid
from daemon.harvest.order import Order
from daemon.scenes import Scene
from engine.grid import Cell, cells_over, to_lonlat, to_utm

MARGIN = 0.02
"""Share of a square's side by which it may reach out of a footprint: footprints are rounded, their edges straight in
degrees."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is read."""

    scenes: tuple[Scene, ...]
    """By sensing time."""
    ground: BaseGeometry
    """Where: what the chosen scenes show of the area, of several collections what two of them show.  lon/lat"""


def choose(scenes: Sequence[Scene], order: Order) -> Choice:
    """Choose the scenes, and the ground to look for squares in.

    Of one collection, any scenes. Of several, scenes that show some of the area together with a scene of another
    collection, sensed no more than ``within_days`` apart.

    Raises:
        HarvestInvalid: there is none.
    """
    area = shape(dict(order.area))
    scenes = sorted(scenes, key=_by_time)
    shown = {id(scene): shape(dict(scene.geometry)).intersection(area) for scene in scenes}
    for collection in order.collections:
        if not any(scene.collection == collection for scene in scenes):
            raise HarvestInvalid(
                f"no scene of {collection} shows the area between {order.start:%Y-%m-%d} and {order.end:%Y-%m-%d} "
                f"with at most {order.max_cloud_percent:g} % cloud; widen one of them, or check the collection's id"
            )
    groups: list[tuple[tuple[Scene, ...], BaseGeometry]]
    if len(order.collections) == 1:
        groups = [((scene,), shown[id(scene)]) for scene in scenes]
    else:
        groups = [
            ((one, other), shown[id(one)].intersection(shown[id(other)]))
            for one, other in itertools.combinations(scenes, 2)
            if one.collection != other.collection and abs(other.sensing_time - one.sensing_time) <= order.within
        ]
    groups = [(members, ground) for members, ground in groups if ground.area > 0]
    if not groups:
        raise HarvestInvalid(
            f"no two scenes of {' and '.join(order.collections)} show the same ground within {order.within_days:g} "
            "days; allow more with --within, or widen the dates"
        )
    groups.sort(key=lambda group: rank(order.seed, *(f"{scene.collection}/{scene.item_id}" for scene in group[0])))
    chosen: dict[tuple[str, str], Scene] = {}
    counts: Counter[str] = Counter()
    grounds: list[BaseGeometry] = []
    for members, ground in groups:
        new = [scene for scene in members if (scene.collection, scene.item_id) not in chosen]
        if any(counts[scene.collection] >= order.scenes for scene in new):
            continue
        counts.update(scene.collection for scene in new)
        chosen.update({(scene.collection, scene.item_id): scene for scene in new})
        grounds.append(ground)
    return Choice(
        scenes=tuple(sorted(chosen.values(), key=_by_time)),
        ground=shapely.union_all(grounds),
    )


def squares(ground: BaseGeometry, epsg: int, order: Order) -> tuple[Cell, ...]:
    """The squares of a zone that are read: at most ``tiles`` of those that lie in the ground, as cells of level 0.

    Raises:
        HarvestInvalid: the ground has more squares than can be listed.
    """
    tile_px = round(order.side_m / 10)
    try:
        cells = cells_over(ground, epsg, 0, tile_px)
    except ValueError as error:
        raise HarvestInvalid(f"{error}, or larger tiles") from error
    flat = to_utm(ground, epsg)
    shapely.prepare(flat)
    inside = [cell for cell in cells if flat.covers(cell.polygon.buffer(-MARGIN * cell.side_m))]
    inside.sort(key=lambda cell: rank(order.seed, cell.id))
    return tuple(sorted(inside[: order.tiles]))


def middles(cells: Sequence[Cell]) -> list[BaseGeometry]:
    """A smaller square inside each, lon/lat: an area that meets these squares and, whatever is rounded, no other."""
    return [to_lonlat(cell.polygon.buffer(-0.25 * cell.side_m), cell.epsg) for cell in cells]


def rank(seed: int, *names: str) -> str:
    """Where something stands in the order of a seed, whatever else there is."""
    return hashlib.sha256("|".join((str(seed), *names)).encode()).hexdigest()


def _by_time(scene: Scene) -> tuple[datetime, str, str]:
    return scene.sensing_time, scene.collection, scene.item_id
