"""What the page behind a link shows: the banks that are broken *now*, not those that were when the message left. Nothing is changed, and
MX is not asked.

A link of a message is about the reconnections that the message named. A link made by `reconnect link` or for your app is about all that
its user has open. Each bank is shown by the newest reconnection of its member:

| the newest reconnection of its member | the page shows |
|---|---|
| is open | `BROKEN`, or `AHEAD` for a notice whose date lies ahead |
| closed as `reconnected` | `BACK` |
| closed otherwise | `ENDED` |

The newest may be a later one than the message named. Example: a notice was sent, the token expired, and the customer came back by the
notice's link: the reconnection that was opened at the expiry shows `BACK`. A cancelled notice is skipped if there is a newer reconnection.

So a link works for ``LINK_DAYS``: it leads to each of its banks that is broken now, also if that came back and broke again. Once all of
them are back or ended, the page shows that and has no button.
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
    #: Since when the bank is broken; for a notice, when its token expires.
    since: datetime
    state: BankState


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows now. It never holds a URI."""

    user_guid: str
    #: As the mails use it; ``None``: the user has none.
    locale: str | None
    #: The zone in which dates are given: the user's, or the likeliest.
    time_zone: tzinfo
    #: Ten at most; those that need something come first.
    banks: tuple[PageBank, ...]


async def page_of(runtime: Runtime, token: str) -> Page | None:
    """What the page of a link shows; ``None`` for a token that is unknown or expired, after the same work."""
    link_and_banks = await runtime.database.store(LinkPageStore).read(hash_of(token))
    if link_and_banks is None:
        return None
    link, banks = link_and_banks
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
