"""The body of one request: what a template needs, our own text in the user's language, and our link.

    {"key": "5f0c1a2b3c4d5e6f708192a3b4c5d6e7", "user_guid": "USR-1a2b", "locale": "fr-CA", "time_zone": "America/Toronto",
     "kind": "broken", "step": 0, "app": "Ledgerly", "banks": [{"name": "First Bank", "since": "2026-03-03T23:30:00Z"}], "more": 0,
     "text": {"language": "fr", "title": "…", "body": "…"},
     "link": "https://reconnect.example.com/r/…", "link_expires_at": "…", "unsubscribe": "https://reconnect.example.com/u/…"}

``docs/notifications.md`` has a sentence for each field. Fields may be added; none changes its meaning.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from worker.channels import DurableLink, Message
from worker.channels.push.text import word
from worker.display_names import shown


def content(message: Message, link: DurableLink, *, app: str, default_locale: str | None) -> Mapping[str, Any]:
    """The fields of the request. ``message`` is about at least one bank."""
    text = word(message, app=app, default_locale=default_locale)
    return {
        "key": message.key,
        "user_guid": message.address,
        "locale": message.locale,
        "time_zone": _zone(message.time_zone),
        "kind": "expires_soon" if message.ahead else "reminder" if message.step else "broken",
        "step": message.step,
        "app": shown(app),
        "banks": [{"name": shown(bank.name) or None, "since": _moment(bank.since)} for bank in message.named],
        "more": message.count - len(message.named),
        "text": {"language": text.language, "title": text.title, "body": text.body},
        "link": link.page,
        "link_expires_at": _moment(link.until),
        "unsubscribe": link.unsubscribe,
    }


def _zone(zone: tzinfo) -> str:
    """Its IANA name; an offset from UTC such as ``+05:30`` for a zone that has none."""
    return zone.key if isinstance(zone, ZoneInfo) else str(zone).removeprefix("UTC") or "UTC"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
