"""The triggers that list a member as changed, for every write to ``members``.

A sweep visits only members on the list ``changed_members`` (``store/changes.py``). A write lists a member if the rule may give another
result after it: a column that the rule reads has another value, and the row may be broken, or might have been before. An inserted member is
also listed if it ever had a reconnection: the row was deleted before. ``TRUNCATE`` lists :data:`EVERYTHING`. A write that changes no column
that the rule reads lists nothing.

A write of an expiry in a month lists nothing either: a sweep finds the member when the moment comes. On PostgreSQL dates count up to a day
after the marks in ``sweep_marks``, up to which sweeps have listed members. The day covers transactions that are open while a sweep moves
the marks. On SQLite dates are text in many forms, so every date counts.

It does no harm to list a member twice, or one that need not be visited.

PostgreSQL: triggers run once per statement, over its transition tables, so that a bulk update is cheap. No writer waits for a sweep, nor a sweep
for a writer. If the member is listed already, the writer locks that entry. A sweep skips locked entries, so the entry stays until the
writer's transaction ends. If the lock is not free, the writer adds another entry. It also adds one above READ COMMITTED, where locking an
entry that a sweep has deleted would make the write fail.

The functions run with their owner's rights, so an application needs no rights on our tables. They disable nested loops and sequential
scans: a session keeps the plan of its first statement, and a plan that is good for one row takes hours for a hundred thousand. They have
memory to join and sort a bulk update.

SQLite: triggers run for each row. There is one writer at a time, so an entry needs no locks.
"""

# ruff: noqa: S608 - no text of anybody else goes into these statements

from collections.abc import Iterator

#: The entry that stands for all members.
EVERYTHING = ""
#: The columns of ``members`` that the rule reads, beside its key.
READ = ("user_guid", "connection_status", "is_oauth", "error_code", "token_expires_at", "token_revoked_at")
#: A setting (PostgreSQL) that an update of ours sets to ``1`` so that the trigger lists no member: the caller lists members itself. The
#: trigger resets it, so that the next update in the same transaction lists its members.
OWN = "reconnect.own"


def _may_matter(row: str, until: str | None) -> str:
    """Whether by the rule this row may be broken or get a notice by ``until``; ``None``: at any time."""
    connected = " AND ".join(f"{row}.connection_status <> '{form}'" for form in ("CONNECTED", "connected", "6"))
    may_be_broken = f"{row}.token_revoked_at IS NOT NULL OR {row}.error_code IS NOT NULL OR {connected}"
    return f"({may_be_broken} OR {row}.token_expires_at {f'<= {until}' if until else 'IS NOT NULL'})"


def creating(dialect: str, schema: str | None) -> Iterator[str]:
    """The statements that create the triggers; ``schema`` is the one with our tables, for PostgreSQL."""
    return _sqlite() if dialect == "sqlite" else _postgresql(f'"{schema}".' if schema else "")


def _postgresql(schema: str) -> Iterator[str]:
    differs = " IS DISTINCT FROM ".join(
        f"({', '.join(f'{row}.{column}' for column in READ)})" for row in ("is_", "was")
    )
    until = f"(SELECT greatest(max(mark.until), clock_timestamp()) + interval '1 day' FROM {schema}sweep_marks mark)"
    is_, was = (_may_matter(row, until) for row in ("is_", "was"))

    def had_reconnection(row: str) -> str:
        query = f"SELECT true FROM {schema}reconnections r WHERE r.member_guid = {row}.member_guid LIMIT 1"
        return f"coalesce(({query}), false)"

    sources = {
        "insert": ("", f"SELECT is_.member_guid FROM is_ WHERE {is_} OR {had_reconnection('is_')}", "NEW TABLE AS is_"),
        "update": (
            f"IF current_setting('{OWN}', true) = '1' THEN PERFORM set_config('{OWN}', '', true); RETURN NULL; END IF;",
            (
                "SELECT coalesce(is_.member_guid, was.member_guid) AS member_guid "
                "FROM was FULL JOIN is_ ON is_.member_guid = was.member_guid "
                # If the key changed, neither the old nor the new row has a partner.
                f"WHERE {differs} AND (is_.member_guid IS NULL OR was.member_guid IS NULL OR {is_} OR {was} "
                # A notice may be open for a date for which none would be opened yet.
                f"OR (is_.token_expires_at IS NOT NULL OR was.token_expires_at IS NOT NULL) AND {had_reconnection('is_')})"
            ),
            "OLD TABLE AS was NEW TABLE AS is_",
        ),
        "delete": (
            "",
            f"SELECT was.member_guid FROM was WHERE {was} OR was.token_expires_at IS NOT NULL AND {had_reconnection('was')}",
            "OLD TABLE AS was",
        ),
    }
    for event, (prelude, source, tables) in sources.items():
        # Sorted by key, as the index of the list is.
        body = (
            f"{prelude} INSERT INTO {schema}changed_members (member_guid) "
            f"SELECT changed.member_guid FROM ({source} ORDER BY 1) AS changed "
            # A member with an empty GUID is never picked, and its entry would mean all members.
            f"WHERE changed.member_guid <> '{EVERYTHING}' "
            "AND (current_setting('transaction_isolation') <> 'read committed' OR NOT coalesce(("
            f"SELECT true FROM {schema}changed_members c WHERE c.member_guid = changed.member_guid "
            "LIMIT 1 FOR KEY SHARE SKIP LOCKED), false));"
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
        "SET work_mem = '64MB' SET jit = off "
        f"AS $$ BEGIN {body} RETURN NULL; END $$"
    )


def _sqlite() -> Iterator[str]:
    differs = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in READ)
    moved = "NEW.member_guid IS NOT OLD.member_guid"
    had_reconnection = "EXISTS (SELECT 1 FROM reconnections r WHERE r.member_guid = NEW.member_guid)"
    conditions = {
        ("insert", "NEW"): f"{_may_matter('NEW', None)} OR {had_reconnection}",
        ("update", "NEW"): f"{moved} OR ({differs}) AND ({_may_matter('NEW', None)} OR {_may_matter('OLD', None)})",
        ("moved", "OLD"): moved,
        ("delete", "OLD"): _may_matter("OLD", None),
    }
    for (name, row), condition in conditions.items():
        event, guid = "UPDATE" if name == "moved" else name.upper(), f"{row}.member_guid"
        # A row without a valid GUID is never picked.
        is_guid = (
            f"typeof({guid}) = 'text' AND {guid} <> '' AND instr({guid}, char(0)) = 0 AND {guid} NOT GLOB '*[^!-~]*'"
        )
        yield (
            f"CREATE TRIGGER reconnect_{name} AFTER {event} ON members WHEN {is_guid} AND ({condition}) BEGIN "
            f"INSERT INTO changed_members (member_guid, id) SELECT {guid}, 0 "
            f"WHERE NOT EXISTS (SELECT 1 FROM changed_members c WHERE c.member_guid = {guid}); END"
        )
