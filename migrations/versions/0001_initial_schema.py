"""The first schema: the application's three tables, and ours beside them."""

import sqlalchemy as sa
from alembic import op

from worker.store.sql.moments import Moment
from worker.store.sql.triggers import creating

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# GUIDs are compared by their bytes: the rules of a language make each look into an index of them dearer.
_GUID = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")
_HASH = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")


def upgrade() -> None:  # noqa: PLR0915 - one schema, a statement each
    op.create_table(
        "devices",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("device_kind", sa.String(length=16), nullable=False),
        sa.Column("device_address", sa.Text(), nullable=False),
        sa.Column("disabled_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("device_kind", "device_address", name=op.f("uq_devices_device_kind_device_address")),
    )
    op.create_index(op.f("ix_devices_user_guid"), "devices", ["user_guid"], unique=False)
    op.create_table(
        "members",
        sa.Column("member_guid", _GUID, nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("institution_code", sa.String(length=128), nullable=True),
        sa.Column("institution_name", sa.Text(), nullable=True),
        sa.Column("connection_status", sa.String(length=64), nullable=True),
        sa.Column("is_oauth", sa.Boolean(), nullable=True),
        sa.Column("error_code", sa.Integer(), nullable=True),
        sa.Column("token_expires_at", Moment(), nullable=True),
        sa.Column("token_revoked_at", Moment(), nullable=True),
        sa.Column("muted_at", Moment(), nullable=True),
        sa.Column("moved_to", _GUID, nullable=True),
        sa.Column("gone_at", Moment(), nullable=True),
        sa.Column("consent_from", Moment(), nullable=True),
        sa.Column("expiry_reckoned", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("member_guid", name=op.f("pk_members")),
    )
    op.create_index(
        "ix_members_expiring",
        "members",
        ["token_expires_at", "member_guid"],
        unique=False,
        postgresql_where=sa.text("token_expires_at IS NOT NULL"),
        sqlite_where=sa.text("token_expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_members_moved",
        "members",
        ["moved_to"],
        unique=False,
        postgresql_where=sa.text("moved_to IS NOT NULL"),
        sqlite_where=sa.text("moved_to IS NOT NULL"),
    )
    op.create_index(
        "ix_members_muted",
        "members",
        ["member_guid"],
        unique=False,
        postgresql_where=sa.text("muted_at IS NOT NULL"),
        sqlite_where=sa.text("muted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_members_suspect",
        "members",
        ["member_guid"],
        unique=False,
        postgresql_where=sa.text(
            "token_revoked_at IS NOT NULL OR error_code IS NOT NULL OR "
            "connection_status <> 'CONNECTED' AND connection_status <> 'connected' AND connection_status <> '6'"
        ),
        sqlite_where=sa.text(
            "token_revoked_at IS NOT NULL OR error_code IS NOT NULL OR "
            "connection_status <> 'CONNECTED' AND connection_status <> 'connected' AND connection_status <> '6'"
        ),
    )
    op.create_index(op.f("ix_members_user_guid"), "members", ["user_guid"], unique=False)
    op.create_table(
        "notifications",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("message_key", sa.String(length=64), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_worker", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lost_leases", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dispatched_at", Moment(), nullable=True),
        sa.Column("sent_at", Moment(), nullable=True),
        sa.Column("outcome", sa.String(length=64), nullable=True),
        sa.Column("outcome_at", Moment(), nullable=True),
        sa.Column("refusal", sa.String(length=64), nullable=True),
        sa.Column("spent", sa.Boolean(), nullable=True),
        sa.Column("device_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'sending', 'sent', 'failed', 'unknown', 'cancelled', 'suppressed')",
            name=op.f("ck_notifications_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint("message_key", name=op.f("uq_notifications_message_key")),
    )
    op.create_index(
        "ix_notifications_pending",
        "notifications",
        ["next_attempt_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_notifications_sending",
        "notifications",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_index("ix_notifications_user", "notifications", ["user_guid", "sent_at"], unique=False)
    op.create_index(
        "ix_notifications_refusal",
        "notifications",
        ["channel", "outcome_at"],
        unique=False,
        postgresql_where=sa.text("refusal IS NOT NULL"),
        sqlite_where=sa.text("refusal IS NOT NULL"),
    )
    op.create_index(
        "ix_notifications_accepted",
        "notifications",
        ["channel", "sent_at"],
        unique=False,
        postgresql_where=sa.text("state = 'sent'"),
        sqlite_where=sa.text("state = 'sent'"),
    )
    op.create_index(
        "uq_notifications_live",
        "notifications",
        ["user_guid"],
        unique=True,
        postgresql_where=sa.text("state IN ('pending', 'sending')"),
        sqlite_where=sa.text("state IN ('pending', 'sending')"),
    )
    op.create_index(
        "ix_notifications_ended",
        "notifications",
        ["outcome_at"],
        unique=False,
        postgresql_where=sa.text("state <> 'pending' AND state <> 'sending'"),
        sqlite_where=sa.text("state <> 'pending' AND state <> 'sending'"),
    )
    op.create_table(
        "pauses",
        sa.Column("scope", sa.String(length=160), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("probe_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_pauses")),
    )
    op.create_table(
        "false_alarms",
        sa.Column("institution_code", sa.String(length=128), nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("institution_code", name=op.f("pk_false_alarms")),
    )
    op.create_table(
        "reconnections",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("member_guid", _GUID, nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("institution_code", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("broken_since", Moment(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("closed_at", Moment(), nullable=True),
        sa.Column("reopen_at", Moment(), nullable=True),
        sa.Column("next_attempt_at", Moment(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("base_step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_notified_at", Moment(), nullable=True),
        sa.Column("notified_at", Moment(), nullable=True),
        sa.Column("next_check_at", Moment(), nullable=True),
        sa.Column("checks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_worker", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lost_leases", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=True),
        sa.Column("outcome_at", Moment(), nullable=True),
        sa.Column("moved_to", _GUID, nullable=True),
        sa.Column("clicked_at", Moment(), nullable=True),
        sa.Column("wave", sa.Boolean(), nullable=True),
        sa.Column("owed_at", Moment(), nullable=True),
        sa.Column("emptied_at", Moment(), nullable=True),
        sa.CheckConstraint(
            "state IN ('due', 'leased', 'ready', 'notified', 'reconnected', 'unsupported', 'gone', 'exhausted', 'cancelled', 'quarantined')",
            name=op.f("ck_reconnections_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconnections")),
    )
    op.create_index(
        "ix_reconnections_check",
        "reconnections",
        ["next_check_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('notified', 'due') AND next_check_at IS NOT NULL"),
        sqlite_where=sa.text("state IN ('notified', 'due') AND next_check_at IS NOT NULL"),
    )
    op.create_index(
        "ix_reconnections_due",
        "reconnections",
        ["next_attempt_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
        sqlite_where=sa.text("state = 'due'"),
    )
    op.create_index(
        "ix_reconnections_moved",
        "reconnections",
        ["moved_to"],
        unique=False,
        postgresql_where=sa.text("moved_to IS NOT NULL"),
        sqlite_where=sa.text("moved_to IS NOT NULL"),
    )
    op.create_index(
        "ix_reconnections_owed",
        "reconnections",
        ["owed_at"],
        unique=False,
        postgresql_where=sa.text("owed_at IS NOT NULL"),
        sqlite_where=sa.text("owed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_reconnections_leased",
        "reconnections",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
        sqlite_where=sa.text("state = 'leased'"),
    )
    op.create_index("ix_reconnections_opened", "reconnections", ["opened_at"], unique=False)
    op.create_index(op.f("ix_reconnections_member_guid"), "reconnections", ["member_guid"], unique=False)
    op.create_index(
        "ix_reconnections_reminder",
        "reconnections",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("state = 'notified'"),
        sqlite_where=sa.text("state = 'notified'"),
    )
    op.create_index(
        "ix_reconnections_reopen",
        "reconnections",
        ["reopen_at"],
        unique=False,
        postgresql_where=sa.text("reopen_at IS NOT NULL"),
        sqlite_where=sa.text("reopen_at IS NOT NULL"),
    )
    op.create_index(
        "ix_reconnections_poison",
        "reconnections",
        ["lost_leases"],
        unique=False,
        postgresql_where=sa.text("lost_leases > 0"),
        sqlite_where=sa.text("lost_leases > 0"),
    )
    op.create_index(
        "ix_reconnections_user",
        "reconnections",
        ["user_guid"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NULL"),
        sqlite_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "uq_reconnections_open",
        "reconnections",
        ["member_guid"],
        unique=True,
        postgresql_where=sa.text("closed_at IS NULL"),
        sqlite_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "ix_reconnections_ended",
        "reconnections",
        ["closed_at"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NOT NULL AND emptied_at IS NULL"),
        sqlite_where=sa.text("closed_at IS NOT NULL AND emptied_at IS NULL"),
    )
    op.create_index(
        "ix_reconnections_emptied",
        "reconnections",
        ["reopen_at"],
        unique=False,
        postgresql_where=sa.text("emptied_at IS NOT NULL"),
        sqlite_where=sa.text("emptied_at IS NOT NULL"),
    )
    op.create_index(
        "ix_reconnections_user_ended",
        "reconnections",
        ["user_guid"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NOT NULL"),
        sqlite_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("slot", Moment(), nullable=True),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("opened", sa.Integer(), server_default="0", nullable=False),
        sa.Column("recovered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("closed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reminded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("exhausted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("woken", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("slot", name=op.f("uq_sweeps_slot")),
    )
    op.create_table(
        "users",
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("locale", sa.String(length=35), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=True),
        sa.Column("channel", sa.String(length=16), nullable=True),
        sa.Column("refused_email", sa.Text(), nullable=True),
        sa.Column("refused_why", sa.String(length=128), nullable=True),
        sa.Column("opted_out_at", Moment(), nullable=True),
        sa.Column("messenger_refused_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("user_guid", name=op.f("pk_users")),
    )
    op.create_table(
        "links",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("notification_id", _ID, nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.Column("clicked_at", Moment(), nullable=True),
        sa.Column("last_clicked_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(["notification_id"], ["notifications.id"], name=op.f("fk_links_notification_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_links_token_hash")),
    )
    op.create_index(
        "ix_links_alone",
        "links",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("notification_id IS NULL"),
        sqlite_where=sa.text("notification_id IS NULL"),
    )
    op.create_index(op.f("ix_links_notification_id"), "links", ["notification_id"], unique=False)
    op.create_index(op.f("ix_links_user_guid"), "links", ["user_guid"], unique=False)
    op.create_table(
        "clicks",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("link_id", _ID, nullable=False),
        sa.Column("reconnection_id", _ID, nullable=False),
        sa.Column("nonce_hash", sa.String(length=64), nullable=False),
        sa.Column("clicked_at", Moment(), nullable=False),
        sa.Column("minted", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=True),
        sa.Column("answered_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(["link_id"], ["links.id"], name=op.f("fk_clicks_link_id")),
        sa.ForeignKeyConstraint(["reconnection_id"], ["reconnections.id"], name=op.f("fk_clicks_reconnection_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clicks")),
        sa.UniqueConstraint(
            "link_id", "reconnection_id", "nonce_hash", name=op.f("uq_clicks_link_id_reconnection_id_nonce_hash")
        ),
    )
    op.create_index("ix_clicks_clicked", "clicks", ["clicked_at"], unique=False)
    op.create_index("ix_clicks_link", "clicks", ["link_id", "clicked_at"], unique=False)
    op.create_index(op.f("ix_clicks_reconnection_id"), "clicks", ["reconnection_id"], unique=False)
    op.create_table(
        "windows",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("reconnection_id", _ID, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("member_guid", _GUID, nullable=False),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("fetched_at", Moment(), nullable=False),
        sa.Column("superseded_at", Moment(), nullable=True),
        sa.Column("click_id", _ID, nullable=True),
        sa.ForeignKeyConstraint(["click_id"], ["clicks.id"], name=op.f("fk_windows_click_id")),
        sa.ForeignKeyConstraint(["reconnection_id"], ["reconnections.id"], name=op.f("fk_windows_reconnection_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_windows")),
        sa.UniqueConstraint("click_id", name=op.f("uq_windows_click_id")),
        sa.UniqueConstraint("reconnection_id", "epoch", name=op.f("uq_windows_reconnection_id_epoch")),
    )
    op.create_index(
        "ix_windows_clicked",
        "windows",
        ["reconnection_id"],
        unique=False,
        postgresql_where=sa.text("superseded_at IS NULL AND epoch IS NULL"),
        sqlite_where=sa.text("superseded_at IS NULL AND epoch IS NULL"),
    )
    op.create_index(
        "uq_windows_live",
        "windows",
        ["reconnection_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL AND epoch IS NOT NULL"),
        sqlite_where=sa.text("superseded_at IS NULL AND epoch IS NOT NULL"),
    )
    op.create_table(
        "notification_reconnections",
        sa.Column("notification_id", _ID, nullable=False),
        sa.Column("reconnection_id", _ID, nullable=False),
        sa.Column("window_id", _ID, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"], ["notifications.id"], name=op.f("fk_notification_reconnections_notification_id")
        ),
        sa.ForeignKeyConstraint(
            ["reconnection_id"], ["reconnections.id"], name=op.f("fk_notification_reconnections_reconnection_id")
        ),
        sa.ForeignKeyConstraint(["window_id"], ["windows.id"], name=op.f("fk_notification_reconnections_window_id")),
        sa.PrimaryKeyConstraint("notification_id", "reconnection_id", name=op.f("pk_notification_reconnections")),
        sa.UniqueConstraint(
            "reconnection_id",
            "step",
            "channel",
            name=op.f("uq_notification_reconnections_reconnection_id_step_channel"),
        ),
    )
    # Hints: what MX's webhooks said.
    op.create_table(
        "hints",
        sa.Column("key", _HASH, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=True),
        sa.Column("connection_status", sa.String(length=64), nullable=True),
        sa.Column("member_guid", _GUID, nullable=True),
        sa.Column("user_guid", _GUID, nullable=True),
        sa.Column("received_at", Moment(), nullable=False),
        sa.Column("last_received_at", Moment(), nullable=False),
        sa.Column("times", sa.Integer(), server_default="1", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_worker", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lost_leases", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=True),
        sa.Column("read_at", Moment(), nullable=True),
        sa.CheckConstraint("state IN ('due', 'leased', 'done', 'failed', 'unused')", name=op.f("ck_hints_state")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_hints")),
    )
    for name, columns, where in (
        ("due", ["next_attempt_at"], "state = 'due'"),
        ("leased", ["lease_expires_at"], "state = 'leased'"),
        ("member", ["member_guid"], "member_guid IS NOT NULL"),
        ("shown", ["state", "outcome"], "state IN ('failed', 'unused')"),
    ):
        op.create_index(
            f"ix_hints_{name}",
            "hints",
            columns,
            unique=False,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )
    op.create_index("ix_hints_received", "hints", ["last_received_at"], unique=False)

    # Events to the application.
    op.create_table(
        "events",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("event_id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("subject", _GUID, nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="waiting", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", Moment(), nullable=True),
        sa.Column("tried_at", Moment(), nullable=True),
        sa.Column("accepted_at", Moment(), nullable=True),
        sa.Column("outcome", sa.String(length=64), nullable=True),
        sa.Column("lease_worker", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'accepted', 'failed')", name=op.f("ck_events_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    for name, columns, where in (
        ("waiting", ["next_attempt_at", "id"], "state = 'waiting'"),
        ("accepted", ["accepted_at"], "accepted_at IS NOT NULL"),
        ("failed", ["id"], "state = 'failed'"),
        ("subject", ["subject", "id"], None),
        ("created", ["created_at"], None),
    ):
        op.create_index(
            f"ix_events_{name}",
            "events",
            columns,
            unique=False,
            postgresql_where=None if where is None else sa.text(where),
            sqlite_where=None if where is None else sa.text(where),
        )
    op.create_index(
        op.f("ix_notification_reconnections_window_id"), "notification_reconnections", ["window_id"], unique=False
    )
    # What was, by the day
    op.create_table(
        "daily_totals",
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what", "day", "state", "outcome", "detail", name=op.f("pk_daily_totals")),
    )
    _create_sync_tables()
    _create_what_changed()


def _create_sync_tables() -> None:
    op.create_table(
        "syncs",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("touched_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("unfinished", sa.Boolean(), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("lease_worker", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("taken", sa.Integer(), server_default="0", nullable=False),
        sa.Column("per_page", sa.Integer(), nullable=True),
        sa.Column("first_total", sa.Integer(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("has_all_users", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("found", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_syncs")),
        sa.UniqueConstraint("unfinished", name=op.f("uq_syncs_unfinished")),
    )
    op.create_table(
        "sync_users",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_users")),
        sa.UniqueConstraint("user_guid", name=op.f("uq_sync_users_user_guid")),
    )
    op.create_table(
        "sync_missing",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("member_guid", _GUID, nullable=False),
        sa.Column("user_guid", _GUID, nullable=False),
        sa.Column("is_elsewhere", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_missing")),
        sa.UniqueConstraint("member_guid", name=op.f("uq_sync_missing_member_guid")),
    )

    # How long consents last.
    op.create_table(
        "institutions",
        sa.Column("institution_code", sa.String(length=128), nullable=False),
        sa.Column("consent_days", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("institution_code", name=op.f("pk_institutions")),
    )
    op.create_table(
        "reckonings",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("known", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("after_guid", _GUID, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reckonings")),
    )
    op.create_index(
        "ix_members_emptied",
        "members",
        ["expiry_reckoned"],
        unique=False,
        postgresql_where=sa.text("expiry_reckoned IS NOT NULL AND token_expires_at IS NULL"),
        # Blank text is no date either.
        sqlite_where=sa.text(
            "expiry_reckoned IS NOT NULL"
            " AND (token_expires_at IS NULL OR token_expires_at < '0' OR token_expires_at >= ':')"
        ),
    )
    for name, table, column, where in (
        ("ix_members_reckoned", "members", "expiry_reckoned", "expiry_reckoned IS NOT NULL"),
        (
            "ix_reconnections_undecided",
            "reconnections",
            "id",
            "state = 'due' AND reason = 'expires_soon' AND wave IS NULL",
        ),
    ):
        op.create_index(
            name, table, [column], unique=False, postgresql_where=sa.text(where), sqlite_where=sa.text(where)
        )


def _create_what_changed() -> None:
    op.create_table(
        "changed_members",
        sa.Column("member_guid", _GUID, nullable=False),
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.PrimaryKeyConstraint("member_guid", "id", name=op.f("pk_changed_members")),
    )
    op.create_table(
        "sweep_marks",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sweep_marks")),
    )
    op.create_table(
        "reconciliations",
        sa.Column("id", _ID, sa.Identity(always=False), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("after_guid", _GUID, server_default="", nullable=False),
        sa.Column("after_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("opened", sa.Integer(), server_default="0", nullable=False),
        sa.Column("closed", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
    )
    connection = op.get_bind()
    dialect = connection.dialect.name
    schema = None if dialect == "sqlite" else connection.scalar(sa.text("SELECT current_schema()"))
    for statement in creating(dialect, schema):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":  # where they go with their table
        for event in ("insert", "update", "delete", "truncate"):
            op.execute(f"DROP FUNCTION reconnect_members_{event}() CASCADE")
    for table in (
        "reckonings",
        "institutions",
        "reconciliations",
        "sweep_marks",
        "changed_members",
        "hints",
        "events",
        "daily_totals",
        "sync_missing",
        "sync_users",
        "syncs",
        "notification_reconnections",
        "windows",
        "clicks",
        "links",
        "notifications",
        "reconnections",
        "false_alarms",
        "pauses",
        "sweeps",
        "members",
        "devices",
        "users",
    ):
        op.drop_table(table)
