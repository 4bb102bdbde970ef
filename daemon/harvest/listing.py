"""The scenes of some collections over an area, as the watcher would list them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from daemon.errors import CatalogUnavailable
from daemon.harvest.order import Order
from daemon.scenes import Area, Scene
from daemon.watch.catalogs import Catalog
from daemon.watch.paging import WindowReader
from daemon.watch.poll_report import Tally
from daemon.watch.sifting import Ground, Sieve
from daemon.watch.windows import Window


@dataclass(frozen=True, kw_only=True)
class Field:
    """A catalog to harvest from."""

    catalog: Catalog
    sensors: Mapping[str, str] = field(default_factory=dict)
    """Collection id to sensor name, or ``auto`` to let the Item tell; others are told by the Item."""
    collections: tuple[str, ...] = ()
    """The collections that it is asked for."""
    page_size: int = 100


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What catalogs have."""

    scenes: tuple[Scene, ...]
    """By sensing time. Of several copies of one scene the first that was listed, or a newer processing."""
    passed_over: Mapping[str, int]
    """Items not taken, by reason: see :class:`daemon.watch.poll_report.PollReport`."""
    faults: tuple[str, ...]


def list_scenes(
    fields: Sequence[Field], order: Order, *, pause: Callable[[int, CatalogUnavailable], None], tries: int = 4
) -> Listing:
    """List the scenes that an order may read.

    Args:
        fields: the catalogs, each with its collections.
        order: what is wanted.
        pause: called after so many failures in a row of one page; waits.
        tries: of one page.

    Raises:
        CatalogUnavailable: a page kept failing.
        CatalogInvalid: a catalog's answer can never be used.
    """
    # All that the window holds is wanted; whether it is fresh or history is of no account here.
    area = Area(name="harvest", geometry=order.area, max_cloud_percent=order.max_cloud_percent)
    ground = Ground.of(area, order.start)
    known: dict[str, list[Scene]] = defaultdict(list)
    tally = Tally()
    for each in fields:
        sieve = Sieve(each.catalog.name, each.sensors, lambda identity: known[identity])
        reader = WindowReader(
            each.catalog,
            collections=each.collections,
            page_size=each.page_size,
            tries=tries,
            pause=pause,
            on_short=lambda fault: tally.refuse("unlisted", fault),
        )
        for page, _ in reader.pages(Window(start=order.start, end=order.end), order.area):
            for fault in page.broken:
                tally.refuse("unreadable", fault)
            for sighting in sieve.sift(page.items, [ground], tally):
                _keep(known[sighting.scene.identity], sighting.scene)
    scenes = [scene for versions in known.values() for scene in versions if scene.collection in order.collections]
    return Listing(
        scenes=tuple(sorted(scenes, key=lambda scene: (scene.sensing_time, scene.collection, scene.item_id))),
        passed_over=dict(tally.passed_over),
        faults=tuple(tally.faults),
    )


def _keep(versions: list[Scene], scene: Scene) -> None:
    """Add a scene; it takes the place of what it was listed as before, or of an older processing of the same sensor."""
    versions[:] = [other for other in versions if other.sensor != scene.sensor]
    versions.append(scene)
