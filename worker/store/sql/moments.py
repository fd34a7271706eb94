"""Time in the database: UTC and aware everywhere, and the database's own clock for leases.

PostgreSQL keeps ``timestamptz``. SQLite has no such type: moments are text, ``YYYY-MM-DD HH:MM:SS.ffffff`` in UTC, which sorts
as time does. Moments that an application wrote are always read by :class:`normalised`. On SQLite it uses the grammar of
``policy/moments.py``, as a function of each connection (``store/sql/database.py``); on PostgreSQL it applies the same range of dates.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    DateTime,
    Dialect,
    Float,
    String,
    Text,
    and_,
    bindparam,
    literal,
    literal_column,
    or_,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from worker.policy import moments
from worker.policy.moments import BLANKS, FAR, FIRST, read_moment

#: Later than any plan: the ``reopen_at`` of an ended reconnection after which a sweep must not open another.
NEVER = moments.NEVER

#: The SQLite function that reads a text by the grammar.
READ_MOMENT = "reconnect_moment"
#: White space around a value, as SQLite writes it.
SQLITE_BLANKS = f"' ' || char({', '.join(str(ord(blank)) for blank in BLANKS if blank != ' ')})"

#: SQLite gives milliseconds; the zeros make the form of :func:`as_text`, so that both can be compared.
_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f000"


def as_text(moment: datetime) -> str:
    """The form in which SQLite keeps a moment; PostgreSQL reads it as UTC when ``+00`` follows."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


class Moment(TypeDecorator[datetime]):
    """A point in time. Refuses naive values, returns aware ones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        return as_text(value) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """No conversion for PostgreSQL: its transactions are set to UTC (``store/sql/database.py``)."""
        return super().result_processor(dialect, coltype) if dialect.name == "sqlite" else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None  # an application's slip in its own column; the rule does not pick it either
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The moment by the database's clock, plus so many seconds."""

    type = Moment()
    inherit_cache = True

    def __init__(self, seconds: ColumnElement[float] | float = 0) -> None:
        super().__init__(seconds if isinstance(seconds, ColumnElement) else literal(seconds, Float()))


@compiles(database_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(database_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now', ({compiler.process(element.clauses, **kw)}) || ' seconds')"


class normalised(FunctionElement[datetime]):  # noqa: N801
    """A moment in a column that applications write: ``NEVER`` where it means never, NULL where it is no moment."""

    type = Moment()
    inherit_cache = True


@compiles(normalised)
def _normalised(element: Any, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    never, far, first = (f"TIMESTAMPTZ '{as_text(moment)}+00'" for moment in (NEVER, FAR, FIRST))
    return f"CASE WHEN {column} >= {far} THEN {never} WHEN {column} >= {first} THEN {column} END"


@compiles(normalised, "sqlite")
def _normalised_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    # The usual forms, in UTC and without fractions, are read by SQLite's own function. With '+0 days' it returns its argument unchanged only
    # if that is a valid date. Other forms cost five times as much, which matters where every row is read.
    second = f"replace(substr({column}, 1, 19), 'T', ' ')"
    usual = f"substr({column}, 20) IN ('', 'Z', '+00:00') AND datetime({second}, '+0 days') = {second} AND instr({column}, char(0)) = 0"
    usual = f"{column} >= '{FIRST.year}' AND {column} < '{FAR.year}' AND {usual}"
    # Only printable ASCII reaches the function: SQLite cannot hand over text that is not UTF-8.
    text = f"trim({column}, {SQLITE_BLANKS})"
    other_forms = f"WHEN {text} NOT GLOB '*[^ -~]*' THEN {READ_MOMENT}({text})"
    return f"CASE WHEN typeof({column}) <> 'text' THEN NULL WHEN {usual} THEN {second} || '.000000' {other_forms} END"


def read_moment_sqlite(text: str) -> str | None:
    """The SQLite function :data:`READ_MOMENT`."""
    moment = read_moment(text)
    return None if moment is None else as_text(moment)


class has_passed(FunctionElement[bool]):  # noqa: N801
    """Whether a moment in a column that applications write is not after another one, ``now``."""

    type = Boolean()
    inherit_cache = True


@compiles(has_passed)
def _has_passed(element: Any, compiler: Any, **kw: Any) -> str:
    column, now = (compiler.process(clause, **kw) for clause in element.clauses)
    # No CASE: the index of the column serves a plain comparison only.
    return f"({column} <= {now} AND {column} >= TIMESTAMPTZ '{as_text(FIRST)}+00')"


@compiles(has_passed, "sqlite")
def _has_passed_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column, now = element.clauses
    text, moment = compiler.process(column, **kw), compiler.process(now, **kw)
    parsed = compiler.process(normalised(column), **kw)
    # Most dates lie ahead and begin with the day. For these a comparison of text is enough: no offset is as long as two days.
    ahead = f"{text} > date({moment}, '+2 days') AND {text} GLOB '[0-9][0-9][0-9][0-9]-*'"
    return f"CASE WHEN {ahead} THEN 0 ELSE coalesce({parsed} <= {moment}, 0) END"


class seconds_between(FunctionElement[float]):  # noqa: N801
    """The seconds from the first moment to the second."""

    type = Float()
    inherit_cache = True


@compiles(seconds_between, "postgresql")
def _between_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    first, second = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"EXTRACT(epoch FROM ({second} - {first}))::float8"


@compiles(seconds_between, "sqlite")
def _between_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    first, second = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"((julianday({second}) - julianday({first})) * 86400.0)"


class later(FunctionElement[datetime]):  # noqa: N801
    """A moment plus so many seconds."""

    type = Moment()
    inherit_cache = True

    def __init__(self, moment: ColumnElement[datetime], seconds: ColumnElement[float]) -> None:
        super().__init__(moment, seconds)


@compiles(later, "postgresql")
def _later_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({moment} + make_interval(secs => {seconds}))"


@compiles(later, "sqlite")
def _later_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"strftime('{_SQLITE_FORMAT}', {moment}, ({seconds}) || ' seconds')"


def dated_between(column: ColumnElement[Any], is_sqlite: bool) -> ColumnElement[bool]:
    """Whether a moment in a column that applications write is after ``lower`` and not after ``upper`` (:func:`dates_between`).

    The index of the column is read between the two. On SQLite the moments are text, in any zone. So four ranges of the index are read: days
    with dashes and days without, each with a day more on either side, and texts that do not begin with a digit, such as a space.
    """
    lower, upper = (bindparam(name, type_=Moment()) for name in ("lower", "upper"))
    if not is_sqlite:
        column = type_coerce(column, Moment())
        return and_(column > lower, column <= upper)
    unread = type_coerce(column, Text())  # the text as the application wrote it
    near = [
        and_(unread >= bindparam(f"from_{form}", type_=Text()), unread < bindparam(f"to_{form}", type_=Text()))
        for form in ("day", "digits")
    ]
    stretches = or_(*near, unread < literal_column("'0'"), unread >= literal_column("':'"))
    return and_(stretches, normalised(column) > lower, normalised(column) <= upper)


def dates_between(lower: datetime, upper: datetime, *, is_sqlite: bool) -> dict[str, object]:
    """The parameters of :func:`dated_between`."""
    parameters: dict[str, object] = {"lower": lower, "upper": upper}
    if is_sqlite:
        first, last = (lower - timedelta(days=1)).date(), (upper + timedelta(days=2)).date()
        parameters |= {"from_day": first.isoformat(), "to_day": last.isoformat()}
        parameters |= {"from_digits": f"{first:%Y%m%d}", "to_digits": f"{last:%Y%m%d}"}
    return parameters
