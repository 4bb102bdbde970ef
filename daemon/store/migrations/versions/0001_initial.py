"""The first schema. There is no way back: a downgrade would forget which alerts were sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from daemon.store.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "area",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("geometry", sa.JSON(), nullable=False),
        sa.Column("watched_since", UtcDateTime(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_area")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("alert_id", sa.String(length=36), nullable=False),
        sa.Column("incident_key", sa.String(length=200), nullable=False),
        sa.Column("sensing_time", UtcDateTime(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.Column("parked_at", UtcDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("alert_id", name=op.f("uq_outbox_alert_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outbox_sent_at_seq"), "outbox", ["sent_at", "seq"], unique=False)
    op.create_table(
        "scene",
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("catalog", sa.String(length=200), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("sensor", sa.String(length=200), nullable=False),
        sa.Column("platform", sa.Text(), nullable=True),
        sa.Column("sensing_time", UtcDateTime(), nullable=False),
        sa.Column("grid_code", sa.Text(), nullable=True),
        sa.Column("geometry", sa.JSON(), nullable=False),
        sa.Column("cloud_cover_percent", sa.Double(), nullable=True),
        sa.Column("updated", UtcDateTime(), nullable=True),
        sa.Column("item", sa.JSON(), nullable=False),
        sa.Column("version_order", sa.Integer(), nullable=False),
        sa.Column("superseded_by", sa.String(length=36), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("stats", sa.JSON(), nullable=False),
        sa.Column("discovered_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("scene_id", name=op.f("pk_scene")),
        sa.UniqueConstraint("identity", "version", name=op.f("uq_scene_identity_version")),
    )
    op.create_index(op.f("ix_scene_item_id"), "scene", ["item_id"], unique=False)
    op.create_index(
        op.f("ix_scene_state_sensing_time_scene_id"), "scene", ["state", "sensing_time", "scene_id"], unique=False
    )
    op.create_table(
        "cursor",
        sa.Column("catalog", sa.String(length=200), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("swept_at", UtcDateTime(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_cursor_area_area")),
        sa.PrimaryKeyConstraint("catalog", "area", name=op.f("pk_cursor")),
    )
    op.create_table(
        "detection",
        sa.Column("detection_id", sa.String(length=200), nullable=False),
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("anchor_cell", sa.String(length=200), nullable=False),
        sa.Column("geometry", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("incident_key", sa.String(length=200), nullable=True),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_detection_area_area")),
        sa.ForeignKeyConstraint(["scene_id"], ["scene.scene_id"], name=op.f("fk_detection_scene_id_scene")),
        sa.PrimaryKeyConstraint("detection_id", name=op.f("pk_detection")),
    )
    op.create_index(op.f("ix_detection_scene_id"), "detection", ["scene_id"], unique=False)
    op.create_table(
        "incident",
        sa.Column("incident_key", sa.String(length=200), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("first_sensing_time", UtcDateTime(), nullable=False),
        sa.Column("last_sensing_time", UtcDateTime(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("geometry", sa.JSON(), nullable=False),
        sa.Column("cells", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_incident_area_area")),
        sa.PrimaryKeyConstraint("incident_key", name=op.f("pk_incident")),
    )
    op.create_index(op.f("ix_incident_area_state"), "incident", ["area", "state"], unique=False)
    op.create_table(
        "look",
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("family", sa.String(length=200), nullable=False),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("sensing_time", UtcDateTime(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_look_area_area")),
        sa.ForeignKeyConstraint(["scene_id"], ["scene.scene_id"], name=op.f("fk_look_scene_id_scene")),
        sa.PrimaryKeyConstraint("scene_id", "area", "family", "model_hash", name=op.f("pk_look")),
    )
    op.create_index(
        op.f("ix_look_area_family_model_hash_sensing_time"),
        "look",
        ["area", "family", "model_hash", "sensing_time"],
        unique=False,
    )
    op.create_table(
        "reference",
        sa.Column("reference_id", sa.String(length=200), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("family", sa.String(length=200), nullable=False),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("look_ids", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_reference_area_area")),
        sa.PrimaryKeyConstraint("reference_id", name=op.f("pk_reference")),
    )
    op.create_table(
        "scene_area",
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("sensing_time", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_scene_area_area_area")),
        sa.ForeignKeyConstraint(["scene_id"], ["scene.scene_id"], name=op.f("fk_scene_area_scene_id_scene")),
        sa.PrimaryKeyConstraint("scene_id", "area", name=op.f("pk_scene_area")),
    )
    op.create_index(
        op.f("ix_scene_area_area_done_sensing_time_scene_id"),
        "scene_area",
        ["area", "done", "sensing_time", "scene_id"],
        unique=False,
    )
    op.create_table(
        "sighting",
        sa.Column("catalog", sa.String(length=200), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_sighting_area_area")),
        sa.ForeignKeyConstraint(["scene_id"], ["scene.scene_id"], name=op.f("fk_sighting_scene_id_scene")),
        sa.PrimaryKeyConstraint("catalog", "area", "scene_id", name=op.f("pk_sighting")),
    )
    op.create_table(
        "scene_reference",
        sa.Column("scene_id", sa.String(length=36), nullable=False),
        sa.Column("area", sa.String(length=200), nullable=False),
        sa.Column("family", sa.String(length=200), nullable=False),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("reference_id", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["area"], ["area.name"], name=op.f("fk_scene_reference_area_area")),
        sa.ForeignKeyConstraint(
            ["reference_id"], ["reference.reference_id"], name=op.f("fk_scene_reference_reference_id_reference")
        ),
        sa.ForeignKeyConstraint(["scene_id"], ["scene.scene_id"], name=op.f("fk_scene_reference_scene_id_scene")),
        sa.PrimaryKeyConstraint("scene_id", "area", "family", "model_hash", name=op.f("pk_scene_reference")),
    )
