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
    # Ended without success: no sweep opens another for the member before this.
    Column("reopen_at", Moment),
    Column("next_attempt_at", Moment),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Messages tried so far; it never goes back, so that no step is ever spoken twice. The cadence counts from ``base_step``.
    Column("step", Integer, nullable=False, server_default="0"),
    Column("base_step", Integer, nullable=False, server_default="0"),
    Column("first_notified_at", Moment),
    Column("notified_at", Moment),
    # When the member is read at MX. Of what is not notified: only after a click or the end of OAuth.
    Column("next_check_at", Moment),
    Column("checks", Integer, nullable=False, server_default="0"),
    # The lease: who holds the row, until when by the database's clock, and the fence that grows with every claim.
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    # How often in a row its worker died: such rows are claimed in ever smaller batches.
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    # A short word for how the last attempt or check ended, and when. A check of a due one leaves the word: it says why the row waits.
    Column("outcome", String(64)),
    Column("outcome_at", Moment),
    # The GUID under which MX carries the member on, where it moved.
    Column("moved_to", Guid),
    # The last click on it, after which it is checked sooner.
    Column("clicked_at", Moment),
    # Of a notice: whether so many of its institution expire on its day that their notices are spread. NULL: not decided yet.
    Column("wave", Boolean),
    # A click that MX or a bank failed: from this moment on its user is told as soon as MX serves again.
    Column("owed_at", Moment),
    # Its windows, messages and clicks were deleted after RETENTION_DAYS. The row stays, because ``reopen_at`` still decides.
    Column("emptied_at", Moment),
    CheckConstraint(f"state IN ({quoted(ReconnectionState)})", name="state"),
    Index("ix_reconnections_opened", "opened_at"),
    partial_index("uq_reconnections_open", "member_guid", where="closed_at IS NULL", unique=True),
    partial_index("ix_reconnections_due", "next_attempt_at", "id", where="state = 'due'"),
    partial_index("ix_reconnections_leased", "lease_expires_at", where="state = 'leased'"),
    partial_index("ix_reconnections_reminder", "next_attempt_at", where="state = 'notified'"),
    # Most of what is due is not to be checked.
    partial_index(
        "ix_reconnections_check", "next_check_at", where="state IN ('notified', 'due') AND next_check_at IS NOT NULL"
    ),
    partial_index("ix_reconnections_moved", "moved_to", where="moved_to IS NOT NULL"),
    partial_index("ix_reconnections_owed", "owed_at", where="owed_at IS NOT NULL"),
    partial_index(
        "ix_reconnections_undecided", "id", where="state = 'due' AND reason = 'expires_soon' AND wave IS NULL"
    ),
    partial_index("ix_reconnections_user", "user_guid", where="closed_at IS NULL"),
    # What ended, in the order in which it is counted and deleted; what stays of it; and what a user had, for `reconnect forget`.
    partial_index("ix_reconnections_ended", "closed_at", where="closed_at IS NOT NULL AND emptied_at IS NULL"),
    partial_index("ix_reconnections_emptied", "reopen_at", where="emptied_at IS NOT NULL"),
    partial_index("ix_reconnections_user_ended", "user_guid", where="closed_at IS NOT NULL"),
    # Whose rest ends, in order of that moment.
    partial_index("ix_reconnections_reopen", "reopen_at", where="reopen_at IS NOT NULL"),
    partial_index("ix_reconnections_poison", "lost_leases", where="lost_leases > 0"),
)

windows = Table(
    "windows",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("reconnection_id", Id, ForeignKey("reconnections.id"), nullable=False),
    # Of the reconnection, when fetch or deliver stored it. NULL: minted for a click, which changes no epoch.
    Column("epoch", BigInteger),
    # The GUID that MX answered with.
    Column("member_guid", Guid, nullable=False),
    # The URI under the first of URI_KEYS; forgotten when the window is superseded.
    Column("uri", Text),
    Column("fetched_at", Moment, nullable=False),
    Column("superseded_at", Moment),
    # The click that it was handed out to; no other click gets it.
    Column("click_id", Id, ForeignKey("clicks.id"), unique=True),
    UniqueConstraint("reconnection_id", "epoch"),
    # What fetch and deliver stored; beside it there may be those of clicks.
    partial_index(
        "uq_windows_live", "reconnection_id", where="superseded_at IS NULL AND epoch IS NOT NULL", unique=True
    ),
    partial_index("ix_windows_clicked", "reconnection_id", where="superseded_at IS NULL AND epoch IS NULL"),
)

assert set(OPEN) == {"due", "leased", "ready", "notified"}, "uq_reconnections_open says the same with closed_at"  # noqa: S101
