"""The end of MX's OAuth: a hint that makes a member be checked now.

MX's redirect is unsigned: anybody can name any member. So it proves nothing, reveals nothing and changes no member. All it does is to
put the next check of an open reconnection ahead, and no member is checked more often than every 10 s for it. A GUID that MX moved a
member to means that member.
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
