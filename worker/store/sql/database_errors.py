"""Failures of the database, each with one line that tells what to do: by SQLSTATE if there is one, else by the text.

A connection that PostgreSQL refuses has no SQLSTATE, and SQLite never has one. Their texts are searched for signs. No text is passed on,
since it may quote a statement's parameters.
"""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.errors import DatabaseUnavailable, SchemaMismatch


class Meaning(NamedTuple):
    """What is wrong, and whether it may be over soon, so that the transaction is retried."""

    text: str
    passes: bool = False


_SCHEMA = Meaning("the database's schema is not this version's: run `reconnect migrate`")
_UTF8 = "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0 makes one that fits"
_RIGHTS = (
    "this role lacks a right. To migrate it needs GRANT USAGE, CREATE ON SCHEMA; to work, GRANT SELECT, INSERT, UPDATE, DELETE ON ALL "
    "TABLES and USAGE ON ALL SEQUENCES IN SCHEMA (migrate with the role that owns the tables)"
)
_FULL = Meaning("the disk is full; nothing was half written, make room and run again")
_READ_ONLY = Meaning(
    "it is read-only, as a replica is; point DATABASE_URL at the primary, or name several hosts and ?target_session_attrs=read-write"
)
_NO_DATABASE = Meaning("the database does not exist; create it (CREATE DATABASE) or see DATABASE_URL")
_REFUSED = Meaning("user or password refused; see DATABASE_URL and the server's pg_hba.conf")
_TOO_MANY = Meaning(
    "it has no connection left; run fewer children, raise max_connections, or use a pooler", passes=True
)
_OURS = Meaning("a table of ours is there already and is not ours; give this worker a schema or database of its own")
_AWAY = Meaning("it is starting or stopping", passes=True)

#: By SQLSTATE (PostgreSQL, "Appendix A"), or by its class, the first two characters.
_STATES = {
    "42P01": _SCHEMA,
    "42703": _SCHEMA,
    "42704": _SCHEMA,
    "42P07": _OURS,
    "42710": _OURS,
    "42501": Meaning(_RIGHTS),
    "3F000": Meaning(
        "no schema of its search_path exists; CREATE SCHEMA, or see search_path in DATABASE_URL and in ALTER ROLE"
    ),
    "3D000": _NO_DATABASE,
    "28P01": _REFUSED,
    "28000": _REFUSED,
    "25006": _READ_ONLY,
    "53100": _FULL,
    "53200": Meaning("it is out of memory", passes=True),
    "53300": _TOO_MANY,
    "55P03": Meaning("another session holds a lock for too long", passes=True),
    "57014": Meaning("a statement took longer than its statement_timeout allows; raise that for this role"),
    "57P01": _AWAY,
    "57P02": _AWAY,
    "57P03": _AWAY,
    "22P05": Meaning(f"its encoding cannot hold a character of the data; it has to be UTF8: {_UTF8}"),
    "22021": Meaning(f"its encoding cannot hold a character of the data; it has to be UTF8: {_UTF8}"),
    "0A000": Meaning(
        "a view, trigger or policy of yours uses a column that changes; drop it, migrate, and make it again"
    ),
    "42601": Meaning("it does not understand a statement of ours; its version may be too old"),
    "42883": Meaning("it lacks a function that we use; its version may be too old"),
    "23": Meaning("a rule of the tables refuses what was written: a constraint, or a trigger of yours"),
    "P0": Meaning("a trigger of yours refuses what was written"),
}

#: By a sign in the text, in lower case; the first one found counts.
_SIGNS = {
    "readonly": Meaning("it is read-only; give this user the right to write the file and its folder"),
    "read-only": _READ_ONLY,
    "not read-write": _READ_ONLY,
    "in recovery mode": _AWAY,
    "starting up": _AWAY,
    "shutting down": _AWAY,
    "disk is full": _FULL,
    "no space left": _FULL,
    "disk i/o error": Meaning("the disk cannot be written; nothing was half written, see to the disk and run again"),
    "unable to open": Meaning("the file cannot be opened; see that its folder exists and may be written"),
    "file is not a database": Meaning("the file is no SQLite database; see DATABASE_URL"),
    "malformed": Meaning("the file is damaged; restore it from a backup"),
    "locked": Meaning("another process holds it for too long", passes=True),
    "no such table": _SCHEMA,
    "no such column": _SCHEMA,
    "already exists": _OURS,
    "password authentication failed": _REFUSED,
    "no password supplied": Meaning("it wants a password; see DATABASE_URL"),
    "no pg_hba.conf entry": Meaning(
        "its pg_hba.conf does not let this user in from here; where it wants TLS, add ?sslmode=require to DATABASE_URL"
    ),
    "is not permitted to log in": Meaning("this role may not log in; ALTER ROLE … LOGIN, or see DATABASE_URL"),
    "permission denied for database": Meaning("this role may not connect; GRANT CONNECT ON DATABASE … TO it"),
    "too many": _TOO_MANY,
    "remaining connection slots": _TOO_MANY,
    "does not support ssl": Meaning("it speaks no TLS, which sslmode in DATABASE_URL demands"),
    "root certificate file": Meaning(
        "the file of its sslrootcert is not there; name one in DATABASE_URL, or ?sslrootcert=system"
    ),
    "certificate verify failed": Meaning("its certificate is not trusted; see sslmode and sslrootcert in DATABASE_URL"),
    "server certificate for": Meaning("its certificate is for another host; see the host in DATABASE_URL"),
    "certificate": Meaning(
        "TLS with it fails over a certificate; see sslmode, sslrootcert and sslcert in DATABASE_URL"
    ),
    "connection refused": Meaning("nobody listens there; start it or see DATABASE_URL", passes=True),
    "timeout": Meaning("it does not answer", passes=True),
    "timed out": Meaning("it does not answer", passes=True),
    "resolve": Meaning("its host name is unknown; see DATABASE_URL", passes=True),
    "translate host name": Meaning("its host name is unknown; see DATABASE_URL", passes=True),
    "no such file": Meaning("there is no server's socket; start it or see DATABASE_URL", passes=True),
    "permission denied": Meaning("its socket or file may not be opened by this user"),
}


def as_worker_error(error: BaseException | None, url: URL) -> DatabaseUnavailable | SchemaMismatch:
    """What a failure of the database means, in one line without parameters."""
    meaning = _meaning(error)
    if meaning is _SCHEMA:
        return SchemaMismatch(_SCHEMA.text)
    if meaning is None:
        kind = type(getattr(error, "orig", None) or error).__name__
        return DatabaseUnavailable(f"database: {where(url)}: {kind}; see that it runs and DATABASE_URL is right")
    return DatabaseUnavailable(f"database: {where(url)}: {meaning.text}")


def where(url: URL) -> str:
    """The database's file or host. The parser of ``DATABASE_URL`` never takes a part of a password for a host."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite file {Path(url.database or '').name}"
    host = url.host or url.query.get("host")
    return f"PostgreSQL at {host if isinstance(host, str) else 'its socket'}"


def wrong_encoding(encoding: str, url: URL) -> DatabaseUnavailable:
    """The error for a database whose encoding cannot hold all characters."""
    return DatabaseUnavailable(
        f"database: {where(url)}: its encoding is {encoding[:20]} and has to be UTF8, or names outside it are lost: {_UTF8}"
    )


def passes(error: BaseException) -> bool:
    """Whether the failure may be over soon: a restart, a dropped connection, a deadlock; not a full or read-only disk."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, OperationalError | InterfaceError):
        meaning = _meaning(error)
        return meaning is None or meaning.passes
    return isinstance(error, ConnectionError | asyncio.TimeoutError)


def _meaning(error: BaseException | None) -> Meaning | None:
    origin: Any = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None)
    if state and (meaning := _STATES.get(state) or _STATES.get(state[:2])):
        return meaning
    text = str(origin or "").lower()
    if "does not exist" in text and not state:
        return Meaning("the role does not exist; see DATABASE_URL") if 'role "' in text else _NO_DATABASE
    return next((meaning for sign, meaning in _SIGNS.items() if sign in text), None)
