"""Tables for hints, events and syncs."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Identity, Index, Integer, String, Table, Text

from worker.store.sql.moments import Moment
from worker.store.sql.tables.columns import Guid, Hash, Id, metadata, partial_index

# The content of MX's webhooks. A hint is kept for two days after it last came.
hints = Table(
    "hints",
    metadata,
    # SHA-256 of the content, hexadecimal: the same hint twice is one row, counted twice.
    Column("key", Hash, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("action", String(64)),
    Column("connection_status", String(64)),
    Column("member_guid", Guid),
    Column("user_guid", Guid),
    # When the hint first and last came, and how often.
    Column("received_at", Moment, nullable=False),
    Column("last_received_at", Moment, nullable=False),
    Column("times", Integer, nullable=False, server_default="1"),
    Column("state", String(16), nullable=False),
    Column("next_attempt_at", Moment),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    # A short word for its result, and when its member was last read for it.
    Column("outcome", String(64)),
    Column("read_at", Moment),
    CheckConstraint("state IN ('due', 'leased', 'done', 'failed', 'unused')", name="state"),
    partial_index("ix_hints_due", "next_attempt_at", where="state = 'due'"),
    partial_index("ix_hints_leased", "lease_expires_at", where="state = 'leased'"),
    partial_index("ix_hints_member", "member_guid", where="member_guid IS NOT NULL"),
    partial_index("ix_hints_shown", "state", "outcome", where="state IN ('failed', 'unused')"),
    Index("ix_hints_received", "last_received_at"),
)

# Events to the application: written in the transaction that they tell about, and posted in order (store/events/).
events = Table(
    "events",
    metadata,
    # The order in which a receiver gets the events of one subject.
    Column("id", Id, Identity(), primary_key=True),
    # The same at every attempt, so that a receiver can drop doubles.
    Column("event_id", String(40), nullable=False),
    Column("type", String(32), nullable=False),
    # Events of one subject are posted one after the other. A user's GUID, or `outage:CODE`.
    Column("subject", Guid, nullable=False),
    # JSON: GUIDs, ids and short words (policy/events.py).
    Column("data", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    # `waiting`, `accepted`, or `failed`: given up after the last attempt.
    Column("state", String(16), nullable=False, server_default="waiting"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", Moment),
    Column("tried_at", Moment),
    Column("accepted_at", Moment),
    # A short word for how the last try ended.
    Column("outcome", String(64)),
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("state IN ('waiting', 'accepted', 'failed')", name="state"),
    partial_index("ix_events_waiting", "next_attempt_at", "id", where="state = 'waiting'"),
    partial_index("ix_events_accepted", "accepted_at", where="accepted_at IS NOT NULL"),
    partial_index("ix_events_failed", "id", where="state = 'failed'"),
    Index("ix_events_subject", "subject", "id"),
    Index("ix_events_created", "created_at"),
)

# Syncs: listing all users and members at MX (stages/sync.py).
syncs = Table(
    "syncs",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("started_at", Moment, nullable=False),
    # The last progress. A sync without progress for a day is given up.
    Column("touched_at", Moment, nullable=False),
    Column("finished_at", Moment),
    # True while it is unfinished, NULL after that: there is one unfinished sync at most.
    Column("unfinished", Boolean, unique=True),
    # `listing`, then `checking` members that MX no longer listed, then `finished` or `failed`; and why, in a sentence.
    Column("phase", String(16), nullable=False),
    Column("outcome", Text),
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    # The checkpoint in the list of users: entries taken, the page size in force, and the number of entries by MX's first and last answer.
    # NULL: not known yet.
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("per_page", Integer),
    Column("first_total", Integer),
    Column("total", Integer),
    # Whether all pages of users were taken.
    Column("has_all_users", Boolean, nullable=False, server_default="0"),
    # What it found so far: JSON, a number for each word of store/syncs/sync.py.
    Column("found", Text, nullable=False, server_default="{}"),
)

# The users that MX listed for the unfinished sync; emptied when it ends. ``done_at`` has no index: a sync reads the users by id, and without
# an index an update is cheaper.
sync_users = Table(
    "sync_users",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("user_guid", Guid, nullable=False, unique=True),
    # How often the user's members could not be read.
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When the user's members were read, or given up. NULL: they are to be read.
    Column("done_at", Moment),
)

# Members that the unfinished sync did not find in MX's lists, to be read one by one.
sync_missing = Table(
    "sync_missing",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("member_guid", Guid, nullable=False, unique=True),
    Column("user_guid", Guid, nullable=False),
    # MX lists it for another user than our row says, so it is not missing.
    Column("is_elsewhere", Boolean, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
)
