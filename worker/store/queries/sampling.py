"""Counting without reading whole tables: few rows are counted exactly, many are estimated from a sample.

On PostgreSQL a sample is some of a table's pages, drawn at random for each query (``TABLESAMPLE SYSTEM``). A count of it is divided by the
share that was drawn, and marked as an estimate. Example: of 3 million open reconnections among 13 million rows about 7,000 are in the sample.
So the estimate is off by 3 % or less in 19 of 20 cases. SQLite has no samples; there all rows are counted.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Float, Table, bindparam, func, literal, select, tablesample
from sqlalchemy import text as sql_text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.util import ClauseAdapter

from worker.store.sql.rows import Rows

#: Up to so many rows are counted exactly. Each one has to be fetched.
EXACT = 20_000
#: A sample has about so many rows of the table.
SAMPLE = 30_000
#: The assumed bytes of a row, if PostgreSQL has no statistics of the table yet.
_ROW = 200

_SIZE: Any = sql_text(
    "SELECT CASE WHEN reltuples > 0 THEN reltuples ELSE pg_relation_size(oid) / :row END FROM pg_class WHERE oid = to_regclass(:name)"
)


@dataclass(frozen=True)
class Source:
    """What is counted: a table, or a sample of it."""

    rows: Any
    #: The share of the table's rows that it has.
    share: float = 1.0

    @property
    def is_sample(self) -> bool:
        """Whether counts are estimates."""
        return self.share < 1

    def instead_of(self, expression: Any) -> Any:
        """An expression over the table's columns, rewritten for this source."""
        return ClauseAdapter(self.rows).traverse(expression) if self.is_sample else expression

    def scaled(self, count: int) -> int:
        """The estimate for the whole table from a count of this source."""
        return round(count / self.share)


async def up_to(connection: AsyncConnection, table: Table, *where: Any, most: int) -> int:
    """How many rows satisfy the conditions, counted no further than ``most`` + 1."""
    few = select(literal(1)).select_from(table).where(*where).limit(most + 1).subquery()
    return int(await connection.scalar(select(func.count()).select_from(few)) or 0)


async def source_of(connection: AsyncConnection, rows: Rows, table: Table, *where: Any) -> Source:
    """The table itself if few of its rows satisfy the conditions, else a sample of it."""
    if rows.is_sqlite or await up_to(connection, table, *where, most=EXACT) <= EXACT:
        return Source(table)
    return await sample_of(connection, table)


async def sample_of(connection: AsyncConnection, table: Table) -> Source:
    """A sample of a table of PostgreSQL."""
    size = float(await connection.scalar(_SIZE, {"row": _ROW, "name": table.name}) or 0)
    share = min(SAMPLE / max(size, 1.0), 1.0)
    drawn = tablesample(table, func.system(bindparam(None, 100 * share, Float())), name=f"some_{table.name}")
    return Source(drawn if share < 1 else table, share)
