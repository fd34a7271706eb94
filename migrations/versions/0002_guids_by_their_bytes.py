"""Compare GUIDs by their bytes: on PostgreSQL the database's own collation made every look into an index of them dearer."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_GUIDS = {
    "users": ("user_guid",),
    "devices": ("user_guid",),
    "members": ("member_guid", "user_guid"),
    "reconnections": ("member_guid", "user_guid", "moved_to"),
    "windows": ("member_guid",),
    "notifications": ("user_guid",),
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return  # SQLite compares by bytes
    for table, columns in _GUIDS.items():
        # One statement a table: its indexes are built anew once.
        changes = ", ".join(f'ALTER COLUMN {column} TYPE varchar(128) COLLATE "C"' for column in columns)
        op.execute(sa.text(f"ALTER TABLE {table} {changes}"))


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, columns in _GUIDS.items():
        changes = ", ".join(f"ALTER COLUMN {column} TYPE varchar(128)" for column in columns)
        op.execute(sa.text(f"ALTER TABLE {table} {changes}"))
