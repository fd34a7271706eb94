"""Parses delivery status notifications (RFC 3464): one block of fields for each recipient."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from worker.bounces.parts import headers_in
from worker.bounces.report import address_in

#: The most recipients of one report. Each of our mails has one recipient.
MOST_RECIPIENTS = 200

_BLANK_LINE = re.compile(r"\r?\n[ \t]*\r?\n")
_RECIPIENTS = re.compile(r"\n(?=Final-Recipient[ \t]*:)", re.IGNORECASE)
_FIELD = re.compile(
    r"^(?:Final-Recipient|Original-Recipient|Status|Diagnostic-Code)[ \t]*:", re.IGNORECASE | re.MULTILINE
)
_SPACE = re.compile(r"\s+")
#: The type of a diagnostic, such as ``smtp;`` or ``x-postfix;`` (RFC 3464, 2.3.6).
_TYPE = re.compile(r"^\s*[A-Za-z][\w.-]{0,40}\s*;")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """The block of one recipient."""

    action: str
    status: str
    answer: str
    #: As in :class:`worker.bounces.report.Report`.
    addresses: tuple[str, ...]


def has_fields(text: str) -> bool:
    """Whether a text contains the fields of RFC 3464. Some servers write them into plain text."""
    return len(_FIELD.findall(text)) > 1


def message_fields(text: str) -> Message:
    """The block about the whole mail; empty if it is missing."""
    first = headers_in(_BLANK_LINE.split(text.strip(), 1)[0])
    return headers_in("") if _is_recipient(first) else first


def recipients(text: str) -> Iterator[Recipient]:
    """All recipients of a ``message/delivery-status``."""
    for group in _BLANK_LINE.split(text.strip(), MOST_RECIPIENTS):
        for each in _RECIPIENTS.split(group, MOST_RECIPIENTS):  # some servers omit the blank line between recipients
            if _is_recipient(block := headers_in(each)):
                yield _recipient(block)


def _is_recipient(block: Message) -> bool:
    return any(name in block for name in ("Final-Recipient", "Original-Recipient", "Status", "Diagnostic-Code"))


def _recipient(block: Message) -> Recipient:
    addresses = [address_in(block.get(name)) for name in ("Original-Recipient", "Final-Recipient")]
    status, answer = _line(block, "Status"), _TYPE.sub("", _line(block, "Diagnostic-Code"))
    if not answer and "(" in status:  # "5.4.4 (Illegal host/domain name found)"
        answer = status.partition("(")[2]
    return Recipient(
        action=_line(block, "Action").lower().split(" ")[0],
        status=status.partition("(")[0],
        answer=answer,
        addresses=tuple(dict.fromkeys(each for each in addresses if each)),
    )


def _line(block: Message, name: str) -> str:
    return _SPACE.sub(" ", str(block.get(name) or "")[:4000]).strip()
