"""Scenes of a back-fill stand behind all others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give every scene of an area a priority, and the next scene an index that heeds it."""
    op.add_column("scene_area", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index(op.f("ix_scene_area_area_done_sensing_time_scene_id"), table_name="scene_area")
    op.create_index(
        op.f("ix_scene_area_area_done_priority_sensing_time_scene_id"),
        "scene_area",
        ["area", "done", "priority", "sensing_time", "scene_id"],
        unique=False,
    )
