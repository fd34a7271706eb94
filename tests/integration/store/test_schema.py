"""Migrations lead to the schema that the code speaks of, from every earlier one and with what is stored in it."""

from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from worker.errors import DatabaseUnavailable
from worker.store.sql import schema
from worker.store.sql.database import open_sync_engine
from worker.store.sql.tables import metadata

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def engine(settings_for: Any, database_url: str) -> Any:
    engine = open_sync_engine(settings_for(database_url=database_url))
    yield engine
    engine.dispose()


def go_to(engine: Any, revision: str, *, down: bool = False) -> None:
    with engine.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def test_migrations_lead_to_the_tables_as_they_are(engine: Any) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@ON_POSTGRESQL  # SQLite compares by bytes anyway
def test_guids_are_compared_by_their_bytes_on_postgresql_wherever_they_stand(engine: Any) -> None:
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT table_name || '.' || column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND (column_name LIKE '%\\_guid' OR column_name = 'moved_to')"
            )
        )
        collations = {column: collation for column, collation in found}  # noqa: C416 - rows
    assert len(collations) == 9
    assert set(collations.values()) == {"C"}


def test_what_is_stored_lives_through_the_migrations(engine: Any) -> None:
    go_to(engine, "0001", down=True)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO members (member_guid, user_guid) VALUES ('MBR-b', 'USR-1'), ('MBR-B', 'USR-2')")
        )
    go_to(engine, "head")
    with engine.connect() as connection:
        found = connection.execute(text("SELECT member_guid FROM members ORDER BY member_guid")).scalars().all()
    assert found == ["MBR-B", "MBR-b"]


@ON_POSTGRESQL  # on SQLite no column changes its type
def test_a_view_that_is_in_the_way_of_a_migration_is_said_to_be(
    engine: Any, settings_for: Any, database_url: str
) -> None:
    go_to(engine, "0001", down=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW theirs AS SELECT member_guid FROM members"))
    with pytest.raises(DatabaseUnavailable, match="a view, trigger or policy of yours uses a column that changes"):
        schema.migrate(settings_for(database_url=database_url))
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0001"
