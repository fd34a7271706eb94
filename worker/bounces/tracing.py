"""Finds the mail that a report is about, and rejects forged reports.

Each of our mails has a token of 128 bits: in ``Message-ID``, in ``X-Reconnect-Id`` and, with ``BOUNCE_ADDRESS``, in the envelope
sender (VERP). The token is a hash of the message's key, so only someone who has seen the mail knows it. A report is believed if it
returns the token in one of these places. Amazon SES and Outlook.com replace ``Message-ID``, but return ``X-Reconnect-Id``.

From and To can trace a report to a mail too, but anyone can guess them. Such a report is counted, but suppresses no address.
"""

import re
from collections.abc import Iterable, Iterator
from email.message import Message
from email.utils import getaddresses

from worker.bounces.report import Report
from worker.channels.email.message import ID_HEADER, message_token

#: Fields of a report that may hold its recipient: the envelope sender of our mail.
_ENVELOPE = (
    "To",
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
    "X-Envelope-To",
    "X-Forwarded-To",
    "Apparently-To",
    "Return-Path",
    "X-Failed-Recipients",
)
_MOST_FIELDS = 20
_TOKEN = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_MESSAGE_ID = re.compile(r"<([0-9a-f]{32})@[^<>\s@]{1,255}>")
_VERP = re.compile(r"[+=._-]([0-9a-f]{32})(?=[@=])")
#: Our header fields in a copy of our mail that is part of a text.
_IN_TEXT = re.compile(
    rf"^[ \t>]{{0,8}}(?:{ID_HEADER}|Message-ID)[ \t]*:\s{{0,3}}<?([0-9a-f]{{32}})(?![0-9a-f])",
    re.IGNORECASE | re.MULTILINE,
)
_VERP_IN_TEXT = re.compile(
    r"^[ \t>]{0,8}Return-Path[ \t]*:[ \t]{0,8}<?[^\s<>@]{1,64}[+]([0-9a-f]{32})@", re.IGNORECASE | re.MULTILINE
)


def tokens_of_report(mail: Message) -> Iterator[str]:
    """Tokens in the report's own header: in its recipient (VERP) and in the Message-ID that it answers."""
    for name in _ENVELOPE:
        for value in (mail.get_all(name) or ())[:_MOST_FIELDS]:
            yield from _VERP.findall(str(value)[:1000].lower())
    for name in ("In-Reply-To", "References"):
        yield from _MESSAGE_ID.findall(str(mail.get(name) or "")[:4000].lower())[:_MOST_FIELDS]


def tokens_of_original(headers: Message | None) -> Iterator[str]:
    """Tokens in the returned header of our mail."""
    if headers is None:
        return
    yield from _MESSAGE_ID.findall(str(headers.get("Message-ID") or "")[:1000].lower())
    for value in (headers.get_all(ID_HEADER) or ())[:_MOST_FIELDS]:
        yield from _TOKEN.findall(str(value)[:200].lower())
    for value in (headers.get_all("Return-Path") or ())[:_MOST_FIELDS]:
        yield from _VERP.findall(str(value)[:1000].lower())


def tokens_of_text(text: str) -> Iterator[str]:
    """Tokens in a copy of our mail that is part of a text."""
    yield from (token.lower() for token in _IN_TEXT.findall(text)[:_MOST_FIELDS])
    yield from (token.lower() for token in _VERP_IN_TEXT.findall(text)[:_MOST_FIELDS])


def addresses_in(value: object) -> list[str]:
    """The addresses of a header field, not normalised."""
    return [address for _, address in getaddresses([str(value or "")[:2000]]) if address][:_MOST_FIELDS]


def trace(reports: Iterable[Report], sent: Iterable[tuple[int, str, str]]) -> dict[str, tuple[int, str]]:
    """The mails that the reports are about: the notification's id and its user, by token.

    ``sent`` are notifications (id, user, message key). Reading stops when every token is found.
    """
    wanted = {token for report in reports for token in report.tokens}
    notifications = {}
    for id_, user_guid, key in sent if wanted else ():
        token = message_token(key)
        if token in wanted:
            notifications[token] = (id_, user_guid)
            if len(notifications) == len(wanted):
                break
    return notifications
