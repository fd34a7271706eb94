"""Alembic's environment: on the connection that `reconnect migrate` hands over, else on DATABASE_URL."""

from typing import Literal

from alembic import context

from worker.settings import settings
from worker.store.sql.database import open_sync_engine
from worker.store.sql.moments import Moment
from worker.store.sql.tables import metadata


def _moment(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Our own type is written by its name."""
    return "Moment()" if kind == "type" and isinstance(item, Moment) else False


def run() -> None:
    """Run the migrations."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        context.configure(connection=connection, target_metadata=metadata)
        context.run_migrations()
        return
    with open_sync_engine(settings()).begin() as own:
        context.configure(connection=own, target_metadata=metadata, render_item=_moment)
        context.run_migrations()


run()
