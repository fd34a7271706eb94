"""Tables of the sweep: sweeps, pauses and false alarms, changed members and marks, reconciliations and reckonings, and daily totals."""

from sqlalchemy import BigInteger, Column, Date, Identity, Integer, String, Table

from worker.store.sql.moments import Moment
from worker.store.sql.tables.columns import Guid, Id, metadata

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    # The minute for which beat began the sweep, unique if two beats run. NULL for sweeps by hand or cron.
    Column("slot", Moment, unique=True),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("opened", Integer, nullable=False, server_default="0"),
    Column("recovered", Integer, nullable=False, server_default="0"),
    Column("closed", Integer, nullable=False, server_default="0"),
    Column("reminded", Integer, nullable=False, server_default="0"),
    Column("exhausted", Integer, nullable=False, server_default="0"),
    Column("woken", Integer, nullable=False, server_default="0"),
)

pauses = Table(
    "pauses",
    metadata,
    # `everything`, `institution:CODE`, `channel:KIND` by hand; `mx`, `delivery:KIND` by the breaker; `outage:CODE`.
    Column("scope", String(160), primary_key=True),
    Column("reason", String(200), nullable=False),
    Column("since", Moment, nullable=False),
    # When the breaker lets one probe through, or an outage is examined again; NULL: paused until `reconnect resume`.
    Column("probe_at", Moment),
)

false_alarms = Table(
    "false_alarms",
    metadata,
    # An operator ended the hold of this institution. Breaks that were opened up to ``until`` count towards no burst.
    Column("institution_code", String(128), primary_key=True),
    Column("until", Moment, nullable=False),
)

changed_members = Table(
    "changed_members",
    metadata,
    # A member that a sweep has to visit; EVERYTHING stands for all of them.
    Column("member_guid", Guid, primary_key=True),
    # On PostgreSQL a member may be listed more than once: the id distinguishes entries that a sweep took from later ones. On SQLite it is 0.
    Column("id", Id, Identity(), primary_key=True),
)

sweep_marks = Table(
    "sweep_marks",
    metadata,
    # `due`: members that fall due are listed up to this moment. `notices`: members whose token expires by this moment are listed for notices.
    Column("name", String(16), primary_key=True),
    Column("until", Moment, nullable=False),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    # Why it began: `first`, `settings`, `daily`, `everything` (the table of members was emptied).
    Column("reason", String(16), nullable=False),
    # The settings that the rule depends on, hashed.
    Column("rule", String(64), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    # Its phase: `members` in order of their GUID, then `reconnections` in order of their id; NULL when it ended.
    Column("phase", String(16)),
    Column("after_guid", Guid, nullable=False, server_default=""),
    Column("after_id", BigInteger, nullable=False, server_default="0"),
    # Reconnections that it opened and closed, because no earlier sweep had.
    Column("opened", Integer, nullable=False, server_default="0"),
    Column("closed", Integer, nullable=False, server_default="0"),
)

reckonings = Table(
    "reckonings",
    metadata,
    # One row: the last walk over all members, which reckons expiries (store/reckoning.py).
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The days of all institutions, hashed. If they change, a walk begins.
    Column("known", String(64)),
    # `changed` or `daily`.
    Column("reason", String(16)),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    # The GUID that the walk has reached; "" between two walks.
    Column("after_guid", Guid, nullable=False, server_default=""),
)

# Counts by the day
daily_totals = Table(
    "daily_totals",
    metadata,
    # `day`: the day is counted. Otherwise what the row counts: `opened`, `ended`, `returned`, `notifications`, `clicks` (store/totals.py).
    Column("what", String(16), primary_key=True),
    # In UTC.
    Column("day", Date, primary_key=True),
    Column("state", String(16), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    # The reason of a reconnection, the channel of a notification.
    Column("detail", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
)
