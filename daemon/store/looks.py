"""Looks at a place, and the references that are chosen from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, exists, literal, select, tuple_

from daemon.scenes import Scene
from daemon.store.claims import check_claim
from daemon.store.columns import UtcDateTime
from daemon.store.database import Database
from daemon.store.records import Claim, Footprint, LookRow, ReferenceRow
from daemon.store.schema import LOOK, REFERENCE, SCENE, SCENE_REFERENCE


class Looks:
    """What places looked like. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def earlier_looks(self, area: str, family: str, model_hash: str, before: Scene, limit: int) -> tuple[LookRow, ...]:
        """Return the last ``limit`` unflagged looks that come before a scene in (sensing time, scene id), latest first.

        Of several versions of one acquisition the newest one's look counts, flagged or not; looks at the acquisition of
        ``before`` itself never do.
        """
        with self._database.read() as connection:
            rows = connection.execute(_earlier(LOOK, area, family, model_hash, before, limit)).mappings()
            return tuple(LookRow(**row) for row in rows)

    def earlier_footprints(
        self, area: str, family: str, model_hash: str, before: Scene, limit: int
    ) -> tuple[Footprint, ...]:
        """Return what the scenes of :meth:`earlier_looks` cover, without the looks: those of large areas are heavy."""
        with self._database.read() as connection:
            rows = connection.execute(_earlier(None, area, family, model_hash, before, limit))
            return tuple(Footprint(scene_id=row.scene_id, geometry=row.geometry) for row in rows)

    def looks_by_id(self, area: str, family: str, model_hash: str, scene_ids: Sequence[str]) -> tuple[LookRow, ...]:
        """Return the looks of these scenes, in the order asked. Raises :class:`LookupError` where one is missing."""
        statement = select(LOOK).where(_of(area, family, model_hash), LOOK.c.scene_id.in_(scene_ids))
        with self._database.read() as connection:
            found = {row["scene_id"]: LookRow(**row) for row in connection.execute(statement).mappings()}
        if missing := [scene_id for scene_id in scene_ids if scene_id not in found]:
            raise LookupError(f"no look of {area!r} through {family} {model_hash} is stored for scenes {missing}")
        return tuple(found[scene_id] for scene_id in scene_ids)

    def pin_reference(
        self, claim: Claim, area: str, family: str, model_hash: str, reference_id: str, look_ids: Sequence[str]
    ) -> ReferenceRow:
        """Choose what the claimed scene is compared with in ``area``, once and for all; returns the choice that holds.

        The first pin wins: a retry, or a second worker, gets the first one's. The same reference may serve many scenes.
        Raises :class:`LeaseLost` where the scene is another's by now, and :class:`ValueError` where ``reference_id``
        already names other looks.
        """
        scene_id = claim.scene.scene_id
        with self._database.write() as connection:
            check_claim(self._database, connection, claim)
            if pinned := _pinned(connection, scene_id, area, family, model_hash):
                return pinned
            connection.execute(
                self._database.insert(REFERENCE)
                .values(
                    reference_id=reference_id,
                    area=area,
                    family=family,
                    model_hash=model_hash,
                    look_ids=list(look_ids),
                    created_at=self._database.now(connection),
                )
                .on_conflict_do_nothing(index_elements=["reference_id"])
            )
            connection.execute(
                SCENE_REFERENCE.insert().values(
                    scene_id=scene_id, area=area, family=family, model_hash=model_hash, reference_id=reference_id
                )
            )
            pinned = _pinned(connection, scene_id, area, family, model_hash)
            wanted = (area, family, model_hash, tuple(look_ids))
            if pinned is None or (pinned.area, pinned.family, pinned.model_hash, pinned.look_ids) != wanted:
                raise ValueError(
                    f"reference {reference_id} of {wanted} is already {pinned}; a reference never changes, "
                    "so its id must be derived from all of these"
                )
            return pinned

    def pinned_reference(self, scene_id: str, area: str, family: str, model_hash: str) -> ReferenceRow | None:
        """Return what the scene is compared with in ``area``; None where nothing is pinned yet."""
        with self._database.read() as connection:
            return _pinned(connection, scene_id, area, family, model_hash)


def _of(area: str, family: str, model_hash: str) -> ColumnElement[bool]:
    return and_(LOOK.c.area == area, LOOK.c.family == family, LOOK.c.model_hash == model_hash)


def _earlier(whole: Table | None, area: str, family: str, model_hash: str, before: Scene, limit: int) -> Select[Any]:
    """Select the looks before a scene, or (``whole`` None) only the id and geometry of their scenes."""
    scene, newer_look, newer = SCENE.alias("seen"), LOOK.alias("newer_look"), SCENE.alias("newer")
    is_replaced = exists(
        select(1)
        .select_from(newer_look.join(newer, newer.c.scene_id == newer_look.c.scene_id))
        .where(
            newer.c.identity == scene.c.identity,
            newer.c.version_order > scene.c.version_order,
            newer_look.c.area == LOOK.c.area,
            newer_look.c.family == LOOK.c.family,
            newer_look.c.model_hash == LOOK.c.model_hash,
        )
    )
    return (
        (select(scene.c.scene_id, scene.c.geometry).select_from(LOOK) if whole is None else select(whole))
        .join(scene, scene.c.scene_id == LOOK.c.scene_id)
        .where(
            _of(area, family, model_hash),
            ~LOOK.c.flagged,
            tuple_(LOOK.c.sensing_time, LOOK.c.scene_id)
            < tuple_(literal(before.sensing_time, UtcDateTime), literal(before.scene_id)),
            scene.c.identity != before.identity,
            ~is_replaced,
        )
        .order_by(LOOK.c.sensing_time.desc(), LOOK.c.scene_id.desc())
        .limit(limit)
    )


def _pinned(connection: Connection, scene_id: str, area: str, family: str, model_hash: str) -> ReferenceRow | None:
    row = (
        connection.execute(
            select(REFERENCE)
            .join(SCENE_REFERENCE)
            .where(
                SCENE_REFERENCE.c.scene_id == scene_id,
                SCENE_REFERENCE.c.area == area,
                SCENE_REFERENCE.c.family == family,
                SCENE_REFERENCE.c.model_hash == model_hash,
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else ReferenceRow(**{**row, "look_ids": tuple(row["look_ids"])})
