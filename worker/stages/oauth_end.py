"""The end of MX's OAuth: a hint that makes a member be checked now."""

from worker.runtime import Runtime


async def oauth_ended(runtime: Runtime, member_guid: str | None) -> None:
    """MX's redirect named this member."""
