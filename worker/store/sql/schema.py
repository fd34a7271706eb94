"""Migrating the database to the newest schema, and comparing its revision with the newest one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from worker.errors import SchemaMismatch
from worker.settings import Settings
from worker.store.sql.database import open_sync_engine
from worker.store.sql.database_errors import as_worker_error

_PACKAGE = Path(__file__).resolve().parents[2]


def _config() -> Config:
    """The wheel carries the migrations inside the package; a checkout has them beside it."""
    inside = _PACKAGE / "migrations"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else _PACKAGE.parent / "migrations"))
    return config


def migrate(settings: Settings) -> tuple[str | None, str | None]:
    """Migrate the database to the newest schema in one transaction; returns the revisions before and after.

    Raises :class:`SchemaMismatch` if the database is at a revision that this version does not know.
    """
    engine = open_sync_engine(settings)
    config = _config()
    try:
        with engine.begin() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return before, MigrationContext.configure(connection).get_current_revision()
    except CommandError:
        raise SchemaMismatch(
            "the database's schema is newer than this version, or not this worker's: run the version that made it"
        ) from None
    except (DBAPIError, OSError) as error:
        raise as_worker_error(error, engine.url) from None
    finally:
        engine.dispose()


def revisions(settings: Settings) -> tuple[str | None, str | None]:
    """The revision the database is at, and the newest one."""
    engine = open_sync_engine(settings)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except (DBAPIError, OSError) as error:
        raise as_worker_error(error, engine.url) from None
    finally:
        engine.dispose()
    return current, ScriptDirectory.from_config(_config()).get_current_head()
