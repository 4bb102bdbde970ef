"""All looks ever kept: searched through one model, and renewed through the next."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, select

from daemon.store.columns import UtcDateTime
from daemon.store.database import Database
from daemon.store.leases import check_lease
from daemon.store.records import Lease, LookCount, LookKey, LookRow
from daemon.store.schema import LOOK, SCENE

_KEY = (LOOK.c.scene_id, LOOK.c.area, LOOK.c.family, LOOK.c.model_hash, LOOK.c.sensing_time, LOOK.c.flagged)
_NEWEST_FIRST = (LOOK.c.sensing_time.desc(), LOOK.c.scene_id.desc(), LOOK.c.area, LOOK.c.family)


class Archive:
    """Looks of any age. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def look_keys(
        self,
        model_hash: str,
        *,
        areas: Collection[str] | None = None,
        family: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[LookKey, ...]:
        """Return which looks of one model are kept, flagged ones included, latest first.

        Of several versions of one acquisition only the newest one's look counts. ``since`` and ``until`` bound the
        sensing time, both included; ``areas`` None means all.
        """
        statement = (
            _keys(areas, since)
            .where(LOOK.c.model_hash == model_hash)
            .where(~_is_replaced(same_model=True, same_family=True))
        )
        if family is not None:
            statement = statement.where(LOOK.c.family == family)
        if until is not None:
            statement = statement.where(LOOK.c.sensing_time <= literal(until, UtcDateTime))
        with self._database.read() as connection:
            return tuple(LookKey(**row) for row in connection.execute(statement).mappings())

    def look(self, key: LookKey) -> LookRow | None:
        """Return one look whole; None where it is gone. Looks are heavy: hold one at a time."""
        statement = select(LOOK).where(
            LOOK.c.scene_id == key.scene_id,
            LOOK.c.area == key.area,
            LOOK.c.family == key.family,
            LOOK.c.model_hash == key.model_hash,
        )
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else LookRow(**row)

    def look_counts(self) -> tuple[LookCount, ...]:
        """Return how many looks are kept of each area through each model, in order of area and model."""
        statement = (
            select(LOOK.c.area, LOOK.c.model_hash, func.count().label("looks"))
            .group_by(LOOK.c.area, LOOK.c.model_hash)
            .order_by(LOOK.c.area, LOOK.c.model_hash)
        )
        with self._database.read() as connection:
            return tuple(LookCount(**row) for row in connection.execute(statement).mappings())

    def looks_to_renew(
        self, model_hash: str, *, areas: Collection[str] | None = None, since: datetime | None = None
    ) -> tuple[LookKey, ...]:
        """Return the looks of other models that have no successor of ``model_hash`` yet, latest first.

        One for each scene and area: where several models have looked at it, it is flagged if any of its looks is.
        Versions that a newer one with a look has replaced are left out.
        """
        renewed = LOOK.alias("renewed")
        has_successor = exists(
            select(1).where(
                renewed.c.scene_id == LOOK.c.scene_id,
                renewed.c.area == LOOK.c.area,
                renewed.c.model_hash == model_hash,
            )
        )
        statement = (
            _keys(areas, since)
            .where(LOOK.c.model_hash != model_hash, ~has_successor)
            .where(~_is_replaced(same_model=False, same_family=False))
        )
        found: dict[tuple[str, str], LookKey] = {}
        with self._database.read() as connection:
            for row in connection.execute(statement).mappings():
                key = LookKey(**row)
                known = found.setdefault((key.scene_id, key.area), key)
                if key.flagged and not known.flagged:
                    found[key.scene_id, key.area] = replace(known, flagged=True)
        return tuple(found.values())

    def renew_look(self, lease: Lease, look: LookRow) -> bool:
        """Store a look made anew of an ended scene; false, and nothing is changed, where there is one already.

        Raises :class:`LeaseLost` where ``lease`` is another's by now.
        """
        with self._database.write() as connection:
            check_lease(self._database, connection, lease)
            inserted = connection.execute(
                self._database.insert(LOOK)
                .values(**asdict(look))
                .on_conflict_do_nothing(index_elements=["scene_id", "area", "family", "model_hash"])
                .returning(LOOK.c.scene_id)
            )
            return inserted.one_or_none() is not None


def _keys(areas: Collection[str] | None, since: datetime | None) -> Select[Any]:
    statement = select(*_KEY).join(SCENE, SCENE.c.scene_id == LOOK.c.scene_id).order_by(*_NEWEST_FIRST)
    if areas is not None:
        statement = statement.where(LOOK.c.area.in_(list(areas)))
    if since is not None:
        statement = statement.where(LOOK.c.sensing_time >= literal(since, UtcDateTime))
    return statement


def _is_replaced(*, same_model: bool, same_family: bool) -> ColumnElement[bool]:
    """Whether a newer version of the acquisition has a look of the same area."""
    newer_look, newer = LOOK.alias("newer_look"), SCENE.alias("newer")
    same = [newer_look.c.area == LOOK.c.area]
    if same_model:
        same.append(newer_look.c.model_hash == LOOK.c.model_hash)
    if same_family:
        same.append(newer_look.c.family == LOOK.c.family)
    return exists(
        select(1)
        .select_from(newer_look.join(newer, newer.c.scene_id == newer_look.c.scene_id))
        .where(newer.c.identity == SCENE.c.identity, newer.c.version_order > SCENE.c.version_order, and_(*same))
    )
