"""Alembic's entry: runs on the connection that `Database.migrate` gives."""

from alembic import context

from seaway.registry.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
