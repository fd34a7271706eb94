"""Reading delivery reports: which mail of ours failed, for which address, and whether the address is to blame.

A report is RFC 3464's ``multipart/report``; it may be wrapped in other mails, encoded, cut off, or come without a readable
original. It is written by strangers, so it is only read, up to a limit; the worst that it can be is unreadable. What suppresses an
address is the same as in the SMTP dialogue (:mod:`worker.channels.email.outcomes`): an enhanced code that speaks of the address.
A full mailbox, a policy and whatever passes do not.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import Message
from email.parser import HeaderParser
from enum import StrEnum

import idna

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.channels.email.message import message_token
from worker.channels.email.outcomes import BAD_ADDRESS_CODES

#: Octets of a mail that are looked at: a report stands before the mail that it returns.
LIMIT = 512 * 1024
#: Reports have three parts; what has more than this, or more of what may end one, was made to be slow to read.
_MOST_PARTS = 64
_MOST_ENDS = 2000
#: Recipients of one report; ours has one.
_MOST_RECIPIENTS = 200

#: RFC 3464's own type, and RFC 6533's, read as plain text: the library reads them otherwise, the one undecoded, the other wrongly.
_STATUS_TYPES = re.compile(rb"message/(?:global-)?delivery-status", re.IGNORECASE)
_STATUS = "text/x-delivery-status"

_BLANK_LINE = re.compile(r"\r?\n[ \t]*\r?\n")
_CODE = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
_MESSAGE_ID = re.compile(r"<([0-9a-f]{32})@[^<>\s@]{1,255}>")
#: RFC 6533, 3: a character of an address, written in ASCII.
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_MAILBOX_FULL = "2.2"
_UNKNOWN = "0.0"


class Unreadable(ValueError):  # noqa: N818 - it names the state
    """A mail that nobody can make sense of. Its text quotes nothing."""


class Verdict(StrEnum):
    """What a report says of a recipient."""

    #: There is no such address: it is suppressed.
    BAD_ADDRESS = "bad_address"
    #: The mailbox is full; it may have room again.
    MAILBOX_FULL = "mailbox_full"
    #: Still being tried, or given up for a reason that passes.
    TRANSIENT = "transient"
    #: Refused for good, but not because of the address.
    REFUSED = "refused"
    #: No failure at all: delivered, relayed, expanded.
    DELIVERED = "delivered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One recipient of one mail."""

    verdict: Verdict
    #: The enhanced code of RFC 3463, such as ``5.1.1``; empty where there was none.
    code: str
    #: What may be the token of a Message-ID of ours, best guess first.
    tokens: tuple[str, ...]
    #: Whether the original's own Message-ID could be read: if it is none of ours, the mail is not ours.
    names_mail: bool
    #: Normalised addresses, the one that was written to before the one that it was forwarded to.
    addresses: tuple[str, ...]

    def __repr__(self) -> str:  # addresses are in it
        return f"Report({self.verdict}, {self.code})"


def parse(content: bytes) -> list[Report]:
    """What a mail reports, nothing if it is no report; raises :class:`Unreadable`."""
    content = _STATUS_TYPES.sub(_STATUS.encode(), content[:LIMIT])
    if content.lower().count(b"content-type:") > _MOST_PARTS or content.count(b"\n--") > _MOST_ENDS:
        raise Unreadable("too many parts")
    try:
        return list(_reports(message_from_bytes(content, policy=policy.compat32)))
    except Exception as error:  # noqa: BLE001 - the library raises whatever a hostile mail makes it raise
        raise Unreadable(type(error).__name__) from None


def spec_of(address: str) -> str | None:
    """An address in the form in which two are compared; ``None`` if it is none."""
    try:
        return parse_mailbox(address).spec.casefold()
    except NotAMailbox:
        return None


def spellings(spec: str) -> set[str]:
    """How users' rows may hold a normalised address, in lower case: its domain in ASCII or not."""
    local, _, domain = spec.rpartition("@")
    try:
        return {spec, f"{local}@{idna.decode(domain)}"}
    except UnicodeError:  # IDNAError is one
        return {spec}


def trace(reports: Iterable[Report], sent: Iterable[tuple[int, str, str]]) -> dict[str, tuple[int, str]]:
    """Which mails reports speak of: for each token that is ours, the notification's id and its user.

    ``sent`` are notifications: id, user, message key. They are taken one after the other until every token is found.
    """
    wanted = {token for report in reports for token in report.tokens}
    found = {}
    for id_, user_guid, key in sent if wanted else ():
        token = message_token(key)
        if token in wanted:
            found[token] = (id_, user_guid)
            if len(found) == len(wanted):
                break
    return found


def _reports(mail: Message) -> Iterator[Report]:
    if mail.get_content_type() == _STATUS:
        yield from _recipients(mail, None, mail)
    for part in mail.walk():
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            children = [child for child in part.get_payload() if isinstance(child, Message)]
            for status in children:
                if status.get_content_type() == _STATUS:
                    yield from _recipients(status, _original(children), part)


def _original(children: Iterable[Message]) -> Message | None:
    """The headers of the mail that the report returns, if it does."""
    for child in children:
        inner = child.get_payload()
        if child.get_content_type() == "text/rfc822-headers":
            return _headers(_text(child))
        if child.get_content_maintype() == "message" and isinstance(inner, list) and isinstance(inner[0], Message):
            return inner[0]
    return None


def _recipients(status: Message, original: Message | None, container: Message) -> Iterator[Report]:
    of_mail, *blocks = (_headers(block) for block in _BLANK_LINE.split(_text(status).strip(), _MOST_RECIPIENTS))
    if "Final-Recipient" in of_mail or "Status" in of_mail:  # the first block is missing
        blocks.insert(0, of_mail)
    own = _tokens(original, "Message-ID")
    tokens = (*own, *_tokens(of_mail, "X-Original-Message-ID"), *_tokens(container, "In-Reply-To", "References"))
    names_mail = original is not None and bool(str(original.get("Message-ID") or "").strip())
    for block in blocks:
        verdict, code = _judge(block)
        addresses = [_address(block.get(name)) for name in ("Original-Recipient", "Final-Recipient")]
        if not any(addresses) and original is not None:
            addresses = [_address(original.get("To"))]
        yield Report(
            verdict=verdict,
            code=code,
            tokens=tuple(dict.fromkeys(tokens)),
            names_mail=names_mail,
            addresses=tuple(dict.fromkeys(address for address in addresses if address)),
        )


def _judge(block: Message) -> tuple[Verdict, str]:
    """The action and the code. ``5.0.0`` says nothing; then the server's own answer may say more."""
    action = str(block.get("Action") or "").strip().lower()
    codes = [_CODE.search(str(block.get(name) or "")[:1000]) for name in ("Status", "Diagnostic-Code")]
    known = [found for found in codes if found]
    telling = [found for found in known if found[0][2:] != _UNKNOWN and found[1] == known[0][1]]
    code = (telling or known)[0][0] if known else ""
    if action in {"delivered", "relayed", "expanded"} or code.startswith("2"):
        return Verdict.DELIVERED, code
    if action == "delayed" or not code.startswith("5"):
        return Verdict.TRANSIENT, code
    if code in BAD_ADDRESS_CODES:
        return Verdict.BAD_ADDRESS, code
    return Verdict.MAILBOX_FULL if code[2:] == _MAILBOX_FULL else Verdict.REFUSED, code


def _tokens(headers: Message | None, *names: str) -> tuple[str, ...]:
    values = (str(headers.get(name) or "")[:4000] for name in names) if headers is not None else ()
    return tuple(token for value in values for token in _MESSAGE_ID.findall(value.lower())[:20])


def _address(value: object) -> str | None:
    """``rfc822; user@example.com``, with or without the type, in angle brackets or not."""
    text = _ESCAPED.sub(lambda found: _character(found[1]), str(value or "")[:2000])
    return spec_of(text.rpartition(";")[2].strip().strip("<>"))


def _character(number: str) -> str:
    try:
        return chr(int(number, 16))
    except ValueError:
        return ""


def _headers(text: str) -> Message:
    return HeaderParser(policy=policy.compat32).parsestr(text.lstrip("\r\n"))


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
