"""Makes our durable links. Only the message (or the operator's screen) shows the token; the database stores its hash."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from worker.channels import DurableLink
from worker.policy.links import hash_of, new_token, page_address, unsubscribe_address
from worker.runtime import Runtime
from worker.settings import Settings
from worker.store.links import LinkStore, NewLink


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeLink:
    """A link as the message has it, and as it is stored."""

    shown: DurableLink
    stored: NewLink

    def __repr__(self) -> str:
        return "MadeLink(…)"


def make_link(
    settings: Settings, *, user_guid: str, notification_id: int | None, now: datetime, rng: Random
) -> MadeLink | None:
    """A new link, not stored yet; ``None`` without ``PUBLIC_BASE_URL``. ``rng`` must be the system's."""
    if settings.public_base_url is None:
        return None
    token = new_token(rng)
    until = now + timedelta(days=settings.link_days)
    shown = DurableLink(
        page=page_address(settings.public_base_url, token),
        unsubscribe=unsubscribe_address(settings.public_base_url, token),
        until=until,
    )
    stored = NewLink(token_hash=hash_of(token), user_guid=user_guid, notification_id=notification_id, expires_at=until)
    return MadeLink(shown=shown, stored=stored)


async def fresh_link(runtime: Runtime, user_guid: str) -> DurableLink | None:
    """Store a link to all banks that this user has to reconnect at the time when it is opened.

    ``None``: the user has no open reconnection, or ``PUBLIC_BASE_URL`` is not set.
    """
    store = LinkStore(runtime.database)
    now = await runtime.set_clock()
    made = make_link(runtime.settings, user_guid=user_guid, notification_id=None, now=now, rng=runtime.rng)
    if made is None or not await store.has_open(user_guid):
        return None
    await store.make(made.stored, now=now)
    return made.shown
