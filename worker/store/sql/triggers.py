"""The triggers that list a member as changed, whoever writes ``members`` and however.

A sweep visits the members on the list ``changed_members``, and no others (``store/changes.py``). A member is listed by a write after which
the rule may give another answer: a column that the rule reads has another value, and the row can be broken, or could before. A
member that is inserted is listed as well if it ever had a reconnection: it was deleted, and is back. ``TRUNCATE`` lists
:data:`EVERYTHING`. A column that the rule does not read lists nobody, and neither does a write that changes nothing.

Listing one twice, or one that need not be visited, does nothing.

PostgreSQL: one trigger a statement, over its transition tables, so that a bulk update pays once. No writer waits for a sweep, nor a sweep
for a writer. A writer locks the entry of a member that is listed already, and so keeps it there until its own transaction ends: a sweep
leaves out entries that are locked. If it cannot lock it at once, it adds another entry. The functions run with their owner's rights: an
application needs none on our tables. They forbid joins by nested loops and whole reads of tables, because a plan is made by the first
statement of a session: one that is good for one row takes hours for a hundred thousand.

SQLite: a trigger a row. It has one writer at a time, so an entry is simply there or not.
"""

# ruff: noqa: S608 - no text of anybody else goes into these statements

from collections.abc import Iterator

#: The entry that stands for all members.
EVERYTHING = ""
#: The columns of ``members`` that the rule reads, beside its key.
READ = ("user_guid", "connection_status", "is_oauth", "error_code", "token_expires_at", "token_revoked_at")
#: Set to ``1`` for a transaction of ours whose writes list nobody (PostgreSQL): it lists by itself who is to be visited.
OWN = "reconnect.own"


def may_matter(row: str) -> str:
    """Whether the rule may find this row broken, now or when its token expires."""
    connected = " AND ".join(f"{row}.connection_status <> '{form}'" for form in ("CONNECTED", "connected", "6"))
    dated = (f"{row}.{column} IS NOT NULL" for column in ("token_revoked_at", "error_code", "token_expires_at"))
    return f"({' OR '.join(dated)} OR {connected})"


def creating(dialect: str, schema: str | None) -> Iterator[str]:
    """The statements that create the triggers; ``schema`` is the one with our tables, for PostgreSQL."""
    return _sqlite() if dialect == "sqlite" else _postgresql(f'"{schema}".' if schema else "")


def dropping(dialect: str) -> Iterator[str]:
    """The statements that drop what :func:`creating` creates, and does not go with its table."""
    if dialect != "sqlite":
        for event in ("insert", "update", "delete", "truncate"):
            yield f"DROP FUNCTION reconnect_members_{event}() CASCADE"


def _postgresql(schema: str) -> Iterator[str]:
    was, is_ = (", ".join(f"{row}.{column}" for column in READ) for row in ("was", "is_"))
    known = f"coalesce((SELECT true FROM {schema}reconnections r WHERE r.member_guid = is_.member_guid LIMIT 1), false)"
    sources = {
        "insert": ("", f"SELECT is_.member_guid FROM is_ WHERE {may_matter('is_')} OR {known}", "NEW TABLE AS is_"),
        "update": (
            f"IF current_setting('{OWN}', true) = '1' THEN RETURN NULL; END IF;",
            # A key that was changed: both the old and the new one have no partner.
            (
                "SELECT coalesce(is_.member_guid, was.member_guid) AS member_guid "
                "FROM was FULL JOIN is_ ON is_.member_guid = was.member_guid "
                f"WHERE ({is_}) IS DISTINCT FROM ({was}) AND ({may_matter('is_')} OR {may_matter('was')} "
                "OR is_.member_guid IS NULL OR was.member_guid IS NULL)"
            ),
            "OLD TABLE AS was NEW TABLE AS is_",
        ),
        "delete": ("", f"SELECT was.member_guid FROM was WHERE {may_matter('was')}", "OLD TABLE AS was"),
    }
    for event, (first, source, tables) in sources.items():
        # In the order of the key, as the index of the list is.
        body = (
            f"{first} INSERT INTO {schema}changed_members (member_guid) "
            f"SELECT changed.member_guid FROM ({source} ORDER BY 1) AS changed WHERE NOT coalesce(("
            f"SELECT true FROM {schema}changed_members c WHERE c.member_guid = changed.member_guid "
            "LIMIT 1 FOR KEY SHARE SKIP LOCKED), false);"
        )
        yield _function(event, body)
        yield (
            f"CREATE TRIGGER reconnect_{event} AFTER {event.upper()} ON members REFERENCING {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION reconnect_members_{event}()"
        )
    yield _function("truncate", f"INSERT INTO {schema}changed_members (member_guid) VALUES ('{EVERYTHING}');")
    yield (
        "CREATE TRIGGER reconnect_truncate AFTER TRUNCATE ON members "
        "FOR EACH STATEMENT EXECUTE FUNCTION reconnect_members_truncate()"
    )


def _function(event: str, body: str) -> str:
    return (
        f"CREATE FUNCTION reconnect_members_{event}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        "SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_seqscan = off "
        f"AS $$ BEGIN {body} RETURN NULL; END $$"
    )


def _sqlite() -> Iterator[str]:
    differs = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in READ)
    moved = "NEW.member_guid IS NOT OLD.member_guid"
    known = "EXISTS (SELECT 1 FROM reconnections r WHERE r.member_guid = NEW.member_guid)"
    conditions = {
        ("insert", "NEW"): f"{may_matter('NEW')} OR {known}",
        ("update", "NEW"): f"{moved} OR ({differs}) AND ({may_matter('NEW')} OR {may_matter('OLD')})",
        ("moved", "OLD"): moved,
        ("delete", "OLD"): may_matter("OLD"),
    }
    for (name, row), condition in conditions.items():
        event, guid = "UPDATE" if name == "moved" else name.upper(), f"{row}.member_guid"
        # What is no GUID is never picked.
        is_guid = (
            f"typeof({guid}) = 'text' AND {guid} <> '' AND instr({guid}, char(0)) = 0 AND {guid} NOT GLOB '*[^!-~]*'"
        )
        yield (
            f"CREATE TRIGGER reconnect_{name} AFTER {event} ON members WHEN {is_guid} AND ({condition}) BEGIN "
            f"INSERT INTO changed_members (member_guid, id) SELECT {guid}, 0 "
            f"WHERE NOT EXISTS (SELECT 1 FROM changed_members c WHERE c.member_guid = {guid}); END"
        )
