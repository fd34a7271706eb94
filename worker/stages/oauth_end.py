"""The end of MX's OAuth: a hint upon which a member is checked now.

MX's redirect is unsigned: anyone can name any member. So it proves nothing, reveals nothing and changes no member. It only makes the
next check of an open reconnection earlier, and a member is checked at most every 10 s because of it. A GUID to which MX moved a member
counts as that member's.
"""

from worker.mx.identifiers import is_member_guid
from worker.policy.recovery import AFTER_OAUTH
from worker.runtime import Runtime
from worker.store.transactions.click import ClickStore


async def oauth_ended(runtime: Runtime, member_guid: str | None) -> None:
    """MX's redirect named this member; any other text does nothing."""
    if member_guid is None or not is_member_guid(member_guid):
        return
    if await runtime.database.store(ClickStore).check_now(member_guid):
        runtime.delayed_wakes.plan("verify", (after.total_seconds() for after in AFTER_OAUTH))
