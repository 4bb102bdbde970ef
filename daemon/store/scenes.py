"""Scenes: recorded as catalogs list them, looked up, and taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, or_, select, update

from daemon.scenes import Scene
from daemon.store.database import Database, Turn
from daemon.store.records import PageCounts, Role, SceneRow, SceneState, Sighting
from daemon.store.schema import AREA, SCENE, SCENE_AREA, SIGHTING

_SCENE_FIELDS = tuple(field.name for field in fields(Scene))
_UNSCORED = ("discovered", "pending")
_CHUNK = 500


class Scenes:
    """Scene versions and their states. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def record_page(self, catalog: str, sightings: Sequence[Sighting]) -> PageCounts:
        """Store what one page of ``catalog`` lists, in one transaction; a page recorded again changes nothing.

        A new scene version is ``discovered`` until its window closes. It supersedes older versions of the same identity
        that nobody has scored; those scored keep their results. A version known already only gains areas, and then is
        taken up again for these alone; ``history`` may become ``fresh`` in an area where it is not scored yet.

        Raises :class:`ValueError` for an area that is not registered.
        """
        counts = dict.fromkeys(("new", "changed", "known", "gained"), 0)
        refused = []
        with self._database.write() as connection:
            self._database.take_turn(connection, Turn.RECORD)
            registered = frozenset(connection.execute(select(AREA.c.name)).scalars())
            ids = [sighting.scene.scene_id for sighting in sightings]
            known = _areas_of(connection, ids)
            for sighting in sightings:
                if not sighting.areas or not registered.issuperset(sighting.areas):
                    raise ValueError(
                        f"{sighting.scene.item_id!r} was seen in {sorted(sighting.areas)}, "
                        f"but the areas registered are {sorted(registered)}"
                    )
                if fault := _unstorable(sighting.scene):
                    refused.append(fault)
                    continue
                scene_id = sighting.scene.scene_id
                if scene_id in known:
                    counts["known"] += 1
                    counts["gained"] += self._see_again(connection, catalog, sighting, known[scene_id])
                else:
                    counts[self._see_first(connection, catalog, sighting)] += 1
                    known[scene_id] = {}
                for area, role in sighting.areas.items():
                    known[scene_id].setdefault(area, (role, False))
        return PageCounts(**counts, refused=tuple(refused))

    def _see_first(self, connection: Connection, catalog: str, sighting: Sighting) -> str:
        scene = sighting.scene
        now = self._database.now(connection)
        others = connection.execute(
            select(SCENE.c.scene_id, SCENE.c.version_order, SCENE.c.catalog, SCENE.c.updated)
            .where(SCENE.c.identity == scene.identity)
            .order_by(SCENE.c.version_order)
        ).all()
        newest = others[-1] if others else None
        # A lagging replica may list an old version last; the catalog's own word on its age is believed.
        stale = (
            newest is not None
            and newest.catalog == scene.catalog
            and None not in (newest.updated, scene.updated)
            and scene.updated < newest.updated
        )
        order = 1 if newest is None else others[0].version_order - 1 if stale else newest.version_order + 1
        connection.execute(
            SCENE.insert().values(
                scene_id=scene.scene_id,
                **{name: getattr(scene, name) for name in _SCENE_FIELDS},
                version_order=order,
                superseded_by=newest.scene_id if stale and newest is not None else None,
                state="superseded" if stale else "discovered",
                attempts=0,
                fence=0,
                stats={},
                discovered_at=now,
                finished_at=now if stale else None,
            )
        )
        connection.execute(
            SCENE_AREA.insert(),
            [
                {"scene_id": scene.scene_id, "area": area, "role": role, "done": False}
                for area, role in sorted(sighting.areas.items())
            ],
        )
        if stale:
            return "known"
        self._sight(connection, catalog, scene.scene_id, sighting.areas)
        if newest is None:
            return "new"
        same = and_(SCENE.c.identity == scene.identity, SCENE.c.scene_id != scene.scene_id)
        connection.execute(
            update(SCENE)
            .where(same, SCENE.c.state.in_(_UNSCORED))
            .values(state="superseded", finished_at=now, reason=f"version {scene.version} arrived before it was scored")
        )
        connection.execute(update(SCENE).where(same).values(superseded_by=scene.scene_id))
        return "changed"

    def _see_again(
        self, connection: Connection, catalog: str, sighting: Sighting, known: Mapping[str, tuple[Role, bool]]
    ) -> bool:
        scene_id = sighting.scene.scene_id
        for area, role in sighting.areas.items():
            if role == "fresh" and known.get(area) == ("history", False):
                connection.execute(
                    update(SCENE_AREA)
                    .where(SCENE_AREA.c.scene_id == scene_id, SCENE_AREA.c.area == area, ~SCENE_AREA.c.done)
                    .values(role=role)
                )
        gained = sorted(set(sighting.areas) - set(known))
        for area in gained:
            connection.execute(
                self._database.insert(SCENE_AREA)
                .values(scene_id=scene_id, area=area, role=sighting.areas[area], done=False)
                .on_conflict_do_nothing()
            )
        if gained:
            connection.execute(
                update(SCENE)
                .where(SCENE.c.scene_id == scene_id, SCENE.c.state.in_(("done", "failed")))
                .values(state="discovered", attempts=0, not_before=None, finished_at=None)
            )
        state = connection.execute(select(SCENE.c.state).where(SCENE.c.scene_id == scene_id)).scalar_one()
        if state == "discovered":
            self._sight(connection, catalog, scene_id, sighting.areas)
        return bool(gained)

    def _sight(self, connection: Connection, catalog: str, scene_id: str, areas: Iterable[str]) -> None:
        for area in sorted(areas):
            connection.execute(
                self._database.insert(SIGHTING)
                .values(catalog=catalog, area=area, scene_id=scene_id)
                .on_conflict_do_nothing()
            )

    def replay(self, *, scene_ids: Sequence[str] = (), item_ids: Sequence[str] = (), failed: bool = False) -> int:
        """Make ended scenes pending again, with all their attempts; returns how many.

        Takes the scenes named by id, those of the STAC Items named, and with ``failed`` every failed scene that no
        newer version has superseded. The references pinned stay pinned, so the same result comes again. A scene that is
        pending or being worked on is left alone.
        """
        chosen = or_(SCENE.c.scene_id.in_(scene_ids), SCENE.c.item_id.in_(item_ids))
        if failed:
            chosen = or_(chosen, and_(SCENE.c.state == "failed", SCENE.c.superseded_by.is_(None)))
        with self._database.write() as connection:
            ids = list(
                connection.execute(
                    update(SCENE)
                    .where(chosen, SCENE.c.state.in_(("done", "failed", "superseded")))
                    .values(state="pending", attempts=0, not_before=None, finished_at=None)
                    .returning(SCENE.c.scene_id)
                ).scalars()
            )
            connection.execute(update(SCENE_AREA).where(SCENE_AREA.c.scene_id.in_(ids)).values(done=False))
        return len(ids)

    def scene(self, scene_id: str) -> SceneRow | None:
        """Return one scene version; None where it is unknown."""
        rows = self._scene_rows(select(SCENE).where(SCENE.c.scene_id == scene_id))
        return rows[0] if rows else None

    def scenes(self, *, item_id: str | None = None, state: SceneState | None = None) -> tuple[SceneRow, ...]:
        """Return scene versions in sensing order: all, those of one STAC Item, those in one state."""
        statement = select(SCENE).order_by(SCENE.c.sensing_time, SCENE.c.scene_id)
        if item_id is not None:
            statement = statement.where(SCENE.c.item_id == item_id)
        if state is not None:
            statement = statement.where(SCENE.c.state == state)
        return self._scene_rows(statement)

    def _scene_rows(self, statement: Select[Any]) -> tuple[SceneRow, ...]:
        with self._database.read() as connection:
            rows = connection.execute(statement).mappings().all()
            areas = _areas_of(connection, [row["scene_id"] for row in rows])
        return tuple(
            SceneRow(
                scene=scene_of(row),
                areas={area: role for area, (role, _) in areas[row["scene_id"]].items()},
                **{field.name: row[field.name] for field in fields(SceneRow) if field.name not in ("scene", "areas")},
            )
            for row in rows
        )


def scene_of(row: RowMapping) -> Scene:
    """Rebuild a scene from its row."""
    return Scene(**{name: row[name] for name in _SCENE_FIELDS})


def _areas_of(connection: Connection, scene_ids: Sequence[str]) -> dict[str, dict[str, tuple[Role, bool]]]:
    """Read the (role, done) of each scene in each of its areas, in name order; unknown scenes are absent."""
    areas: dict[str, dict[str, tuple[Role, bool]]] = {}
    for start in range(0, len(scene_ids), _CHUNK):
        rows = connection.execute(
            select(SCENE_AREA)
            .where(SCENE_AREA.c.scene_id.in_(scene_ids[start : start + _CHUNK]))
            .order_by(SCENE_AREA.c.area)
        )
        for row in rows:
            areas.setdefault(row.scene_id, {})[row.area] = (row.role, row.done)
    return areas


def _unstorable(scene: Scene) -> str | None:
    """Say why no database can hold this scene, so that one bad Item does not block its page for ever."""
    values = {name: getattr(scene, name) for name in _SCENE_FIELDS}
    for name, value in values.items():
        if isinstance(value, str) and "\x00" in value:
            return f"{scene.item_id!r} has a NUL character in {name}"
    try:
        # Encoding finds lone surrogates, and JSON without NaN what the JSON columns would refuse.
        "".join(value for value in values.values() if isinstance(value, str)).encode()
        json.dumps([scene.geometry, scene.item], allow_nan=False)
    except (ValueError, TypeError) as error:
        return f"{scene.item_id!r} cannot be stored: {error}"
    naive = [name for name, value in values.items() if isinstance(value, datetime) and value.tzinfo is None]
    return f"{scene.item_id!r} has no time zone in {naive}" if naive else None
