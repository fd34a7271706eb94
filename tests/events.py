"""Does every move record its event, and nothing else? Triggers that exist only in tests record every change of a state in the database."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from worker.policy.states import (
    NOTIFICATION_MOVES,
    RECONNECTION_MOVES,
    TELLS,
    UNDONE_REFUSALS,
    NotificationState,
    ReconnectionState,
)

STATES: dict[str, Any] = {"reconnections": ReconnectionState, "notifications": NotificationState}
MOVES = (*RECONNECTION_MOVES, *NOTIFICATION_MOVES, *UNDONE_REFUSALS)


def triggers(*, is_sqlite: bool) -> list[str]:
    """Statements that create ``state_changes`` and its triggers: each change of a state is inserted there, in the same transaction."""
    made = [
        "CREATE TABLE state_changes (id INTEGER PRIMARY KEY, kind TEXT, row_id INTEGER, before TEXT, after TEXT)"
        if is_sqlite
        else "CREATE TABLE state_changes (id SERIAL PRIMARY KEY, kind TEXT, row_id BIGINT, before TEXT, after TEXT)"
    ]
    columns = "INSERT INTO state_changes (kind, row_id, before, after) VALUES "
    for kind in STATES:
        if is_sqlite:
            new = f"BEGIN {columns} ('{kind}', NEW.id, '', NEW.state); END"
            moved = f"WHEN OLD.state <> NEW.state BEGIN {columns} ('{kind}', NEW.id, OLD.state, NEW.state); END"
            made.append(f"CREATE TRIGGER {kind}_new AFTER INSERT ON {kind} {new}")
            made.append(f"CREATE TRIGGER {kind}_moved AFTER UPDATE OF state ON {kind} {moved}")
            continue
        before = "CASE TG_OP WHEN 'INSERT' THEN '' ELSE OLD.state END"
        note = f"BEGIN {columns} ('{kind}', NEW.id, {before}, NEW.state); RETURN NULL; END"
        made.append(f"CREATE FUNCTION {kind}_change() RETURNS trigger LANGUAGE plpgsql AS $$ {note} $$")
        run = f"EXECUTE FUNCTION {kind}_change()"
        made.append(f"CREATE TRIGGER {kind}_new AFTER INSERT ON {kind} FOR EACH ROW {run}")
        made.append(
            f"CREATE TRIGGER {kind}_moved AFTER UPDATE ON {kind} FOR EACH ROW WHEN (OLD.state <> NEW.state) {run}"
        )
    return made


def ways(*, told: bool) -> set[tuple[str, str, str]]:
    """(kind, before, after) of all moves that have an event, or of all that have none. An empty ``before`` means a new row."""
    return {
        (kind, before, str(after))
        for move in MOVES
        if move.has_event is told
        for after in move.after
        for before in ([str(state) for state in move.before] or [""])
        for kind, states in STATES.items()
        if type(after) is states
    }


def expected(changes: Iterable[tuple[str, int, str, str]]) -> Counter[tuple[str, int]]:
    """The events, as (type, id), that must be recorded for these changes (kind, id, before, after)."""
    told = ways(told=True)
    return Counter(
        (str(TELLS[STATES[kind](after)]), id_) for kind, id_, before, after in changes if (kind, before, after) in told
    )


def of_moves(events: Iterable[tuple[str, dict[str, Any]]]) -> Counter[tuple[str, int]]:
    """Those of these events (type, data) that belong to moves, as (type, id)."""
    types = {str(type_) for type_ in TELLS.values()}
    return Counter(
        (type_, data.get("reconnection_id") or data["notification_id"]) for type_, data in events if type_ in types
    )
