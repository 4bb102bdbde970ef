"""The tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from daemon.store.columns import UtcDateTime

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_SERIAL = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts by itself only in an INTEGER PRIMARY KEY."""

AREA = Table(
    "area",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("geometry", JSON, nullable=False),
    Column("watched_since", UtcDateTime, nullable=False),
    # This row is the lock of the area's order: claims, window closings and endings all take it first.
    Column("revision", Integer, nullable=False),
    Column("active", Boolean(create_constraint=False), nullable=False),
)

CURSOR = Table(
    "cursor",
    METADATA,
    Column("catalog", String(200), primary_key=True),
    Column("area", ForeignKey("area.name"), primary_key=True),
    Column("time", UtcDateTime),
    Column("settled", Boolean(create_constraint=False), nullable=False),
    Column("token", Text),
    Column("swept_at", UtcDateTime),
    Column("active", Boolean(create_constraint=False), nullable=False),
)

SCENE = Table(
    "scene",
    METADATA,
    Column("scene_id", String(36), primary_key=True),
    Column("identity", Text, nullable=False),
    Column("version", String(64), nullable=False),
    Column("catalog", String(200), nullable=False),
    Column("collection", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("sensor", String(200), nullable=False),
    Column("platform", Text),
    Column("sensing_time", UtcDateTime, nullable=False),
    Column("grid_code", Text),
    Column("geometry", JSON, nullable=False),
    Column("cloud_cover_percent", Double),
    Column("updated", UtcDateTime),
    Column("item", JSON, nullable=False),
    # Orders the versions of one identity: the highest is the newest.
    Column("version_order", Integer, nullable=False),
    Column("superseded_by", String(36)),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", UtcDateTime),
    Column("lease_owner", Text),
    Column("lease_until", UtcDateTime),
    Column("fence", BigInteger, nullable=False),
    Column("outcome", Text),
    Column("reason", Text),
    Column("stats", JSON, nullable=False),
    Column("discovered_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    UniqueConstraint("identity", "version"),
    Index(None, "state", "sensing_time", "scene_id"),
    Index(None, "item_id"),
)

SCENE_AREA = Table(
    "scene_area",
    METADATA,
    Column("scene_id", ForeignKey("scene.scene_id"), primary_key=True),
    Column("area", ForeignKey("area.name"), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("done", Boolean(create_constraint=False), nullable=False),
    # 0: as watched. Above: taken up only when nothing of a lower number waits, and never waited for by it.
    Column("priority", Integer, nullable=False, server_default="0"),
    # The scene's own, once more: the next scene of an area is the first row of this index.
    Column("sensing_time", UtcDateTime, nullable=False),
    Index(None, "area", "done", "priority", "sensing_time", "scene_id"),
)

SIGHTING = Table(
    # Which open window of which catalog has listed a discovered scene: closing any of them makes it pending.
    "sighting",
    METADATA,
    Column("catalog", String(200), primary_key=True),
    Column("area", ForeignKey("area.name"), primary_key=True),
    Column("scene_id", ForeignKey("scene.scene_id"), primary_key=True),
)

REFERENCE = Table(
    "reference",
    METADATA,
    Column("reference_id", String(200), primary_key=True),
    Column("area", ForeignKey("area.name"), nullable=False),
    Column("family", String(200), nullable=False),
    Column("model_hash", String(64), nullable=False),
    Column("look_ids", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

SCENE_REFERENCE = Table(
    "scene_reference",
    METADATA,
    Column("scene_id", ForeignKey("scene.scene_id"), primary_key=True),
    Column("area", ForeignKey("area.name"), primary_key=True),
    Column("family", String(200), primary_key=True),
    Column("model_hash", String(64), primary_key=True),
    Column("reference_id", ForeignKey("reference.reference_id"), nullable=False),
)

LOOK = Table(
    "look",
    METADATA,
    Column("scene_id", ForeignKey("scene.scene_id"), primary_key=True),
    Column("area", ForeignKey("area.name"), primary_key=True),
    Column("family", String(200), primary_key=True),
    Column("model_hash", String(64), primary_key=True),
    Column("sensing_time", UtcDateTime, nullable=False),
    Column("flagged", Boolean(create_constraint=False), nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Index(None, "area", "family", "model_hash", "sensing_time"),
)

DETECTION = Table(
    "detection",
    METADATA,
    Column("detection_id", String(200), primary_key=True),
    Column("scene_id", ForeignKey("scene.scene_id"), nullable=False),
    Column("area", ForeignKey("area.name"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("p_value", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("anchor_cell", String(200), nullable=False),
    Column("geometry", JSON, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("incident_key", String(200)),
    Column("published", Boolean(create_constraint=False), nullable=False),
    Index(None, "scene_id"),
)

INCIDENT = Table(
    "incident",
    METADATA,
    Column("incident_key", String(200), primary_key=True),
    Column("area", ForeignKey("area.name"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("first_sensing_time", UtcDateTime, nullable=False),
    Column("last_sensing_time", UtcDateTime, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("geometry", JSON, nullable=False),
    Column("cells", JSON, nullable=False),
    Index(None, "area", "state"),
)

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("alert_id", String(36), nullable=False),
    Column("incident_key", String(200), nullable=False),
    Column("sensing_time", UtcDateTime, nullable=False),
    Column("key", LargeBinary, nullable=False),
    # [[name, base64 of the value], ...]: JSON holds no bytes, and headers repeat and have an order.
    Column("headers", JSON, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("parked_at", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text),
    UniqueConstraint("alert_id"),
    Index(None, "sent_at", "seq"),
    # Without this SQLite may give a deleted row's number again, and the order would be lost.
    sqlite_autoincrement=True,
)

LEASE = Table(
    "lease",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("owner", Text),
    Column("until", UtcDateTime),
    Column("fence", BigInteger, nullable=False),
)
