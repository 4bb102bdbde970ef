"""Scenes: recorded as catalogs list them, looked up, and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import RowMapping, Select, and_, or_, select, update

from daemon.scenes import Scene
from daemon.store.database import Database, Turn
from daemon.store.page import SCENE_FIELDS, Page, areas_of
from daemon.store.records import PageCounts, SceneRow, SceneState, Sighting
from daemon.store.schema import AREA, SCENE, SCENE_AREA


class Scenes:
    """Scene versions and their states. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def record_page(self, catalog: str, sightings: Sequence[Sighting]) -> PageCounts:
        """Store what one page of ``catalog`` lists, in one transaction; a page recorded again changes nothing.

        A new scene version is ``discovered`` until its window closes. It supersedes older versions of the same identity
        and sensor that nobody has scored; those scored keep their results. A version known already only gains areas,
        and is then taken up again for these alone; ``history`` may become ``fresh`` where it is not scored yet.

        Raises :class:`ValueError` for an area that is not registered.
        """
        with self._database.write() as connection:
            self._database.take_turn(connection, Turn.RECORD)
            registered = frozenset(connection.execute(select(AREA.c.name)).scalars())
            page = Page(self._database, connection, catalog, [sighting.scene for sighting in sightings])
            for sighting in sightings:
                if not sighting.areas or not registered.issuperset(sighting.areas):
                    raise ValueError(
                        f"{sighting.scene.item_id!r} was seen in {sorted(sighting.areas)}, "
                        f"but the areas registered are {sorted(registered)}"
                    )
                page.record(sighting)
            return page.close()

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

    def versions_of(self, identity: str) -> tuple[Scene, ...]:
        """Return every version of one acquisition that was ever recorded, in any state, oldest first."""
        statement = select(SCENE).where(SCENE.c.identity == identity).order_by(SCENE.c.version_order)
        with self._database.read() as connection:
            return tuple(scene_of(row) for row in connection.execute(statement).mappings())

    def identities_of(self, scene_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the identity behind each scene version of ``scene_ids`` that is known."""
        statement = select(SCENE.c.scene_id, SCENE.c.identity).where(SCENE.c.scene_id.in_(scene_ids))
        with self._database.read() as connection:
            return {row.scene_id: row.identity for row in connection.execute(statement)}

    def _scene_rows(self, statement: Select[Any]) -> tuple[SceneRow, ...]:
        with self._database.read() as connection:
            rows = connection.execute(statement).mappings().all()
            areas = areas_of(connection, [row["scene_id"] for row in rows])
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
    return Scene(**{name: row[name] for name in SCENE_FIELDS})
