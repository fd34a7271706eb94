"""Columns that applications write: types that read any value a column can hold.

SQLite stores any kind of value in any column, and PostgreSQL stores moments that Python cannot represent. So these columns are converted in
SQL: automatically in every ``SELECT`` (``column_expression``), and by the functions below where a statement compares them. The result is
the value in the form of ``policy/columns.py`` and ``policy/moments.py``, or NULL for NULL, for blank text, and for an :class:`unreadable`
value. So a value in one row cannot make a statement about other rows fail.
"""

from typing import Any

from sqlalchemy import Boolean, Dialect, Integer, String, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from worker.policy.columns import DEVICE_WORDS, FALSE, STATUS_NUMBERS, TRUE
from worker.policy.moments import BLANKS, FIRST
from worker.store.sql.moments import SQLITE_BLANKS, Moment, as_text, normalised

#: The same characters as PostgreSQL writes them.
_POSTGRESQL_BLANKS = "E'" + "".join(f"\\u{ord(blank):04x}" for blank in BLANKS) + "'"
#: No GUID of MX is longer.
_LONGEST_GUID = 128


class plain_text(FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """Text without the space around it, no longer than its column's type allows; NULL for blank text and for other values than text."""

    type: TypeEngine[str] = String()
    inherit_cache = True


def _text_of(element: Any, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses.clauses[0], **kw))


@compiles(plain_text)
def _plain_text(element: Any, compiler: Any, **kw: Any) -> str:
    return f"nullif(btrim({_text_of(element, compiler, **kw)}, {_POSTGRESQL_BLANKS}), '')"


@compiles(plain_text, "sqlite")
def _plain_text_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = _text_of(element, compiler, **kw)
    length = getattr(element.clauses.clauses[0].type, "length", None) or 10_000
    trimmed = f"nullif(trim(substr({column}, 1, {length}), {SQLITE_BLANKS}), '')"
    # NUL ends a text for half of SQLite's functions, and a BLOB is not text.
    return f"CASE WHEN typeof({column}) = 'text' AND instr({column}, char(0)) = 0 THEN {trimmed} END"


class _StatusName(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else STATUS_NUMBERS.get(value, value)


class status_text(plain_text):  # noqa: N801
    """A status as written, in upper case; ``policy.columns.statuses_as_written`` gives the values to compare it with.

    A ``SELECT`` of the column returns the name of the status.
    """

    type = _StatusName()
    inherit_cache = True


@compiles(status_text)
def _status_text(element: Any, compiler: Any, **kw: Any) -> str:
    return f'upper({_plain_text(element, compiler, **kw)} COLLATE "C")'


@compiles(status_text, "sqlite")
def _status_text_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"upper({_plain_text_sqlite(element, compiler, **kw)})"


class device_kind(plain_text):  # noqa: N801
    """The push service that a device's kind means; NULL if it means none."""

    inherit_cache = True


def _kinds(text: str) -> str:
    return " ".join([f"CASE {text}", *(f"WHEN '{word}' THEN '{kind}'" for word, kind in DEVICE_WORDS.items()), "END"])


@compiles(device_kind)
def _device_kind(element: Any, compiler: Any, **kw: Any) -> str:
    return _kinds(f'lower({_plain_text(element, compiler, **kw)} COLLATE "C")')


@compiles(device_kind, "sqlite")
def _device_kind_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return _kinds(f"lower({_plain_text_sqlite(element, compiler, **kw)})")


class truth(FunctionElement[bool]):  # noqa: N801
    """True, false, or NULL for neither."""

    type = Boolean()
    inherit_cache = True


@compiles(truth)
def _truth(element: Any, compiler: Any, **kw: Any) -> str:
    return _text_of(element, compiler, **kw)


@compiles(truth, "sqlite")
def _truth_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = _text_of(element, compiler, **kw)
    word = f"lower(trim({column}, {SQLITE_BLANKS}))"
    yes, no = (", ".join(f"'{word}'" for word in words) for words in (TRUE, FALSE))
    parsed = f"CASE WHEN {word} IN ({yes}) THEN 1 WHEN {word} IN ({no}) THEN 0 END"
    return f"CASE typeof({column}) WHEN 'integer' THEN CASE {column} WHEN 1 THEN 1 WHEN 0 THEN 0 END WHEN 'text' THEN {parsed} END"


class whole_number(FunctionElement[int]):  # noqa: N801
    """An integer; NULL for anything else."""

    type = Integer()
    inherit_cache = True


@compiles(whole_number)
def _whole_number(element: Any, compiler: Any, **kw: Any) -> str:
    return _text_of(element, compiler, **kw)


@compiles(whole_number, "sqlite")
def _whole_number_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = _text_of(element, compiler, **kw)
    return f"CASE WHEN typeof({column}) = 'integer' THEN {column} END"


class is_set(FunctionElement[bool]):  # noqa: N801
    """Whether a column holds a value, readable or not; blank text does not count."""

    type = Boolean()
    inherit_cache = True


@compiles(is_set)
def _is_set(element: Any, compiler: Any, **kw: Any) -> str:
    return f"({_text_of(element, compiler, **kw)} IS NOT NULL)"


@compiles(is_set, "sqlite")
def _is_set_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = _text_of(element, compiler, **kw)
    return f"({column} IS NOT NULL AND NOT (typeof({column}) = 'text' AND trim({column}, {SQLITE_BLANKS}) = ''))"


class unreadable(FunctionElement[bool]):  # noqa: N801
    """Whether a column holds something that its type cannot read: no moment, a BLOB, a word where a number belongs."""

    type = Boolean()
    inherit_cache = True


@compiles(unreadable)
def _unreadable(element: Any, compiler: Any, **kw: Any) -> str:
    column = element.clauses.clauses[0]
    if isinstance(column.type, Moment):
        return f"coalesce({compiler.process(column, **kw)} < TIMESTAMPTZ '{as_text(FIRST)}+00', false)"
    return "false"  # in PostgreSQL the types of other columns allow no unreadable value


@compiles(unreadable, "sqlite")
def _unreadable_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = element.clauses.clauses[0]
    parsed = compiler.process(column.type.column_expression(column), **kw)
    return f"({compiler.process(is_set(column), **kw)} AND {parsed} IS NULL)"


class is_guid(FunctionElement[bool]):  # noqa: N801
    """Whether a column may hold a GUID of MX: printable ASCII. The client of MX checks the other rules."""

    type = Boolean()
    inherit_cache = True


@compiles(is_guid)
def _is_guid(element: Any, compiler: Any, **kw: Any) -> str:
    return f"({_text_of(element, compiler, **kw)} COLLATE \"C\" ~ '^[!-~]+$')"


@compiles(is_guid, "sqlite")
def _is_guid_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column = _text_of(element, compiler, **kw)
    text = (
        f"typeof({column}) = 'text' AND length({column}) BETWEEN 1 AND {_LONGEST_GUID} AND instr({column}, char(0)) = 0"
    )
    return f"({text} AND {column} NOT GLOB '*[^!-~]*')"


class ApplicationMoment(Moment):
    """A moment that an application writes; :data:`~worker.store.sql.moments.NEVER` where it means never."""

    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return normalised(column)


class ApplicationText(TypeDecorator[str]):
    """Text that an application writes; of any length if none is given."""

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # noqa: ARG002
        return Text() if self.length is None else String(self.length)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return plain_text(column)


class ApplicationStatus(ApplicationText):
    """A ``connection_status`` that an application writes: its name, whatever its case, or MX's number."""

    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return status_text(column)


class ApplicationDeviceKind(ApplicationText):
    """A kind of device that an application writes."""

    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return device_kind(column)


class ApplicationTruth(TypeDecorator[bool]):
    """Yes or no, as an application writes it."""

    impl = Boolean
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return truth(column)


class ApplicationInteger(TypeDecorator[int]):
    """An integer that an application writes."""

    impl = Integer
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return whole_number(column)
