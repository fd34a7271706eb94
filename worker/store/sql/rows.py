"""Many rows in one statement: a JSON array bound once, read as a table by the database.

The statement's text does not depend on how many rows there are, so it is compiled once and one round trip writes a batch.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, FromClause, SelectBase, Text, bindparam, cast, column, func, select, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.types import TypeEngine

from worker.store.sql.moments import as_text

Part = TypeVar("Part")


class Rows:
    """Row sets in the dialect of one database."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self.is_sqlite = is_sqlite
        #: ``INSERT`` with ``ON CONFLICT`` in that dialect.
        self.insert: Any = sqlite.insert if is_sqlite else postgresql.insert
        self._parts: dict[Any, Any] = {}

    def part(self, kind: Callable[..., Part], **arguments: Hashable) -> Part:
        """``kind(rows, **given)``, made only once for this dialect. It holds only statements, which cost more to make than to run."""
        key = (kind, *arguments.items())
        if key not in self._parts:
            self._parts[key] = kind(self, **arguments)
        part: Part = self._parts[key]
        return part

    def table(self, name: str, columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
        """A table of the rows bound to the parameter ``name``, with these columns."""
        parameter = bindparam(name, type_=Text())
        if self.is_sqlite:
            element = func.json_each(parameter).table_valued("value")
            fields = (
                type_coerce(func.json_extract(element.c.value, f"$.{key}"), type_).label(key)
                for key, type_ in columns.items()
            )
            return select(*fields).subquery(name)
        values = func.json_to_recordset(cast(parameter, JSON())).table_valued(
            *(column(key, type_) for key, type_ in columns.items())
        )
        return values.render_derived(name, with_types=True)

    def among(self, column: ColumnElement[Any], few: SelectBase) -> ColumnElement[bool]:
        """Whether a column is among the few values of a query, in a form for which its index is used.

        PostgreSQL cannot know that a claim has few rows, and would read the whole table for ``IN``. It assumes that an array is short.
        """
        if self.is_sqlite:
            return column.in_(few)
        return column == func.any(func.array(few.scalar_subquery()))

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Rows as the text that :meth:`table` reads."""
        if self.is_sqlite:  # moments have another form there
            return json.dumps(list(rows), default=_moment, ensure_ascii=False, separators=(",", ":"))
        return msgspec.json.encode(list(rows)).decode()


@cache
def rows_of(*, is_sqlite: bool) -> Rows:
    """The row sets of a dialect, with the parts made of them; shared by all databases of a process."""
    return Rows(is_sqlite=is_sqlite)


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return as_text(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")
