"""What the page behind a link says: what of it is broken *now*, not what was when the message left. It changes nothing and asks nothing of MX.

A link is about the reconnections that its message named, or, made by `reconnect link`, about all that its user has open. Each bank is
shown as the newest word on it:

| the newest reconnection of its member | the page shows |
|---|---|
| is open | `BROKEN`, or `AHEAD` for a notice whose date lies ahead |
| closed as `reconnected` | `BACK` |
| closed otherwise | `ENDED` |

The newest one may be another than the message named. Example: a notice was sent, the token expired, and the customer came back by the
notice's link: the reconnection that was opened in between says `BACK`. A notice that was cancelled is passed over where there is another.

So a link works for ``LINK_DAYS``: it leads to whatever it spoke of that is broken now, also to what came back and broke anew. Once all of it is
back or over, its page says so and leads nowhere.
"""

from datetime import datetime, tzinfo

import msgspec

from worker.policy.links import BankState, hash_of
from worker.policy.zones import zones_of
from worker.runtime import Runtime
from worker.store.queries.link_page import LinkPageStore

__all__ = ["BankState", "Page", "PageBank", "page_of"]


class PageBank(msgspec.Struct, frozen=True, kw_only=True):
    """One bank on the page."""

    reconnection_id: int
    member_guid: str
    name: str
    #: Since when it is broken; of a notice, until when it works.
    since: datetime
    state: BankState


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What is so now; never a URI."""

    user_guid: str
    #: As the mails use it; ``None``: the user has none.
    locale: str | None
    #: The zone in which dates are given: the user's, or the likeliest.
    time_zone: tzinfo
    #: Ten at most; those that need something come first.
    banks: tuple[PageBank, ...]


async def page_of(runtime: Runtime, token: str) -> Page | None:
    """What the page of a link shows; ``None`` for a token that is unknown or expired, after the same work."""
    found = await runtime.database.store(LinkPageStore).read(hash_of(token))
    if found is None:
        return None
    link, banks = found
    settings = runtime.settings
    zones = zones_of(link.timezone, link.locale, default=settings.time_zone, fallback=settings.fallback_time_zones)
    return Page(
        user_guid=link.user_guid,
        locale=link.locale,
        time_zone=zones.all[0],
        banks=tuple(
            PageBank(
                reconnection_id=bank.reconnection_id,
                member_guid=bank.member_guid,
                name=bank.name,
                since=bank.broken_since,
                state=bank.stands(link.now),
            )
            for bank in banks
        ),
    )
