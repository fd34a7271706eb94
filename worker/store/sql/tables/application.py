"""The application's tables, which it writes too: who is told, and the members at MX.

Only the GUIDs are required. Our columns have defaults, and no foreign key of ours can refuse an application's write. The application's
columns are read by ``worker/store/sql/application.py``.
"""

from sqlalchemy import Column, Identity, String, Table, UniqueConstraint

from worker.store.sql.application import (
    ApplicationDeviceKind,
    ApplicationInteger,
    ApplicationMoment,
    ApplicationStatus,
    ApplicationText,
    ApplicationTruth,
)
from worker.store.sql.tables.columns import Guid, Id, metadata, partial_index

#: The condition "the token has no date", in the words that both an index and its statement use. In SQLite blank text is no date either, so
#: there the condition covers all texts that do not begin with a digit.
NO_DATE = "token_expires_at IS NULL"
NO_DATE_IN_SQLITE = "(token_expires_at IS NULL OR token_expires_at < '0' OR token_expires_at >= ':')"

users = Table(
    "users",
    metadata,
    Column("user_guid", Guid, primary_key=True),
    Column("email", ApplicationText()),
    Column("locale", ApplicationText(35)),
    Column("timezone", ApplicationText(64)),
    Column("channel", ApplicationText(16)),
    # Ours: the address that a mail server refused for good.
    Column("refused_email", ApplicationText()),
    # Why it counts as refused: a code and words of ours, such as "bounce: 5.1.1, user_unknown".
    Column("refused_why", ApplicationText(128)),
    Column("opted_out_at", ApplicationMoment),
    # When the company's messenger said that it cannot reach the user.
    Column("messenger_refused_at", ApplicationMoment),
)

devices = Table(
    "devices",
    metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("user_guid", Guid, nullable=False, index=True),
    Column("device_kind", ApplicationDeviceKind(16), nullable=False),
    Column("device_address", ApplicationText(), nullable=False),
    # Ours: set when the push service says that the device no longer exists.
    Column("disabled_at", ApplicationMoment),
    UniqueConstraint("device_kind", "device_address"),
)

members = Table(
    "members",
    metadata,
    Column("member_guid", Guid, primary_key=True),
    Column("user_guid", Guid, nullable=False, index=True),
    Column("institution_code", ApplicationText(128)),
    Column("institution_name", ApplicationText()),
    Column("connection_status", ApplicationStatus(64)),
    Column("is_oauth", ApplicationTruth),
    Column("error_code", ApplicationInteger),
    Column("token_expires_at", ApplicationMoment),
    Column("token_revoked_at", ApplicationMoment),
    # Ours: when the user asked for no messages about this member.
    Column("muted_at", ApplicationMoment),
    # Ours: the GUID that MX uses for the member now, and when MX said that it no longer knows the member (store/from_mx).
    Column("moved_to", Guid),
    Column("gone_at", ApplicationMoment),
    # Ours (store/consents.py): when its consent began as far as we know, and the date that was reckoned from it. If token_expires_at holds
    # another date, that date is the application's.
    Column("consent_from", ApplicationMoment),
    Column("expiry_reckoned", ApplicationMoment),
    # For sweeps: members that may be broken by status, revocation or error, in order of their GUID, and members whose token has a date, in
    # order of that date.
    partial_index(
        "ix_members_suspect",
        "member_guid",
        where="token_revoked_at IS NOT NULL OR error_code IS NOT NULL OR "
        "connection_status <> 'CONNECTED' AND connection_status <> 'connected' AND connection_status <> '6'",
    ),
    partial_index("ix_members_muted", "member_guid", where="muted_at IS NOT NULL"),
    partial_index("ix_members_moved", "moved_to", where="moved_to IS NOT NULL"),
    partial_index("ix_members_expiring", "token_expires_at", "member_guid", where="token_expires_at IS NOT NULL"),
    partial_index("ix_members_reckoned", "expiry_reckoned", where="expiry_reckoned IS NOT NULL"),
    # Its column is the one by which SQLite sees that it fits.
    partial_index(
        "ix_members_emptied",
        "expiry_reckoned",
        where=f"expiry_reckoned IS NOT NULL AND {NO_DATE}",
        sqlite_where=f"expiry_reckoned IS NOT NULL AND {NO_DATE_IN_SQLITE}",
    ),
)

institutions = Table(
    "institutions",
    metadata,
    # The application's, as in `members`.
    Column("institution_code", String(128), primary_key=True),
    # For how many days a customer's consent lasts. Any value but a number from 1 to 3,650 counts as unknown.
    Column("consent_days", ApplicationInteger),
)
