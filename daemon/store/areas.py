"""Areas of interest, and how far each catalog has been read for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, delete, exists, literal, select, update

from daemon.scenes import Area
from daemon.store.database import Database, Turn
from daemon.store.records import Cursor, WatchedArea
from daemon.store.schema import AREA, CURSOR, SCENE, SIGHTING


class Areas:
    """What is watched. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def register_areas(self, areas: Sequence[Area], catalogs: Mapping[str, Sequence[str]]) -> Mapping[str, WatchedArea]:
        """Make the store's areas those of the configuration, and say which catalogs are read for which of them.

        Called at start by every process, with the same configuration. What is no longer named stays stored and becomes
        inactive: nothing is claimed for such an area, and such a catalog is not waited for. ``watched_since`` is
        ``alert_since`` where the area has one, else the database's time of its first registration.

        Raises :class:`ValueError` where a catalog names an area that is not among ``areas``.
        """
        names = {area.name for area in areas}
        for catalog, wanted in catalogs.items():
            if unknown := set(wanted) - names:
                raise ValueError(f"catalog {catalog!r} is to be read for areas that do not exist: {sorted(unknown)}")
        with self._database.write() as connection:
            now = self._database.now(connection)
            lock_areas(self._database, connection, None)
            connection.execute(update(AREA).where(AREA.c.name.not_in(names)).values(active=False))
            connection.execute(update(CURSOR).values(active=False))
            for area in sorted(areas, key=lambda area: area.name):
                row = {"geometry": dict(area.geometry), "active": True}
                insert = self._database.insert(AREA).values(
                    name=area.name, watched_since=area.alert_since or now, revision=0, **row
                )
                if area.alert_since is not None:
                    row["watched_since"] = area.alert_since
                connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=row))
            for catalog, wanted in sorted(catalogs.items()):
                for name in sorted(set(wanted)):
                    insert = self._database.insert(CURSOR).values(
                        catalog=catalog, area=name, settled=False, active=True
                    )
                    connection.execute(
                        insert.on_conflict_do_update(index_elements=["catalog", "area"], set_={"active": True})
                    )
            return _areas(connection)

    def areas(self) -> Mapping[str, WatchedArea]:
        """Return every area ever registered, by name."""
        with self._database.read() as connection:
            return _areas(connection)

    def cursor(self, catalog: str, area: str) -> Cursor | None:
        """Return how far ``catalog`` has been read for ``area``; None where the two were never registered together."""
        with self._database.read() as connection:
            row = connection.execute(
                select(CURSOR).where(CURSOR.c.catalog == catalog, CURSOR.c.area == area)
            ).one_or_none()
        if row is None:
            return None
        return Cursor(time=row.time, settled=row.settled, token=row.token, swept_at=row.swept_at)

    def checkpoint(self, catalog: str, areas: Sequence[str], token: str) -> None:
        """Write the watcher's note for ``areas`` while a window is open; the cursor itself stands still."""
        with self._database.write() as connection:
            connection.execute(
                update(CURSOR).where(CURSOR.c.catalog == catalog, CURSOR.c.area.in_(areas)).values(token=token)
            )

    def close_window(self, catalog: str, areas: Sequence[str], cursor: Cursor) -> int:
        """Move the cursor of ``catalog`` for ``areas``, and make what it has listed there pending; returns how many.

        One transaction does both, so a crash repeats the window or does not, and never loses a scene. Called when every
        page of the window has been recorded. A settled cursor stays settled.

        Raises :class:`ValueError` where ``catalog`` is not registered for one of ``areas``.
        """
        with self._database.write() as connection:
            lock_areas(self._database, connection, areas)
            self._database.take_turn(connection, Turn.RECORD)
            for name in areas:
                moved = connection.execute(
                    update(CURSOR)
                    .where(CURSOR.c.catalog == catalog, CURSOR.c.area == name)
                    .values(
                        time=cursor.time,
                        settled=CURSOR.c.settled | literal(cursor.settled),
                        token=cursor.token,
                        swept_at=cursor.swept_at,
                    )
                )
                if moved.rowcount != 1:
                    raise ValueError(f"catalog {catalog!r} is not registered for area {name!r}; call register_areas")
            return _make_claimable(connection, catalog, areas)

    def release_listed(self, source: str, areas: Sequence[str]) -> int:
        """Make pending what ``source`` has listed for ``areas``, where no window of a cursor is closed: a back-fill.

        Returns how many scenes.
        """
        with self._database.write() as connection:
            lock_areas(self._database, connection, areas)
            self._database.take_turn(connection, Turn.RECORD)
            return _make_claimable(connection, source, areas)

    def release_left(self, scene_ids: Sequence[str]) -> int:
        """Make pending those of ``scene_ids`` that a window which never closed has left discovered, and count them."""
        with self._database.write() as connection:
            lock_areas(self._database, connection, None)
            self._database.take_turn(connection, Turn.RECORD)
            left = and_(SCENE.c.state == "discovered", SCENE.c.scene_id.in_(scene_ids))
            return connection.execute(update(SCENE).where(left).values(state="pending")).rowcount

    def mark(self, source: str, area: str, cursor: Cursor) -> None:
        """Remember how far ``source``, which is not a watched catalog, has been read for ``area``.

        :meth:`cursor` tells it. No scene waits for such a source.
        """
        values = {"time": cursor.time, "token": cursor.token, "swept_at": cursor.swept_at}
        with self._database.write() as connection:
            insert = self._database.insert(CURSOR).values(
                catalog=source, area=area, settled=True, active=False, **values
            )
            connection.execute(insert.on_conflict_do_update(index_elements=["catalog", "area"], set_=values))

    def excuse(self, catalog: str) -> tuple[str, ...]:
        """Stop waiting for a catalog that has never been read whole; returns the areas that waited for it, sorted.

        Its first window is still read as one when it answers at last: only scenes of other catalogs no longer wait.
        """
        waiting = and_(CURSOR.c.catalog == catalog, CURSOR.c.active, ~CURSOR.c.settled)
        with self._database.write() as connection:
            areas = connection.execute(update(CURSOR).where(waiting).values(settled=True).returning(CURSOR.c.area))
            return tuple(sorted(areas.scalars()))

    def settled(self, area: str | None = None) -> bool:
        """Whether every active catalog of ``area`` (of all areas where None) has closed its first window."""
        waiting = select(1).select_from(CURSOR.join(AREA)).where(CURSOR.c.active, AREA.c.active, ~CURSOR.c.settled)
        if area is not None:
            waiting = waiting.where(CURSOR.c.area == area)
        with self._database.read() as connection:
            return not connection.execute(select(exists(waiting))).scalar_one()


def lock_areas(
    database: Database, connection: Connection, names: Iterable[str] | None, *, skip_locked: bool = False
) -> frozenset[str]:
    """Lock the rows of ``names`` (of all areas where None) in name order till the transaction ends; returns the locked.

    Everything that changes an area's order takes these locks first, and always in this order, so that none waits in a
    circle. The lock lets foreign keys to the area through. SQLite's writer is alone already.
    """
    statement = select(AREA.c.name).order_by(AREA.c.name)
    if names is not None:
        statement = statement.where(AREA.c.name.in_(list(names)))
    if not database.is_sqlite:
        statement = statement.with_for_update(key_share=True, skip_locked=skip_locked)
    return frozenset(connection.execute(statement).scalars())


def _make_claimable(connection: Connection, source: str, areas: Sequence[str]) -> int:
    listed_here = and_(SIGHTING.c.catalog == source, SIGHTING.c.area.in_(areas))
    ready = connection.execute(
        update(SCENE)
        .where(SCENE.c.state == "discovered", SCENE.c.scene_id.in_(select(SIGHTING.c.scene_id).where(listed_here)))
        .values(state="pending")
    )
    connection.execute(delete(SIGHTING).where(listed_here))
    return ready.rowcount


def _areas(connection: Connection) -> Mapping[str, WatchedArea]:
    rows = connection.execute(select(AREA).order_by(AREA.c.name)).mappings()
    return {row["name"]: WatchedArea(**row) for row in rows}
