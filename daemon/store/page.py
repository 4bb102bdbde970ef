"""One page of a catalog, as it is being recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, and_, select, update

from daemon.scenes import Scene
from daemon.store.columns import storable_text
from daemon.store.database import Database
from daemon.store.records import PageCounts, Role, Sighting
from daemon.store.schema import SCENE, SCENE_AREA, SIGHTING

SCENE_FIELDS = tuple(field.name for field in fields(Scene))
_CHUNK = 500


@dataclass(frozen=True)
class _Version:
    """What is known of one version of an identity."""

    scene_id: str
    sensor: str
    order: int
    catalog: str
    updated: datetime | None


class Page:
    """Records sightings one by one, inside one transaction; rows are gathered and written by :meth:`close`.

    Reads what the database knows of the page's scenes once, at the start; nobody else records meanwhile.
    """

    def __init__(self, database: Database, connection: Connection, catalog: str, scenes: Sequence[Scene]) -> None:
        self._database = database
        self._connection = connection
        self._catalog = catalog
        self._now = database.now(connection)
        self._known = areas_of(connection, [scene.scene_id for scene in scenes])
        self._behind = _behind(connection, list(self._known))
        self._versions = _versions_of(connection, [scene.identity for scene in scenes])
        self._unwritten: dict[Table, list[dict[str, Any]]] = {SCENE: [], SCENE_AREA: [], SIGHTING: []}
        self._counts: Counter[str] = Counter()
        self._refused: list[str] = []

    def record(self, sighting: Sighting) -> None:
        """Take up one sighting."""
        if fault := _unstorable(sighting.scene):
            self._refused.append(fault)
            return
        scene_id = sighting.scene.scene_id
        if scene_id in self._known:
            self._counts["known"] += 1
            self._see_again(sighting)
        else:
            self._counts[self._see_first(sighting)] += 1
        places = self._known.setdefault(scene_id, {})
        for area, role in sighting.areas.items():
            places.setdefault(area, (role, False))

    def close(self) -> PageCounts:
        """Write what is left; returns what the page held."""
        self._write()
        return PageCounts(**self._counts, refused=tuple(self._refused))

    def _see_first(self, sighting: Sighting) -> str:
        scene = sighting.scene
        versions = self._versions.setdefault(scene.identity, [])
        newest = next((version for version in reversed(versions) if version.sensor == scene.sensor), None)
        # A lagging replica may list an old version last; the catalog's own word on its age is believed.
        stale_against = newest if newest is not None and _is_older(scene, newest) else None
        order = 1 if not versions else versions[0].order - 1 if stale_against else versions[-1].order + 1
        self._unwritten[SCENE].append(
            {
                "scene_id": scene.scene_id,
                **{name: getattr(scene, name) for name in SCENE_FIELDS},
                "version_order": order,
                "superseded_by": stale_against.scene_id if stale_against else None,
                "state": "superseded" if stale_against else "discovered",
                "attempts": 0,
                "fence": 0,
                "stats": {},
                "discovered_at": self._now,
                "finished_at": self._now if stale_against else None,
            }
        )
        self._place(scene, sighting.areas, sighting.priority)
        version = _Version(
            scene_id=scene.scene_id, sensor=scene.sensor, order=order, catalog=scene.catalog, updated=scene.updated
        )
        if stale_against:
            versions.insert(0, version)
            return "known"
        versions.append(version)
        self._sight(scene.scene_id, sighting.areas)
        if newest is None:
            return "new"
        self._supersede(scene)
        return "changed"

    def _supersede(self, scene: Scene) -> None:
        self._write()
        older = and_(
            SCENE.c.identity == scene.identity, SCENE.c.sensor == scene.sensor, SCENE.c.scene_id != scene.scene_id
        )
        self._connection.execute(
            update(SCENE)
            .where(older, SCENE.c.state.in_(("discovered", "pending")))
            .values(
                state="superseded",
                finished_at=self._now,
                reason=f"version {scene.version} arrived before it was scored",
            )
        )
        self._connection.execute(update(SCENE).where(older).values(superseded_by=scene.scene_id))

    def _see_again(self, sighting: Sighting) -> None:
        # The page may have listed it a moment ago.
        self._write()
        scene_id, known = sighting.scene.scene_id, self._known[sighting.scene.scene_id]
        for area, role in sighting.areas.items():
            if role == "fresh" and known.get(area) == ("history", False):
                self._connection.execute(
                    update(SCENE_AREA)
                    .where(SCENE_AREA.c.scene_id == scene_id, SCENE_AREA.c.area == area, ~SCENE_AREA.c.done)
                    .values(role=role)
                )
                known[area] = (role, False)
        for area in sighting.areas:
            if self._behind.get((scene_id, area), 0) > sighting.priority:
                # What a back-fill has queued turns out to be wanted now.
                self._connection.execute(
                    update(SCENE_AREA)
                    .where(SCENE_AREA.c.scene_id == scene_id, SCENE_AREA.c.area == area)
                    .values(priority=sighting.priority)
                )
                self._behind[scene_id, area] = sighting.priority
        gained = {area: role for area, role in sighting.areas.items() if area not in known}
        this_scene = SCENE.c.scene_id == scene_id
        if gained:
            self._counts["gained"] += 1
            self._place(sighting.scene, gained, sighting.priority)
            self._connection.execute(
                update(SCENE)
                .where(this_scene, SCENE.c.state.in_(("done", "failed")))
                .values(state="discovered", attempts=0, not_before=None, finished_at=None)
            )
        if self._connection.execute(select(SCENE.c.state).where(this_scene)).scalar_one() == "discovered":
            self._sight(scene_id, sighting.areas)

    def _place(self, scene: Scene, areas: Mapping[str, Role], priority: int) -> None:
        self._unwritten[SCENE_AREA] += [
            {
                "scene_id": scene.scene_id,
                "area": area,
                "role": role,
                "done": False,
                "priority": priority,
                "sensing_time": scene.sensing_time,
            }
            for area, role in sorted(areas.items())
        ]

    def _sight(self, scene_id: str, areas: Iterable[str]) -> None:
        self._unwritten[SIGHTING] += [
            {"catalog": self._catalog, "area": area, "scene_id": scene_id} for area in sorted(areas)
        ]

    def _write(self) -> None:
        for table, rows in self._unwritten.items():
            if rows:
                insert = self._database.insert(table)
                self._connection.execute(insert.on_conflict_do_nothing() if table is SIGHTING else insert, rows)
                rows.clear()


def areas_of(connection: Connection, scene_ids: Sequence[str]) -> dict[str, dict[str, tuple[Role, bool]]]:
    """Read the (role, done) of each scene in each of its areas, in name order; unknown scenes are absent."""
    areas: dict[str, dict[str, tuple[Role, bool]]] = {}
    for chunk in _chunks(scene_ids):
        statement = select(SCENE_AREA).where(SCENE_AREA.c.scene_id.in_(chunk)).order_by(SCENE_AREA.c.area)
        for row in connection.execute(statement):
            areas.setdefault(row.scene_id, {})[row.area] = (row.role, row.done)
    return areas


def _behind(connection: Connection, scene_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """Read the priority of each scene in each area where it stands behind the others."""
    behind: dict[tuple[str, str], int] = {}
    for chunk in _chunks(scene_ids):
        columns = (SCENE_AREA.c.scene_id, SCENE_AREA.c.area, SCENE_AREA.c.priority)
        statement = select(*columns).where(SCENE_AREA.c.scene_id.in_(chunk), SCENE_AREA.c.priority > 0)
        behind |= {(row.scene_id, row.area): row.priority for row in connection.execute(statement)}
    return behind


def _versions_of(connection: Connection, identities: Sequence[str]) -> dict[str, list[_Version]]:
    """Read the known versions of each identity, oldest first."""
    versions: dict[str, list[_Version]] = {}
    for chunk in _chunks([identity for identity in identities if _is_storable(identity)]):
        statement = (
            select(
                SCENE.c.identity,
                SCENE.c.scene_id,
                SCENE.c.sensor,
                SCENE.c.version_order,
                SCENE.c.catalog,
                SCENE.c.updated,
            )
            .where(SCENE.c.identity.in_(chunk))
            .order_by(SCENE.c.version_order)
        )
        for identity, *version in connection.execute(statement):
            versions.setdefault(identity, []).append(_Version(*version))
    return versions


def _chunks(values: Sequence[str]) -> Iterable[list[str]]:
    unique = list(dict.fromkeys(values))
    return (unique[start : start + _CHUNK] for start in range(0, len(unique), _CHUNK))


def _is_older(scene: Scene, than: _Version) -> bool:
    if scene.catalog != than.catalog or scene.updated is None or than.updated is None:
        return False
    return scene.updated < than.updated


def _is_storable(text: str) -> bool:
    return storable_text(text) == text


def _unstorable(scene: Scene) -> str | None:
    """Say why no database can hold this scene, so that one bad Item does not block its page for ever."""
    values = {name: getattr(scene, name) for name in SCENE_FIELDS}
    for name, value in values.items():
        if isinstance(value, str) and not _is_storable(value):
            return f"{scene.item_id!r} has characters in its {name} that no database holds"
    try:
        json.dumps([scene.geometry, scene.item], allow_nan=False)
    except (ValueError, TypeError) as error:
        return f"{scene.item_id!r} cannot be stored: {error}"
    naive = [name for name, value in values.items() if isinstance(value, datetime) and value.tzinfo is None]
    return f"{scene.item_id!r} has no time zone in {naive}" if naive else None
