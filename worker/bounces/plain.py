"""Reports that are prose: qmail, Exim, Exchange, Gmail, Yahoo and whoever else has no RFC 3464.

They have one thing in common. A line names an address that failed, alone or before a colon, and what follows until the next such
line is why. So a text is cut into blocks, one for each address; a text that names a single address is one block.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.bounces.evidence import words_in
from worker.bounces.report import spec_of

#: Addresses of one report that are looked at; ours has one.
MOST_RECIPIENTS = 200

_ADDRESS = r"[^\s<>\"'(),;:\[\]|]{1,64}@[A-Za-z0-9\x80-\U0010ffff._-]{1,253}"
#: A line that names an address that failed: "<a@b>:", "  a@b", "* a@b", "Recipient: <a@b>", "a@b: 550 …", "550 5.1.1 <a@b>... User unknown".
_NAMED = re.compile(
    rf"^[ \t>|*\"'-]{{0,40}}(?:(?:final-|original-)?recipient[ \t]*:[ \t]*|[45]\d\d[ -](?:[45]\.\d{{1,3}}\.\d{{1,3}}[ ])?)?(?:rfc822;[ \t]*)?[<\"']{{0,2}}({_ADDRESS})[>\"']{{0,2}}"
    rf"(?=[\s:.,;(<\[]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_ANY_ADDRESS = re.compile(_ADDRESS)
#: Lines of a report that name somebody else than the recipient.
_NOT_A_RECIPIENT = re.compile(
    r"^[ \t>]*(?:from|reply-to|sender|original sender|reporting-mta|message-id|contact|x-[\w-]{1,40})[ \t]*:[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_DAEMON = re.compile(r"^(?:mailer-?daemon|postmaster|mail\.?daemon|no-?reply|abuse)@", re.IGNORECASE)
#: What a bounced mail speaks of being tried again, or having been delivered.
_DELAY = re.compile(
    r"\bwill (?:be (?:re)?tr(?:ied|y)|try again|keep trying|retry|continue)\b|\bdelivery .{0,40}(?:has been |is )?delayed\b|\bthis is (?:only )?a warning\b|\bwarning message only\b"
    r"|\bno action is required\b|\bnot (?:yet )?(?:been )?delivered (?:yet|so far)\b",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """An address that failed, and why."""

    address: str | None
    text: str


def is_delay(text: str) -> bool:
    """Whether a text says that delivery goes on."""
    return bool(_DELAY.search(text))


def blocks(text: str) -> Iterator[Block]:
    """What a text says of each address."""
    text = _NOT_A_RECIPIENT.sub("", text)
    named = [(found.start(), spec) for found in _NAMED.finditer(text) if (spec := _spec(found[1]))]
    found: dict[str, str] = {}
    for place, (start, spec) in enumerate(named[:MOST_RECIPIENTS]):
        end = named[place + 1][0] if place + 1 < len(named) else len(text)
        found[spec] = found.get(spec, "") + text[start:end]
    if len(found) > 1:
        yield from (Block(address=spec, text=_why(block)) for spec, block in found.items())
        return
    anywhere = list(
        dict.fromkeys(spec for each in _ANY_ADDRESS.findall(text)[:MOST_RECIPIENTS] if (spec := _spec(each)))
    )
    if found:
        [(spec, block)] = found.items()
        yield Block(address=spec, text=_why(block if words_in(block) else text))
    elif len(anywhere) == 1 or words_in(text):
        yield Block(address=anywhere[0] if len(anywhere) == 1 else None, text=_why(text))


def _spec(text: str) -> str | None:
    return None if _DAEMON.match(text) else spec_of(text.rstrip("."))


def _why(text: str) -> str:
    """The paragraphs that speak of a refusal, else all; on one line."""
    paragraphs = [" ".join(each.split()) for each in _BLANK_LINE.split(text)]
    return " ".join([each for each in paragraphs if words_in(each)] or paragraphs)
