"""What a user has to reconnect now, with a link to all of it: asked by the company's own app, which shows a banner.

A link must be usable, and only its hash is stored. So within an hour the same token is derived again from ``URI_KEYS``, the user and the
hour: however often the app asks, at most one link is stored for a user and hour.
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
    """What a user has open."""

    banks: Sequence[BrokenBank]
    #: ``None`` where nothing is open.
    link: DurableLink | None

    def __repr__(self) -> str:  # the link is a secret
        return f"ToReconnect({len(self.banks)})"


async def to_reconnect(runtime: Runtime, user_guid: str, *, key: bytes) -> ToReconnect | None:
    """What this user has to reconnect; ``None`` for an unknown user. Asks nothing of MX. ``key``: what tokens are derived with."""
    shown, stored = _link(runtime.settings, user_guid, key=key, now=runtime.clock.now())
    banks = await runtime.database.store(ToReconnectStore).read(user_guid, link=stored)
    return None if banks is None else ToReconnect(banks=banks, link=shown if banks else None)


async def opt_out(runtime: Runtime, user_guid: str) -> bool:
    """Send this user no more messages, as `reconnect optout` does; ``False`` for a user without a row in ``users``."""
    return bool(await AddressStore(runtime.database).opt_out([user_guid], now=await runtime.set_clock()))


def _link(settings: Settings, user_guid: str, *, key: bytes, now: datetime) -> tuple[DurableLink, NewLink]:
    base = settings.public_base_url
    assert base is not None  # noqa: S101 - the web process does not start without it
    token = token_of_hour(key, user_guid, now)
    until = hour_of(now) + timedelta(days=settings.link_days)
    shown = DurableLink(page=page_address(base, token), unsubscribe=unsubscribe_address(base, token), until=until)
    return shown, NewLink(token_hash=hash_of(token), user_guid=user_guid, expires_at=until)
