"""Messages to users, their items, links, and clicks on links."""

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
    UniqueConstraint,
)

from worker.policy.states import LIVE, NotificationState
from worker.store.sql.moments import Moment
from worker.store.sql.tables.columns import Guid, Id, metadata, partial_index, quoted

notifications = Table(
    "notifications",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("user_guid", Guid, nullable=False),
    Column("channel", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    # Identifies the message to mail servers and push services; the same for every try.
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
    # The device that refused it for good. The next try goes to another device.
    Column("device_id", BigInteger),
    CheckConstraint(f"state IN ({quoted(NotificationState)})", name="state"),
    # One message at a time for a user: members that break meanwhile wait until it is sent.
    partial_index("uq_notifications_live", "user_guid", where=f"state IN ({quoted(LIVE)})", unique=True),
    partial_index("ix_notifications_pending", "next_attempt_at", "id", where="state = 'pending'"),
    partial_index("ix_notifications_sending", "lease_expires_at", where="state = 'sending'"),
    Index("ix_notifications_user", "user_guid", "sent_at"),
    # Recent refusals and acceptances on a channel.
    partial_index("ix_notifications_refusal", "channel", "outcome_at", where="refusal IS NOT NULL"),
    partial_index("ix_notifications_accepted", "channel", "sent_at", where="state = 'sent'"),
    # Ended notifications, in the order in which they are counted and deleted.
    partial_index("ix_notifications_ended", "outcome_at", where="state <> 'pending' AND state <> 'sending'"),
)

notification_reconnections = Table(
    "notification_reconnections",
    metadata,
    Column("notification_id", Id, ForeignKey("notifications.id"), primary_key=True),
    Column("reconnection_id", Id, ForeignKey("reconnections.id"), primary_key=True),
    Column("window_id", Id, ForeignKey("windows.id"), nullable=False, index=True),
    Column("step", Integer, nullable=False),
    Column("channel", String(16), nullable=False),
    # Prevents doubles: a reconnection has one message for a step on a channel, even if a task runs twice.
    UniqueConstraint("reconnection_id", "step", "channel"),
)

links = Table(
    "links",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    # SHA-256 of the token, hexadecimal. The token itself is not stored.
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("user_guid", Guid, nullable=False, index=True),
    # The message that carries it. NULL: made by `reconnect link` or for the API, and about all that its user has to reconnect.
    Column("notification_id", Id, ForeignKey("notifications.id"), index=True),
    Column("created_at", Moment, nullable=False),
    # Until then the link leads to those of its banks that are broken, also after a later break. Afterwards it is treated as unknown.
    Column("expires_at", Moment, nullable=False),
    # The first and the last press of its button.
    Column("clicked_at", Moment),
    Column("last_clicked_at", Moment),
    # Links without a message, which are deleted by themselves; the others are deleted with their message.
    partial_index("ix_links_alone", "expires_at", where="notification_id IS NULL"),
)

clicks = Table(
    "clicks",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("link_id", Id, ForeignKey("links.id"), nullable=False),
    Column("reconnection_id", Id, ForeignKey("reconnections.id"), nullable=False, index=True),
    # SHA-256 of the nonce in the form, hexadecimal: two presses from one load of the page are one click. It becomes "retired" and the row's
    # id when a later press from the same load is a click of its own.
    Column("nonce_hash", String(64), nullable=False),
    Column("clicked_at", Moment, nullable=False),
    # Whether MX was asked for a window; such clicks are limited.
    Column("minted", Boolean, nullable=False, server_default="0"),
    # How the click ended, in a short word, and when. NULL: under way, or its process died.
    Column("outcome", String(64)),
    Column("answered_at", Moment),
    UniqueConstraint("link_id", "reconnection_id", "nonce_hash"),
    Index("ix_clicks_link", "link_id", "clicked_at"),
    Index("ix_clicks_clicked", "clicked_at"),
)
