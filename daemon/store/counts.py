"""What the store holds, in numbers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, exists, func, or_, select

from daemon.store.database import Database
from daemon.store.records import SCENE_STATES, StoreCounts
from daemon.store.schema import AREA, INCIDENT, OUTBOX, SCENE, SCENE_AREA

_WAITING = SCENE.c.state.in_(("pending", "claimed"))
_BUDGET_SPAN = timedelta(days=30)
_UNSENT = and_(OUTBOX.c.sent_at.is_(None), OUTBOX.c.parked_at.is_(None))


class Counts:
    """How much is left to do. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def counts(self) -> StoreCounts:
        """Count scenes by state and alerts by theirs, all at one moment."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            states = connection.execute(
                select(SCENE.c.state, func.count().label("scenes")).group_by(SCENE.c.state)
            ).all()
            discovered = connection.execute(select(func.min(SCENE.c.discovered_at)).where(_WAITING)).scalar_one()
            unsent, created = connection.execute(
                select(func.count(), func.min(OUTBOX.c.created_at)).select_from(OUTBOX).where(_UNSENT)
            ).one()
            parked = connection.execute(
                select(func.count()).select_from(OUTBOX).where(OUTBOX.c.parked_at.is_not(None))
            ).scalar_one()
            recent = and_(INCIDENT.c.area == AREA.c.name, INCIDENT.c.first_sensing_time > now - _BUDGET_SPAN)
            opened = connection.execute(
                select(AREA.c.name, func.count(INCIDENT.c.incident_key))
                .select_from(AREA.outerjoin(INCIDENT, recent))
                .where(AREA.c.active)
                .group_by(AREA.c.name)
            ).all()
        return StoreCounts(
            scenes={**dict.fromkeys(SCENE_STATES, 0), **{row.state: row.scenes for row in states}},
            pending_oldest_age_s=None if discovered is None else max(0.0, (now - discovered).total_seconds()),
            outbox_unsent=unsent,
            outbox_parked=parked,
            outbox_oldest_age_s=None if created is None else max(0.0, (now - created).total_seconds()),
            incidents_opened={name: count for name, count in opened},  # noqa: C416 - rows are no pairs to a type checker
        )

    def idle(self) -> bool:
        """Whether nothing is pending or claimed in an active area, and nothing is unsent (parked alerts do not count).

        Scenes of windows that are still open do not count either; see ``settled``.
        """
        places = SCENE.join(SCENE_AREA).join(AREA)
        to_score = select(1).select_from(places).where(_WAITING, ~SCENE_AREA.c.done, AREA.c.active)
        with self._database.read() as connection:
            return not connection.execute(
                select(or_(exists(to_score), exists(select(OUTBOX.c.seq).where(_UNSENT))))
            ).scalar_one()
