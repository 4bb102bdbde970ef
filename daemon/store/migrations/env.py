"""Alembic's entry: runs the steps on the connection, and in the transaction, that the caller opened."""

from __future__ import annotations

from alembic import context

from daemon.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    compare_type=True,
    # SQLite cannot ALTER much; batch mode copies the table instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
