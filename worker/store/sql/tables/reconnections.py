"""Reconnections, and the windows that MX gave out for them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from worker.policy.states import OPEN, ReconnectionState
from worker.store.sql.moments import Moment
from worker.store.sql.tables.columns import Guid, Id, metadata, partial_index, quoted

reconnections = Table(
    "reconnections",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("member_guid", Guid, nullable=False, index=True),
    Column("user_guid", Guid, nullable=False),
    Column("institution_code", String(128)),
    Column("state", String(16), nullable=False),
    # Why it was opened (policy.selection.Reason), and since when the member is broken.
    Column("reason", String(32), nullable=False),
    Column("broken_since", Moment, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    # If it ended without success: no sweep opens another for the member before this moment.
    Column("reopen_at", Moment),
    Column("next_attempt_at", Moment),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Messages tried so far. It never decreases, so that no step gets two messages. The cadence counts from ``base_step``.
    Column("step", Integer, nullable=False, server_default="0"),
    Column("base_step", Integer, nullable=False, server_default="0"),
    Column("first_notified_at", Moment),
    Column("notified_at", Moment),
    # When the member is to be read at MX. If the state is not `notified`, only after a click or the end of OAuth.
    Column("next_check_at", Moment),
    Column("checks", Integer, nullable=False, server_default="0"),
    # The lease: the worker, until when by the database's clock, and the epoch (fence), which grows with every claim.
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    # How many workers in a row died with it. Such rows are claimed in ever smaller batches.
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    # A short word for how the last attempt or check ended, and when. A check of a due row keeps the word, which tells why the row waits.
    Column("outcome", String(64)),
    Column("outcome_at", Moment),
    # The GUID that MX uses for the member now, if it moved.
    Column("moved_to", Guid),
    # The last click on it; it is checked sooner afterwards.
    Column("clicked_at", Moment),
    # For a notice: whether it is one of a wave, so that it is spread. NULL: not decided yet.
    Column("wave", Boolean),
    # The moment of a click that MX or the bank failed, if none was served since: its user is owed a message.
    Column("owed_at", Moment),
    # When its windows, messages and clicks were deleted by retention. The row stays because of its ``reopen_at``.
    Column("emptied_at", Moment),
    CheckConstraint(f"state IN ({quoted(ReconnectionState)})", name="state"),
    Index("ix_reconnections_opened", "opened_at"),
    partial_index("uq_reconnections_open", "member_guid", where="closed_at IS NULL", unique=True),
    partial_index("ix_reconnections_due", "next_attempt_at", "id", where="state = 'due'"),
    partial_index("ix_reconnections_leased", "lease_expires_at", where="state = 'leased'"),
    partial_index("ix_reconnections_reminder", "next_attempt_at", where="state = 'notified'"),
    # Only rows with a check: most due rows have none.
    partial_index(
        "ix_reconnections_check", "next_check_at", where="state IN ('notified', 'due') AND next_check_at IS NOT NULL"
    ),
    partial_index("ix_reconnections_moved", "moved_to", where="moved_to IS NOT NULL"),
    partial_index("ix_reconnections_owed", "owed_at", where="owed_at IS NOT NULL"),
    partial_index(
        "ix_reconnections_undecided", "id", where="state = 'due' AND reason = 'expires_soon' AND wave IS NULL"
    ),
    partial_index("ix_reconnections_user", "user_guid", where="closed_at IS NULL"),
    # Ended rows, in the order in which they are counted and deleted; emptied rows; and a user's ended rows, for `reconnect forget`.
    partial_index("ix_reconnections_ended", "closed_at", where="closed_at IS NOT NULL AND emptied_at IS NULL"),
    partial_index("ix_reconnections_emptied", "reopen_at", where="emptied_at IS NOT NULL"),
    partial_index("ix_reconnections_user_ended", "user_guid", where="closed_at IS NOT NULL"),
    # Ended rows that prevent another, in order of the moment until which they do.
    partial_index("ix_reconnections_reopen", "reopen_at", where="reopen_at IS NOT NULL"),
    partial_index("ix_reconnections_poison", "lost_leases", where="lost_leases > 0"),
)

windows = Table(
    "windows",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("reconnection_id", Id, ForeignKey("reconnections.id"), nullable=False),
    # The reconnection's epoch when fetch or deliver stored the window. NULL: minted for a click, which changes no epoch.
    Column("epoch", BigInteger),
    # The GUID that MX answered with.
    Column("member_guid", Guid, nullable=False),
    # The encrypted URI; deleted when the window is superseded.
    Column("uri", Text),
    Column("fetched_at", Moment, nullable=False),
    Column("superseded_at", Moment),
    # The click to which it was handed out; no other click gets it.
    Column("click_id", Id, ForeignKey("clicks.id"), unique=True),
    UniqueConstraint("reconnection_id", "epoch"),
    # One live window that fetch or deliver stored. Windows of clicks do not count.
    partial_index(
        "uq_windows_live", "reconnection_id", where="superseded_at IS NULL AND epoch IS NOT NULL", unique=True
    ),
    partial_index("ix_windows_clicked", "reconnection_id", where="superseded_at IS NULL AND epoch IS NULL"),
)

assert set(OPEN) == {"due", "leased", "ready", "notified"}, "uq_reconnections_open says the same with closed_at"  # noqa: S101
