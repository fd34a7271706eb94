"""The tables, and the partial indexes that make a sweep cost what is due and not what exists.

``users``, ``devices`` and ``members`` are the application's to write as well: only the GUIDs are required, everything of ours in
them has a default, no foreign key of ours can refuse a write of theirs, and their columns are read as ``application.py`` says. The other tables are ours alone.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

from worker.policy.states import LIVE, OPEN, NotificationState, ReconnectionState
from worker.store.sql.application import (
    ApplicationDeviceKind,
    ApplicationInteger,
    ApplicationMoment,
    ApplicationStatus,
    ApplicationText,
    ApplicationTruth,
)
from worker.store.sql.moments import Moment

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite counts its rowid only for INTEGER PRIMARY KEY.
_Id = BigInteger().with_variant(Integer(), "sqlite")
# GUIDs are ASCII: compared by their bytes, not by the rules of a language, an index of them is built in half the time.
_Guid = String(128).with_variant(String(128, collation="C"), "postgresql")
# Hexadecimal, compared by bytes for the same reason.
_Hash = String(64).with_variant(String(64, collation="C"), "postgresql")


def _quoted(values: object) -> str:
    return ", ".join(f"'{value}'" for value in values)  # type: ignore[attr-defined]


def _partial(name: str, *columns: object, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))  # type: ignore[arg-type]


users = Table(
    "users",
    metadata,
    Column("user_guid", _Guid, primary_key=True),
    Column("email", ApplicationText()),
    Column("locale", ApplicationText(35)),
    Column("timezone", ApplicationText(64)),
    Column("channel", ApplicationText(16)),
    # Ours: the address that a mail server refused for good, and the wish not to be written to.
    Column("refused_email", ApplicationText()),
    # What that rests on: a code and words of ours, such as "bounce: 5.1.1, user_unknown".
    Column("refused_why", ApplicationText(128)),
    Column("opted_out_at", ApplicationMoment),
    # When the company's messenger said that it cannot reach the user.
    Column("messenger_refused_at", ApplicationMoment),
)

devices = Table(
    "devices",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("user_guid", _Guid, nullable=False, index=True),
    Column("device_kind", ApplicationDeviceKind(16), nullable=False),
    Column("device_address", ApplicationText(), nullable=False),
    # Ours: set when the push service says that nobody is there any more.
    Column("disabled_at", ApplicationMoment),
    UniqueConstraint("device_kind", "device_address"),
)

members = Table(
    "members",
    metadata,
    Column("member_guid", _Guid, primary_key=True),
    Column("user_guid", _Guid, nullable=False, index=True),
    Column("institution_code", ApplicationText(128)),
    Column("institution_name", ApplicationText()),
    Column("connection_status", ApplicationStatus(64)),
    Column("is_oauth", ApplicationTruth),
    Column("error_code", ApplicationInteger),
    Column("token_expires_at", ApplicationMoment),
    Column("token_revoked_at", ApplicationMoment),
    # Ours: its user asked for no messages about this member.
    Column("muted_at", ApplicationMoment),
    # Ours: the GUID under which MX carries it on, and when MX said that it does not know it any more (store/mx_members.py).
    Column("moved_to", _Guid),
    Column("gone_at", ApplicationMoment),
    # Ours (store/consents.py): when its consent began as far as we know, and the date that was reckoned from it. While token_expires_at
    # is that date it is ours; any other date there is the application's.
    Column("consent_from", ApplicationMoment),
    Column("expiry_reckoned", ApplicationMoment),
    # What a sweep walks: members that may be broken by status, revocation or error, in order of their GUID,
    # and those whose token has a date, in order of that date.
    _partial(
        "ix_members_suspect",
        "member_guid",
        where="token_revoked_at IS NOT NULL OR error_code IS NOT NULL OR "
        "connection_status <> 'CONNECTED' AND connection_status <> 'connected' AND connection_status <> '6'",
    ),
    _partial("ix_members_muted", "member_guid", where="muted_at IS NOT NULL"),
    _partial("ix_members_moved", "moved_to", where="moved_to IS NOT NULL"),
    _partial("ix_members_expiring", "token_expires_at", "member_guid", where="token_expires_at IS NOT NULL"),
    _partial("ix_members_reckoned", "expiry_reckoned", where="expiry_reckoned IS NOT NULL"),
    _partial("ix_members_emptied", "member_guid", where="expiry_reckoned IS NOT NULL AND token_expires_at IS NULL"),
)

reconnections = Table(
    "reconnections",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("member_guid", _Guid, nullable=False, index=True),
    Column("user_guid", _Guid, nullable=False),
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
    Column("next_check_at", Moment),
    Column("checks", Integer, nullable=False, server_default="0"),
    # The lease: who holds the row, until when by the database's clock, and the fence that grows with every claim.
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    # How often in a row its worker died: such rows are claimed in ever smaller batches.
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    # A short word for how the last attempt ended, and when.
    Column("outcome", String(64)),
    Column("outcome_at", Moment),
    # The GUID under which MX carries the member on, where it moved.
    Column("moved_to", _Guid),
    # The last click on it, after which it is checked sooner.
    Column("clicked_at", Moment),
    # Of a notice: whether so many of its institution expire on its day that their notices are spread. NULL: not decided yet.
    Column("wave", Boolean),
    # A click that MX or a bank failed: from this moment on its user is told as soon as MX serves again.
    Column("owed_at", Moment),
    # Its windows, messages and clicks were deleted after RETENTION_DAYS. The row stays, because ``reopen_at`` still decides.
    Column("emptied_at", Moment),
    CheckConstraint(f"state IN ({_quoted(ReconnectionState)})", name="state"),
    Index("ix_reconnections_opened", "opened_at"),
    _partial("uq_reconnections_open", "member_guid", where="closed_at IS NULL", unique=True),
    _partial("ix_reconnections_due", "next_attempt_at", "id", where="state = 'due'"),
    _partial("ix_reconnections_leased", "lease_expires_at", where="state = 'leased'"),
    _partial("ix_reconnections_reminder", "next_attempt_at", where="state = 'notified'"),
    _partial("ix_reconnections_check", "next_check_at", where="state = 'notified'"),
    _partial("ix_reconnections_moved", "moved_to", where="moved_to IS NOT NULL"),
    _partial("ix_reconnections_owed", "owed_at", where="owed_at IS NOT NULL"),
    _partial("ix_reconnections_undecided", "id", where="state = 'due' AND reason = 'expires_soon' AND wave IS NULL"),
    _partial("ix_reconnections_user", "user_guid", where="closed_at IS NULL"),
    # What ended, in the order in which it is counted and deleted; what stays of it; and what a user had, for `reconnect forget`.
    _partial("ix_reconnections_ended", "closed_at", where="closed_at IS NOT NULL AND emptied_at IS NULL"),
    _partial("ix_reconnections_emptied", "reopen_at", where="emptied_at IS NOT NULL"),
    _partial("ix_reconnections_user_ended", "user_guid", where="closed_at IS NOT NULL"),
    # Whose rest ends, in order of that moment.
    _partial("ix_reconnections_reopen", "reopen_at", where="reopen_at IS NOT NULL"),
    _partial("ix_reconnections_poison", "lost_leases", where="lost_leases > 0"),
)

windows = Table(
    "windows",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("reconnection_id", _Id, ForeignKey("reconnections.id"), nullable=False),
    # Of the reconnection, when fetch or deliver stored it. NULL: minted for a click, which changes no epoch.
    Column("epoch", BigInteger),
    # The GUID that MX answered with.
    Column("member_guid", _Guid, nullable=False),
    # The URI under the first of URI_KEYS; forgotten when the window is superseded.
    Column("uri", Text),
    Column("fetched_at", Moment, nullable=False),
    Column("superseded_at", Moment),
    # The click that it was handed out to; no other click gets it.
    Column("click_id", _Id, ForeignKey("clicks.id"), unique=True),
    UniqueConstraint("reconnection_id", "epoch"),
    # What fetch and deliver stored; beside it there may be those of clicks.
    _partial("uq_windows_live", "reconnection_id", where="superseded_at IS NULL AND epoch IS NOT NULL", unique=True),
    _partial("ix_windows_clicked", "reconnection_id", where="superseded_at IS NULL AND epoch IS NULL"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("user_guid", _Guid, nullable=False),
    Column("channel", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    # Identifies the message towards mail servers and push services, the same for every try.
    Column("message_key", String(64), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("next_attempt_at", Moment),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    Column("dispatched_at", Moment),
    Column("sent_at", Moment),
    Column("outcome", String(64)),
    Column("outcome_at", Moment),
    # The kind of the refusal, if it may be one of a streak (policy/streaks.py), and whether it counted: as an attempt, or, if it ended
    # the message, as a step of the cadence.
    Column("refusal", String(64)),
    Column("spent", Boolean),
    # The device that refused it for good: the next try is another one's.
    Column("device_id", BigInteger),
    CheckConstraint(f"state IN ({_quoted(NotificationState)})", name="state"),
    # One user, one message at a time: what else breaks meanwhile waits until it is sent.
    _partial("uq_notifications_live", "user_guid", where=f"state IN ({_quoted(LIVE)})", unique=True),
    _partial("ix_notifications_pending", "next_attempt_at", "id", where="state = 'pending'"),
    _partial("ix_notifications_sending", "lease_expires_at", where="state = 'sending'"),
    Index("ix_notifications_user", "user_guid", "sent_at"),
    # What was refused and what was accepted of late on a channel.
    _partial("ix_notifications_refusal", "channel", "outcome_at", where="refusal IS NOT NULL"),
    _partial("ix_notifications_accepted", "channel", "sent_at", where="state = 'sent'"),
    # What ended, in the order in which it is counted and deleted.
    _partial("ix_notifications_ended", "outcome_at", where="state <> 'pending' AND state <> 'sending'"),
)

notification_reconnections = Table(
    "notification_reconnections",
    metadata,
    Column("notification_id", _Id, ForeignKey("notifications.id"), primary_key=True),
    Column("reconnection_id", _Id, ForeignKey("reconnections.id"), primary_key=True),
    Column("window_id", _Id, ForeignKey("windows.id"), nullable=False, index=True),
    Column("step", Integer, nullable=False),
    Column("channel", String(16), nullable=False),
    # The key against doubles: a reconnection speaks once a step on a channel, whatever runs twice.
    UniqueConstraint("reconnection_id", "step", "channel"),
)

links = Table(
    "links",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    # SHA-256 of the token, hexadecimal. The token itself stands in the message alone.
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("user_guid", _Guid, nullable=False, index=True),
    # The message that carries it. NULL: made by `reconnect link` or for the API, and about all that its user has to reconnect.
    Column("notification_id", _Id, ForeignKey("notifications.id"), index=True),
    Column("created_at", Moment, nullable=False),
    # Until then it leads to whatever of its banks is broken, also to a later break of the same member. After that it is as unknown.
    Column("expires_at", Moment, nullable=False),
    # The first and the last press of its button.
    Column("clicked_at", Moment),
    Column("last_clicked_at", Moment),
    # Those that go by themselves; the others go with their message.
    _partial("ix_links_alone", "expires_at", where="notification_id IS NULL"),
)

clicks = Table(
    "clicks",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("link_id", _Id, ForeignKey("links.id"), nullable=False),
    Column("reconnection_id", _Id, ForeignKey("reconnections.id"), nullable=False, index=True),
    # SHA-256 of the nonce in the form, hexadecimal: two presses from one load of the page are one click. "retired" and the row's id
    # once a later press from the same load is a click of its own.
    Column("nonce_hash", String(64), nullable=False),
    Column("clicked_at", Moment, nullable=False),
    # Whether MX was asked for a window, which is what is limited.
    Column("minted", Boolean, nullable=False, server_default="0"),
    # Its answer: a short word, and when. NULL: under way, or its process died.
    Column("outcome", String(64)),
    Column("answered_at", Moment),
    UniqueConstraint("link_id", "reconnection_id", "nonce_hash"),
    Index("ix_clicks_link", "link_id", "clicked_at"),
    Index("ix_clicks_clicked", "clicked_at"),
)

# What MX's webhooks said, until two days after the member was read for it.
hints = Table(
    "hints",
    metadata,
    # SHA-256 of what it says, hexadecimal: the same hint twice is one row, and two to count.
    Column("key", _Hash, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("action", String(64)),
    Column("connection_status", String(64)),
    Column("member_guid", _Guid),
    Column("user_guid", _Guid),
    # When it came first and last, and how often.
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
    # A short word for what came of it, and when its member was read last because of it.
    Column("outcome", String(64)),
    Column("read_at", Moment),
    CheckConstraint("state IN ('due', 'leased', 'done', 'failed', 'unused')", name="state"),
    _partial("ix_hints_due", "next_attempt_at", where="state = 'due'"),
    _partial("ix_hints_leased", "lease_expires_at", where="state = 'leased'"),
    _partial("ix_hints_member", "member_guid", where="member_guid IS NOT NULL"),
    _partial("ix_hints_shown", "state", "outcome", where="state IN ('failed', 'unused')"),
    Index("ix_hints_received", "last_received_at"),
)

pauses = Table(
    "pauses",
    metadata,
    # `everything`, `institution:CODE`, `channel:KIND` by hand; `mx`, `delivery:KIND` by the breaker; `outage:CODE`.
    Column("scope", String(160), primary_key=True),
    Column("reason", String(200), nullable=False),
    Column("since", Moment, nullable=False),
    # When the breaker lets one probe through, or an outage is looked at again; NULL: until `reconnect resume`.
    Column("probe_at", Moment),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    # Beat's minute: two beats fill it once. NULL for sweeps by hand or cron.
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

# Events to the application: written in the transaction of what they tell, and posted in order (store/events/).
events = Table(
    "events",
    metadata,
    # The order in which a receiver gets those of one subject.
    Column("id", _Id, Identity(), primary_key=True),
    # The same at every attempt, so that a receiver can drop doubles.
    Column("event_id", String(40), nullable=False),
    Column("type", String(32), nullable=False),
    # Whose events go one after the other: a user's GUID, or `outage:CODE`.
    Column("subject", _Guid, nullable=False),
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
    _partial("ix_events_waiting", "next_attempt_at", "id", where="state = 'waiting'"),
    _partial("ix_events_accepted", "accepted_at", where="accepted_at IS NOT NULL"),
    _partial("ix_events_failed", "id", where="state = 'failed'"),
    Index("ix_events_subject", "subject", "id"),
    Index("ix_events_created", "created_at"),
)

# What was, by the day
daily_totals = Table(
    "daily_totals",
    metadata,
    # `day`: the day is counted. Else what is counted: `opened`, `ended`, `returned`, `notifications`, `clicks` (store/totals.py).
    Column("what", String(16), primary_key=True),
    # In UTC.
    Column("day", Date, primary_key=True),
    Column("state", String(16), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    # The reason of a reconnection, the channel of a notification.
    Column("detail", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
)

# Syncs: listing all users and members at MX (stages/sync.py).
syncs = Table(
    "syncs",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("started_at", Moment, nullable=False),
    # The last progress; one that nobody went on with for a day is given up.
    Column("touched_at", Moment, nullable=False),
    Column("finished_at", Moment),
    # True while it is unfinished, NULL after that: there is one unfinished sync at most.
    Column("unfinished", Boolean, unique=True),
    # `listing`, then `checking` what MX listed no more, then `finished` or `failed`; and why, in a sentence.
    Column("phase", String(16), nullable=False),
    Column("outcome", Text),
    Column("lease_worker", String(128)),
    Column("lease_expires_at", Moment),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    # The checkpoint in the list of users: entries that were taken, the page size in force, and how many MX said that there are: at
    # first and last. NULL: not known yet.
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("per_page", Integer),
    Column("first_total", Integer),
    Column("total", Integer),
    # Whether all of its pages were taken.
    Column("has_all_users", Boolean, nullable=False, server_default="0"),
    # What it found so far: JSON, a number for each word of store/syncs/sync.py.
    Column("found", Text, nullable=False, server_default="{}"),
)

# The users that the unfinished sync was told of; emptied when it ends. No index of ``done_at``: a sync goes through them by their id,
# and an update touches no index.
sync_users = Table(
    "sync_users",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("user_guid", _Guid, nullable=False, unique=True),
    # How often its members could not be read.
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When its members were read, or given up. NULL: they are to be read.
    Column("done_at", Moment),
)

# Members that it did not find in MX's lists, to be read one by one.
sync_missing = Table(
    "sync_missing",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    Column("member_guid", _Guid, nullable=False, unique=True),
    Column("user_guid", _Guid, nullable=False),
    # MX lists it for another user than our row says, so it is not missing.
    Column("is_elsewhere", Boolean, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
)

# How long consents last (store/consents.py)

institutions = Table(
    "institutions",
    metadata,
    # The application's, as in `members`.
    Column("institution_code", String(128), primary_key=True),
    # For how many days a customer's consent lasts; what is no number from 1 to 3,650 counts as unknown.
    Column("consent_days", ApplicationInteger),
)

reckonings = Table(
    "reckonings",
    metadata,
    # One row: how far the walk over all members has come, which reckons what is new or has changed. "" between two walks.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("after_guid", _Guid, nullable=False, server_default=""),
)

# What changed (store/changes.py, store/sql/triggers.py)

changed_members = Table(
    "changed_members",
    metadata,
    # A member that a sweep has to visit; EVERYTHING stands for all of them.
    Column("member_guid", _Guid, primary_key=True),
    # On PostgreSQL a member may be listed more than once, and what a sweep took is told from what was listed since. On SQLite it is 0.
    Column("id", _Id, Identity(), primary_key=True),
)

sweep_marks = Table(
    "sweep_marks",
    metadata,
    # `due`: what falls due by itself is listed up to this moment. `notices`: and expiries of which a notice tells ahead.
    Column("name", String(16), primary_key=True),
    Column("until", Moment, nullable=False),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("id", _Id, Identity(), primary_key=True),
    # Why everything is gone through: `first`, `settings`, `daily`, `everything` (the table of members was emptied).
    Column("reason", String(16), nullable=False),
    # The settings that the rule depends on, hashed.
    Column("rule", String(64), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    # How far it is: `members` in order of their GUID, then `reconnections` in order of their id; NULL when it ended.
    Column("phase", String(16)),
    Column("after_guid", _Guid, nullable=False, server_default=""),
    Column("after_id", BigInteger, nullable=False, server_default="0"),
    # What it found that no sweep had found before it.
    Column("opened", Integer, nullable=False, server_default="0"),
    Column("closed", Integer, nullable=False, server_default="0"),
)

assert set(OPEN) == {"due", "leased", "ready", "notified"}, "uq_reconnections_open says the same with closed_at"  # noqa: S101


def state_literal(state: str) -> ColumnElement[str]:
    """A state as part of a statement's text, not a parameter: only so does the planner see that a partial index fits."""
    return literal_column(f"'{state}'", String())


def guid_columns(table: Table) -> list[Column[Any]]:
    """The columns of a table that hold GUIDs of users or members."""
    return [column for column in table.c if column.type is _Guid or column.name.endswith("_guid")]
