"""What a user has to reconnect now, with one link to all of it. The company's own app asks this, and shows a banner.

Only the hash of a link is stored, so an earlier link cannot be returned again. Instead its token is derived from ``URI_KEYS``, the user
and the hour. So at most one link is stored for a user and hour, however often the app asks.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from worker.channels import DurableLink
from worker.policy.links import hash_of, hour_of, page_address, token_of_hour, unsubscribe_address
from worker.runtime import Runtime
from worker.settings import Settings
from worker.store.addresses import AddressStore
from worker.store.links import NewLink
from worker.store.queries.to_reconnect import BrokenBank, ToReconnectStore

__all__ = ["BrokenBank", "ToReconnect", "opt_out", "to_reconnect"]


class ToReconnect(msgspec.Struct, frozen=True, kw_only=True):
    """The banks that a user has to reconnect."""

    banks: Sequence[BrokenBank]
    #: ``None`` where nothing is open.
    link: DurableLink | None

    def __repr__(self) -> str:  # the link is a secret
        return f"ToReconnect({len(self.banks)})"


async def to_reconnect(runtime: Runtime, user_guid: str, *, key: bytes) -> ToReconnect | None:
    """What this user has to reconnect; ``None`` for an unknown user. MX is not asked. ``key``: the key from which tokens are derived."""
    link, new_link = _link(runtime.settings, user_guid, key=key, now=runtime.clock.now())
    banks = await runtime.database.store(ToReconnectStore).read(user_guid, link=new_link)
    return None if banks is None else ToReconnect(banks=banks, link=link if banks else None)


async def opt_out(runtime: Runtime, user_guid: str) -> bool:
    """Send this user no more messages, as `reconnect optout` does; ``False`` for a user without a row in ``users``."""
    return bool(await AddressStore(runtime.database).opt_out([user_guid], now=await runtime.set_clock()))


def _link(settings: Settings, user_guid: str, *, key: bytes, now: datetime) -> tuple[DurableLink, NewLink]:
    base = settings.public_base_url
    assert base is not None  # noqa: S101 - the web process does not start without it
    token = token_of_hour(key, user_guid, now)
    until = hour_of(now) + timedelta(days=settings.link_days)
    link = DurableLink(page=page_address(base, token), unsubscribe=unsubscribe_address(base, token), until=until)
    return link, NewLink(token_hash=hash_of(token), user_guid=user_guid, expires_at=until)
