"""Claims: one worker at a time on a scene, and scenes of an area in sensing order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Table, and_, exists, func, or_, select, tuple_, update
from sqlalchemy.sql.expression import FromClause

from daemon.errors import LeaseLost
from daemon.store.areas import lock_areas
from daemon.store.columns import storable_text
from daemon.store.database import Database
from daemon.store.ending import Ending
from daemon.store.records import Claim, SceneState, WorkAhead
from daemon.store.scenes import scene_of
from daemon.store.schema import AREA, CURSOR, SCENE, SCENE_AREA

_WAITING = ("pending", "claimed")


class Claims:
    """Who works on what. Part of :class:`daemon.store.store.Store`."""

    _database: Database
    _max_attempts: int

    def claim(self, owner: str, lease_s: float) -> Claim | None:
        """Take the first scene that may be scored now, for ``lease_s`` seconds; None where there is none.

        A scene may be scored when, in each of its areas,

        1. every active catalog has closed its first window, so that the sensing order is known,
        2. no pending or claimed scene, those waiting for a retry included, precedes it in (priority, sensing time,
           scene id),
        3. nobody works on another scene of its priority or a lower number.

        So a back-fill, whose priority is above 0, never keeps a watched scene waiting: neither does it stand in front
        of one, nor does its work block the area. Over all areas the lowest priority is taken first, then the earliest.

        Scenes without a common area are worked on side by side. An expired lease is claimed again with a higher fence;
        its attempt counts, so a scene that kills its workers ends as failed.
        """
        with self._database.write() as connection:
            self._sweep(connection)
        busy = None
        with self._database.write() as connection:
            for scene_id in _candidates(connection, self._database.now(connection)):
                areas = _open_areas(connection, scene_id)
                if not lock_areas(self._database, connection, areas, skip_locked=True).issuperset(areas):
                    busy = busy or scene_id
                elif claim := self._take(connection, scene_id, areas, owner, lease_s):
                    return claim
        if busy is None:
            return None
        # Somebody was just ending or claiming a scene there: wait for that, in a transaction that holds nothing yet.
        with self._database.write() as connection:
            areas = _open_areas(connection, busy)
            lock_areas(self._database, connection, areas)
            return self._take(connection, busy, areas, owner, lease_s)

    def _take(
        self, connection: Connection, scene_id: str, areas: frozenset[str], owner: str, lease_s: float
    ) -> Claim | None:
        # Asked again under the locks: what the candidates were chosen by may have changed.
        now = self._database.now(connection)
        row = (
            connection.execute(
                update(SCENE)
                .where(SCENE.c.scene_id == scene_id, _claimable(SCENE, now))
                .values(
                    state="claimed",
                    attempts=SCENE.c.attempts + 1,
                    fence=SCENE.c.fence + 1,
                    lease_owner=owner,
                    lease_until=now + timedelta(seconds=lease_s),
                    not_before=None,
                )
                .returning(SCENE)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return None
        roles = connection.execute(
            select(SCENE_AREA.c.area, SCENE_AREA.c.role)
            .where(SCENE_AREA.c.scene_id == scene_id, SCENE_AREA.c.area.in_(areas), ~SCENE_AREA.c.done)
            .order_by(SCENE_AREA.c.area)
        )
        return Claim(
            scene=scene_of(row),
            areas={row.area: row.role for row in roles},
            owner=owner,
            fence=row["fence"],
            attempt=row["attempts"],
            lease_until=row["lease_until"],
        )

    def _sweep(self, connection: Connection) -> None:
        """End expired claims that nobody shall take up again."""
        now = self._database.now(connection)
        expired = and_(SCENE.c.state == "claimed", SCENE.c.lease_until <= now)
        ended = {"lease_owner": None, "lease_until": None, "finished_at": now}
        connection.execute(
            update(SCENE).where(expired, SCENE.c.superseded_by.is_not(None)).values(state="superseded", **ended)
        )
        connection.execute(
            update(SCENE)
            .where(expired, SCENE.c.attempts >= self._max_attempts)
            .values(
                state="failed",
                outcome="failed",
                reason=f"its worker stopped without a word {self._max_attempts} times; look for what kills it, "
                "then run `vigie replay`",
                **ended,
            )
        )

    def work_ahead(self) -> WorkAhead:
        """Say whether scenes are being scored, or wait for a worker, for whoever has less urgent work.

        A scene that waits for its retry, or behind another one, is not work yet.
        """
        with self._database.read() as connection:
            now = self._database.now(connection)
            claimed = exists().where(SCENE.c.state == "claimed", SCENE.c.lease_until > now)
            if connection.execute(select(claimed)).scalar_one():
                return "claimed"
            return "waiting" if _candidates(connection, now) else "none"

    def renew(self, claim: Claim, lease_s: float) -> Claim:
        """Prolong ``claim`` to ``lease_s`` seconds from now. Raises :class:`LeaseLost` where it is another's."""
        with self._database.write() as connection:
            until = self._database.now(connection) + timedelta(seconds=lease_s)
            kept = connection.execute(update(SCENE).where(_held(claim)).values(lease_until=until))
            if kept.rowcount != 1:
                raise lost(claim)
        return replace(claim, lease_until=until)

    def release(self, claim: Claim) -> None:
        """Hand ``claim`` back untried: the attempt is not counted. Raises :class:`LeaseLost` where it is another's."""
        self._give_back(claim, state="pending", attempts=claim.attempt - 1)

    def fail(self, claim: Claim, error: str, retry_in_s: float | None) -> SceneState:
        """End an attempt with ``error``; returns the state of the scene from now on.

        It waits ``retry_in_s`` seconds and is ``pending``, unless its attempts are used up, or None says that trying
        again is useless: then it is ``failed``. It is ``superseded`` where a newer version has arrived meanwhile.
        Raises :class:`LeaseLost` where it is another's.
        """
        if retry_in_s is None or claim.attempt >= self._max_attempts:
            return self._give_back(claim, state="failed", outcome="failed", reason=storable_text(error))
        return self._give_back(claim, state="pending", retry_in_s=retry_in_s, reason=storable_text(error))

    def _give_back(
        self, claim: Claim, *, state: SceneState, retry_in_s: float | None = None, **values: object
    ) -> SceneState:
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = connection.execute(
                update(SCENE)
                .where(_held(claim))
                .values(state=state, lease_owner=None, lease_until=None, **values)
                .returning(SCENE.c.superseded_by)
            ).one_or_none()
            if row is None:
                raise lost(claim)
            this_scene = update(SCENE).where(SCENE.c.scene_id == claim.scene.scene_id)
            if state == "pending" and row.superseded_by is not None:
                state = "superseded"
                connection.execute(this_scene.values(state=state))
            if state != "pending":
                connection.execute(this_scene.values(finished_at=now))
            elif retry_in_s is not None:
                connection.execute(this_scene.values(not_before=now + timedelta(seconds=retry_in_s)))
        return state

    @contextmanager
    def finish(self, claim: Claim) -> Iterator[Ending]:
        """End ``claim`` in one transaction: all that is put into the :class:`Ending` is stored, or nothing.

        The rows of its areas are locked in name order first, so incidents of an area are assigned one scene at a time.
        Keep it short, and call no other method of the store inside: SQLite has one writer.

        Raises :class:`LeaseLost` where another worker holds the scene by now, and :class:`RuntimeError` where the block
        ends without :meth:`Ending.done`.
        """
        with self._database.write() as connection:
            lock_areas(self._database, connection, claim.areas)
            check_claim(self._database, connection, claim)
            ending = Ending(self._database, connection, claim)
            yield ending
            ending.close()


def check_claim(database: Database, connection: Connection, claim: Claim) -> None:
    """Lock the claimed scene's row till the transaction ends; raises :class:`LeaseLost` where it is another's."""
    statement = select(SCENE.c.scene_id).where(_held(claim))
    if not database.is_sqlite:
        statement = statement.with_for_update(key_share=True)
    if connection.execute(statement).one_or_none() is None:
        raise lost(claim)


def lost(claim: Claim) -> LeaseLost:
    """Say that ``claim`` is another's by now."""
    return LeaseLost(
        f"{claim.owner} no longer holds {claim.scene.item_id!r} (fence {claim.fence}): its lease ran out and it was "
        "taken up again; its result is discarded. Leases that run out often are too short, or workers stall"
    )


def _held(claim: Claim) -> ColumnElement[bool]:
    # Not the expiry: where nobody has taken the scene up, its late worker may still finish. The fence decides.
    return and_(
        SCENE.c.scene_id == claim.scene.scene_id,
        SCENE.c.state == "claimed",
        SCENE.c.fence == claim.fence,
        SCENE.c.lease_owner == claim.owner,
    )


def _candidates(connection: Connection, now: datetime) -> list[str]:
    """Return the scenes that may be claimed, earliest first; each is the first of its areas."""
    here, waiting = SCENE_AREA.alias("here"), SCENE.alias("waiting")
    first = (
        select(here.c.scene_id)
        .select_from(here.join(waiting, waiting.c.scene_id == here.c.scene_id))
        .where(here.c.area == AREA.c.name, ~here.c.done, waiting.c.state.in_(_WAITING))
        .order_by(here.c.priority, here.c.sensing_time, here.c.scene_id)
        .limit(1)
        .correlate(AREA)
        .scalar_subquery()
    )
    # Two statements: as one, a database without statistics may look for the first scenes once per scene.
    firsts = connection.execute(select(first).select_from(AREA).where(AREA.c.active)).scalars()
    place = SCENE_AREA.alias("place")
    urgency = (
        select(func.min(place.c.priority))
        .where(place.c.scene_id == SCENE.c.scene_id, ~place.c.done)
        .correlate(SCENE)
        .scalar_subquery()
    )
    statement = (
        select(SCENE.c.scene_id)
        .where(SCENE.c.scene_id.in_({scene_id for scene_id in firsts if scene_id is not None}), _claimable(SCENE, now))
        .order_by(urgency, SCENE.c.sensing_time, SCENE.c.scene_id)
    )
    return list(connection.execute(statement).scalars())


def _open_areas(connection: Connection, scene_id: str) -> frozenset[str]:
    statement = (
        select(SCENE_AREA.c.area).join(AREA).where(SCENE_AREA.c.scene_id == scene_id, ~SCENE_AREA.c.done, AREA.c.active)
    )
    return frozenset(connection.execute(statement).scalars())


def _claimable(scene: Table, now: datetime) -> ColumnElement[bool]:
    """The rules of :meth:`Claims.claim` as one condition on a row of ``scene``."""
    mine, theirs, other = SCENE_AREA.alias("mine"), SCENE_AREA.alias("theirs"), SCENE.alias("other")
    my_area: FromClause = mine.join(AREA, and_(AREA.c.name == mine.c.area, AREA.c.active))
    open_here = and_(mine.c.scene_id == scene.c.scene_id, ~mine.c.done)
    unsettled = my_area.join(CURSOR, and_(CURSOR.c.area == mine.c.area, CURSOR.c.active, ~CURSOR.c.settled))
    shared = my_area.join(theirs, and_(theirs.c.area == mine.c.area, ~theirs.c.done)).join(
        other, and_(other.c.scene_id == theirs.c.scene_id, other.c.scene_id != scene.c.scene_id)
    )
    comes_first = and_(
        other.c.state.in_(_WAITING),
        tuple_(theirs.c.priority, theirs.c.sensing_time, theirs.c.scene_id)
        < tuple_(mine.c.priority, mine.c.sensing_time, mine.c.scene_id),
    )
    is_worked_on = and_(other.c.state == "claimed", other.c.lease_until > now, theirs.c.priority <= mine.c.priority)
    return and_(
        or_(scene.c.state == "pending", and_(scene.c.state == "claimed", scene.c.lease_until <= now)),
        or_(scene.c.not_before.is_(None), scene.c.not_before <= now),
        exists(select(1).select_from(my_area).where(open_here)),
        ~exists(select(1).select_from(unsettled).where(open_here)),
        # Two questions, because each has an index of its own.
        ~exists(select(1).select_from(shared).where(open_here, comes_first)),
        ~exists(select(1).select_from(shared).where(open_here, is_worked_on)),
    )
