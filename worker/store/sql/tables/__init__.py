"""The tables, and partial indexes: with them the cost of a sweep depends on the rows that are due, not on all rows."""

from worker.store.sql.tables.application import devices, institutions, members, users
from worker.store.sql.tables.columns import guid_columns, metadata, state_literal
from worker.store.sql.tables.exchange import events, hints, sync_missing, sync_users, syncs
from worker.store.sql.tables.messages import clicks, links, notification_reconnections, notifications
from worker.store.sql.tables.reconnections import reconnections, windows
from worker.store.sql.tables.sweeps import (
    changed_members,
    daily_totals,
    false_alarms,
    pauses,
    reckonings,
    reconciliations,
    sweep_marks,
    sweeps,
)

__all__ = [
    "changed_members",
    "clicks",
    "daily_totals",
    "devices",
    "events",
    "false_alarms",
    "guid_columns",
    "hints",
    "institutions",
    "links",
    "members",
    "metadata",
    "notification_reconnections",
    "notifications",
    "pauses",
    "reckonings",
    "reconciliations",
    "reconnections",
    "state_literal",
    "sweep_marks",
    "sweeps",
    "sync_missing",
    "sync_users",
    "syncs",
    "users",
    "windows",
]
