"""Shared by the definitions of all tables: the names of constraints, and the types of our columns."""

from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Index, Integer, MetaData, String, Table, literal_column, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

#: SQLite counts its rowid only for INTEGER PRIMARY KEY.
Id = BigInteger().with_variant(Integer(), "sqlite")
#: GUIDs are ASCII. They are compared by their bytes, not by the rules of a language; so an index of them is built in half the time.
Guid = String(128).with_variant(String(128, collation="C"), "postgresql")
#: Hexadecimal, compared by bytes for the same reason.
Hash = String(64).with_variant(String(64, collation="C"), "postgresql")


def quoted(values: object) -> str:
    """States as a list in SQL."""
    return ", ".join(f"'{value}'" for value in values)  # type: ignore[attr-defined]


def partial_index(
    name: str, *columns: object, where: str, sqlite_where: str | None = None, unique: bool = False
) -> Index:
    """An index of the rows that fulfil a condition, on both databases; ``sqlite_where``: another one on SQLite."""
    on_sqlite = text(sqlite_where or where)
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=on_sqlite)  # type: ignore[arg-type]


def state_literal(state: str) -> ColumnElement[str]:
    """A state as part of a statement's text. With a parameter the planner would not see that a partial index fits."""
    return literal_column(f"'{state}'", String())


def guid_columns(table: Table) -> list[Column[Any]]:
    """The columns of a table that hold GUIDs of users or members."""
    return [column for column in table.c if column.type is Guid or column.name.endswith("_guid")]
