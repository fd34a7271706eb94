"""The result of reading a mail from the bounce mailbox: one :class:`Report` for each recipient."""

import re
from dataclasses import dataclass
from enum import StrEnum

import idna

from worker.channels.email.addresses import NotAMailbox, parse_mailbox

#: RFC 6533, 3: a character of an address, written in ASCII.
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


class Unreadable(ValueError):  # noqa: N818 - it names the state
    """A mail that cannot be parsed. The exception's text quotes nothing of it."""


class BounceOutcome(StrEnum):
    """What a report says about one recipient."""

    #: The address does not exist. It is suppressed.
    BAD_ADDRESS = "bad_address"
    #: The mailbox is full. It may have room later.
    MAILBOX_FULL = "mailbox_full"
    #: The server still tries, or gave up for a temporary reason.
    TRANSIENT = "transient"
    #: Refused permanently, but not because of the address, or the evidence contradicts itself.
    REFUSED = "refused"
    #: Not a failure: delivered, relayed, expanded.
    DELIVERED = "delivered"
    #: The recipient called the mail spam (RFC 5965).
    COMPLAINT = "complaint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One recipient of one mail."""

    outcome: BounceOutcome
    #: The enhanced code (RFC 3463), such as ``5.1.1``; empty if there is none.
    code: str
    #: The reason for the outcome, such as ``5.1.1, user_unknown``. It quotes nothing of the report.
    evidence: str = ""
    #: Possible tokens of our mail (:func:`worker.channels.email.message.message_token`), the likeliest first.
    tokens: tuple[str, ...] = ()
    #: Normalised addresses: first the one that we wrote to, then the one that it was forwarded to.
    addresses: tuple[str, ...] = ()
    #: The sender in the returned headers, normalised. It proves nothing, because anyone can write it.
    sender: str | None = None

    def __repr__(self) -> str:  # without the addresses
        return f"Report({self.outcome}, {self.evidence or self.code})"


def spec_of(address: str) -> str | None:
    """An address, normalised for comparing; ``None`` if the text is not an address."""
    try:
        return parse_mailbox(address).spec.casefold()
    except NotAMailbox:
        return None


def spellings(spec: str) -> set[str]:
    """The forms in which a user's row may hold a normalised address, in lower case: its domain in ASCII and in Unicode."""
    local, _, domain = spec.rpartition("@")
    try:
        return {spec, f"{local}@{idna.decode(domain)}"}
    except UnicodeError:  # IDNAError is one
        return {spec}


def address_in(value: object) -> str | None:
    """The address in ``rfc822; user@example.com``, with or without the type and angle brackets; ``None`` if there is none."""
    text = _ESCAPED.sub(lambda match: _character(match[1]), str(value or "")[:2000])
    return spec_of(text.rpartition(";")[2].strip().strip("<>"))


def _character(number: str) -> str:
    try:
        return chr(int(number, 16))
    except ValueError:
        return ""
