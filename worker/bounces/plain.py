"""Parses reports in plain text, without the fields of RFC 3464: qmail, Exim, Exchange, Gmail, Yahoo and others.

All of them have lines that name a failed address, alone or before a colon. The text from such a line to the next one is the reason.
So a text is split into blocks, one for each address. A text that names only one address is one block.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.bounces.evidence import words_in
from worker.bounces.report import spec_of

#: Addresses of one report that are read. Each of our mails has one recipient.
MOST_RECIPIENTS = 200

_ADDRESS = r"[^\s<>\"'(),;:\[\]|]{1,64}@[A-Za-z0-9\x80-\U0010ffff._-]{1,253}"
#: A line that names a failed address: "<a@b>:", "  a@b", "* a@b", "Recipient: <a@b>", "a@b: 550 …", "550 5.1.1 <a@b>... User unknown".
_NAMED = re.compile(
    rf"^[ \t>|*\"'-]{{0,40}}(?:(?:final-|original-)?recipient[ \t]*:[ \t]*|[45]\d\d[ -](?:[45]\.\d{{1,3}}\.\d{{1,3}}[ ])?)?(?:rfc822;[ \t]*)?[<\"']{{0,2}}({_ADDRESS})[>\"']{{0,2}}"
    rf"(?=[\s:.,;(<\[]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_ANY_ADDRESS = re.compile(_ADDRESS)
#: Lines that name an address other than the recipient's.
_NOT_A_RECIPIENT = re.compile(
    r"^[ \t>]*(?:from|reply-to|sender|original sender|reporting-mta|message-id|contact|x-[\w-]{1,40})[ \t]*:[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_DAEMON = re.compile(r"^(?:mailer-?daemon|postmaster|mail\.?daemon|no-?reply|abuse)@", re.IGNORECASE)
#: Words of a report that is only a warning: the server will try again.
_DELAY = re.compile(
    r"\bwill (?:be (?:re)?tr(?:ied|y)|try again|keep trying|retry|continue)\b|\bdelivery .{0,40}(?:has been |is )?delayed\b|\bthis is (?:only )?a warning\b|\bwarning message only\b"
    r"|\bno action is required\b|\bnot (?:yet )?(?:been )?delivered (?:yet|so far)\b",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """An address that failed, and the text with the reason. ``address`` is ``None`` if the report names none."""

    address: str | None
    text: str


def is_delay(text: str) -> bool:
    """Whether the server will try again."""
    return bool(_DELAY.search(text))


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text, one for each failed address."""
    text = _NOT_A_RECIPIENT.sub("", text)
    named = [(found.start(), spec) for found in _NAMED.finditer(text) if (spec := _spec(found[1]))]
    found: dict[str, str] = {}
    for place, (start, spec) in enumerate(named[:MOST_RECIPIENTS]):
        end = named[place + 1][0] if place + 1 < len(named) else len(text)
        found[spec] = found.get(spec, "") + text[start:end]
    if len(found) > 1:
        yield from (Block(address=spec, text=_reason(block)) for spec, block in found.items())
        return
    anywhere = list(
        dict.fromkeys(spec for each in _ANY_ADDRESS.findall(text)[:MOST_RECIPIENTS] if (spec := _spec(each)))
    )
    if found:
        [(spec, block)] = found.items()
        yield Block(address=spec, text=_reason(block if words_in(block) else text))
    elif len(anywhere) == 1 or words_in(text):
        yield Block(address=anywhere[0] if len(anywhere) == 1 else None, text=_reason(text))


def _spec(text: str) -> str | None:
    return None if _DAEMON.match(text) else spec_of(text.rstrip("."))


def _reason(text: str) -> str:
    """The paragraphs with a code or words of a refusal, else all paragraphs; on one line."""
    paragraphs = [" ".join(each.split()) for each in _BLANK_LINE.split(text)]
    return " ".join([each for each in paragraphs if words_in(each)] or paragraphs)
