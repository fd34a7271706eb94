"""Migrations lead to the schema that the code defines."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from worker.store.sql.database import open_sync_engine
from worker.store.sql.database_errors import as_worker_error
from worker.store.sql.tables import metadata

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def engine(settings_for: Any, database_url: str) -> Any:
    engine = open_sync_engine(settings_for(database_url=database_url))
    yield engine
    engine.dispose()


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
    assert len(collations) == 19
    assert set(collations.values()) == {"C"}


@ON_POSTGRESQL  # on SQLite no column changes its type
def test_a_view_that_is_in_the_way_of_a_migration_is_said_to_be(
    engine: Any, settings_for: Any, database_url: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW theirs AS SELECT member_guid FROM members"))
    with pytest.raises(DBAPIError) as raised, engine.begin() as connection:
        connection.execute(text("ALTER TABLE members ALTER COLUMN member_guid TYPE text"))
    said = str(as_worker_error(raised.value, engine.url))
    assert "a view, trigger or policy of yours uses a column that changes" in said
