"""The parts of a report as text: decoded, cut to a limit, without the returned copy of our mail."""

import re
from collections.abc import Iterator
from email import policy
from email.message import Message
from email.parser import HeaderParser
from html import unescape

#: Characters of a text part that are read.
TEXT_LIMIT = 32 * 1024

_TAG = re.compile(r"<(?:br|/p|/div|/tr|/li|/h\d)\b[^<>]{0,300}>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?(?!mailto:)[a-zA-Z!][^<>@]{0,2000}>")
#: The line in a plain text report at which the copy of our mail begins.
_COPY = re.compile(
    r"^(?:[ \t>|*=_-]{0,80}(?:below (?:this line )?is a copy|enclosed is a copy|this is a copy|included is a copy|(?:the )?original message(?: follows| headers?)?[ \t.:*_=-]{0,80}$"
    r"|the header of the original|message headers? follow|message text follows|unsent message|returned message|original e?-?mail|copy of (?:the|your) (?:original )?message"
    r"|undelivered message|message header|returned mail follows|original mail)\b[^\n]{0,120}"
    r"|(?:Received|Return-Path|DKIM-Signature|Message-ID|X-[A-Za-z-]{2,40}) ?:[^\n]{0,400})$",
    re.IGNORECASE | re.MULTILINE,
)


def text_of(part: Message) -> str:
    """The text of a part, at most :data:`TEXT_LIMIT` characters. An unknown character set is decoded as UTF-8."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    payload = payload[: TEXT_LIMIT * 4]
    try:
        text = payload.decode(str(part.get_content_charset() or "utf-8"), "replace")
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "replace")
    text = text[:TEXT_LIMIT]
    if part.get_content_type() == "text/html":
        text = unescape(_ANY_TAG.sub(" ", _TAG.sub("\n", text)))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def before_copy(text: str) -> str:
    """The reporting server's own text: the part before the copy of our mail."""
    match = _COPY.search(text)
    return text[: match.start()] if match else text


def texts(mail: Message) -> Iterator[str]:
    """The text parts outside a returned mail. HTML parts only if there are no plain ones."""
    plain: list[Message] = []
    html: list[Message] = []
    for part in _outer(mail):
        kind = part.get_content_type()
        (html if kind == "text/html" else plain).append(part)
    return map(text_of, plain or html)


def headers_in(text: str) -> Message:
    """The header fields in ``text``."""
    return HeaderParser(policy=policy.compat32).parsestr(text.lstrip("\r\n"))


def children(part: Message) -> list[Message]:
    """The parts of a multipart, or the mail in a ``message/rfc822``."""
    inner = part.get_payload()
    return [child for child in inner if isinstance(child, Message)] if isinstance(inner, list) else []


def _outer(mail: Message) -> Iterator[Message]:
    waiting = [mail]
    while waiting:
        part = waiting.pop(0)
        if children(part) and part.get_content_maintype() == "multipart":
            waiting = children(part) + waiting
        elif part.get_content_maintype() in {
            "text",
            "multipart",
        }:  # a multipart without parts has no valid boundary: read it as text
            yield part
