"""What a mail in the bounce mailbox can say: one :class:`Report` for each recipient."""

import re
from dataclasses import dataclass
from enum import StrEnum

import idna

from worker.channels.email.addresses import NotAMailbox, parse_mailbox

#: RFC 6533, 3: a character of an address, written in ASCII.
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


class Unreadable(ValueError):  # noqa: N818 - it names the state
    """A mail that nobody can make sense of. Its text quotes nothing."""


class BounceOutcome(StrEnum):
    """What a report says of a recipient."""

    #: There is no such address: it is suppressed.
    BAD_ADDRESS = "bad_address"
    #: The mailbox is full; it may have room again.
    MAILBOX_FULL = "mailbox_full"
    #: Still being tried, or given up for a reason that passes.
    TRANSIENT = "transient"
    #: Refused for good, but not because of the address; or the evidence contradicts itself.
    REFUSED = "refused"
    #: No failure at all: delivered, relayed, expanded.
    DELIVERED = "delivered"
    #: The recipient called the mail spam (RFC 5965).
    COMPLAINT = "complaint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One recipient of one mail."""

    outcome: BounceOutcome
    #: The enhanced code of RFC 3463, such as ``5.1.1``; empty where there was none.
    code: str
    #: What the verdict rests on, in words of ours, such as ``5.1.1, user_unknown``; quotes nothing of the report.
    evidence: str = ""
    #: What may be the token of a mail of ours (:func:`worker.channels.email.message.message_token`), best guess first.
    tokens: tuple[str, ...] = ()
    #: Normalised addresses, the one that was written to before the one that it was forwarded to.
    addresses: tuple[str, ...] = ()
    #: The sender in the returned headers, normalised. Anybody can write it, so it proves nothing.
    sender: str | None = None

    def __repr__(self) -> str:  # addresses are in it
        return f"Report({self.outcome}, {self.evidence or self.code})"


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


def address_in(value: object) -> str | None:
    """The address in ``rfc822; user@example.com``, with or without the type, in angle brackets or not."""
    text = _ESCAPED.sub(lambda found: _character(found[1]), str(value or "")[:2000])
    return spec_of(text.rpartition(";")[2].strip().strip("<>"))


def _character(number: str) -> str:
    try:
        return chr(int(number, 16))
    except ValueError:
        return ""
