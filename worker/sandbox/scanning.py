"""Mail scanners like those of companies: they open the links of an arriving mail before its recipient reads it.

:data:`KINDS` has the actions of each kind. Rules choose the kind by address (:class:`ScanRule`). A scanner opens only links to simulated
banks and links on loopback.
"""

import email
import email.policy
import fnmatch
import hashlib
import re
from collections.abc import Sequence
from email.message import EmailMessage
from html import unescape
from typing import Annotated, Literal, get_args

import aiohttp
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from worker.sandbox.browsing import Seen, Visitor, is_loopback
from worker.sandbox.oauth_uris import localised

ScanKind = Literal["get", "head", "browser", "press"]

#: The action of each kind of scanner on a link.
KINDS: dict[ScanKind, str] = {
    "get": "GET, and follows no redirect",
    "head": "HEAD, and follows no redirect",
    "browser": "GET, follows redirects, and runs scripts as far as they submit a form by themselves (Outlook's SafeLinks)",
    "press": "as browser, and presses the buttons of the page's forms, except at a bank, where one has to sign in, and to unsubscribe",
}

_LINK = re.compile(r"https?://[^\s\"'<>]{1,4000}")
_MOST_LINKS = 100
_PATIENCE = aiohttp.ClientTimeout(total=30)


class ScanRule(BaseModel):
    """The mails that a scanner opens, and its kind."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    #: A pattern for recipients, as in a shell: ``*``, ``*@corp.example``. Case does not matter.
    to: str = "*"
    #: See :data:`KINDS`.
    kind: ScanKind
    #: The share of matching addresses. Rules with shares take addresses that no earlier rule took; an address always meets the same rule.
    share: float = Field(1.0, ge=0, le=1)


def _written(value: object) -> object:
    """Expand the short forms. ``true``: every mail, with GET. ``false``: no mail. A kind: every mail, with a scanner of that kind."""
    if isinstance(value, bool):
        return [{"kind": "get"}] if value else []
    if isinstance(value, str):
        if value not in get_args(ScanKind):
            raise ValueError(f"{value[:40]!r} is no kind of scanner; known are {', '.join(KINDS)}")
        return [{"kind": value}]
    return value


#: A list of rules, or one of the short forms.
ScanRules = Annotated[list[ScanRule], BeforeValidator(_written)]


def kind_for(rules: Sequence[ScanRule], address: str) -> ScanKind | None:
    """The kind of scanner that opens mails to this address; ``None``: they are not scanned."""
    address = address.lower()
    place = int.from_bytes(hashlib.sha256(address.encode()).digest()[:6]) / (1 << 48)
    for rule in rules:
        if fnmatch.fnmatchcase(address, rule.to.lower()):
            if place < rule.share:
                return rule.kind
            place -= rule.share
    return None


class Scanner:
    """All scanners of the mail server. ``base_url`` is the sandbox's own address, known once it listens."""

    def __init__(self) -> None:
        self.rules: Sequence[ScanRule] = ()
        self.base_url = ""
        self.counts: dict[ScanKind, dict[str, int]] = {
            kind: {"mails": 0, "links": 0, "presses": 0, "consent_pages": 0} for kind in KINDS
        }

    async def scan(self, content: bytes, recipients: Sequence[str]) -> None:
        """Open every link of a mail, if a rule applies to it. Answers are counted and otherwise ignored."""
        kinds = [kind for address in recipients if (kind := kind_for(self.rules, address)) is not None]
        if not kinds:
            return
        kind = kinds[0]
        counts = self.counts[kind]
        counts["mails"] += 1
        # Each mail is scanned from another address, as by a provider that has many (RFC 5737, TEST-NET-1).
        headers = {"User-Agent": "sandbox-mail-scanner", "X-Forwarded-For": f"192.0.2.{counts['mails'] % 254 + 1}"}
        async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
            visitor = Visitor(session, self.base_url, headers=headers)
            message = email.message_from_bytes(content, policy=email.policy.default)
            unsubscribe = unsubscribe_links(message)
            for link in links_in(message, self.base_url):
                counts["links"] += 1
                for seen in await self._open(visitor, kind, link, may_press=link not in unsubscribe):
                    counts["consent_pages"] += seen.is_consent_page

    async def _open(self, visitor: Visitor, kind: ScanKind, link: str, *, may_press: bool) -> list[Seen]:
        """Every page that the scanner reached."""
        if kind in {"get", "head"}:
            return [await visitor.open(link, method=kind.upper(), follow=False)]
        seen = [await visitor.open(link)]
        if seen[0].is_bank:
            return seen
        for form in seen[0].forms():
            if seen[0].submits_itself or (kind == "press" and may_press and form.method == "POST"):
                self.counts[kind]["presses"] += 1
                seen.append(await visitor.press(form))
        return seen


def links_in(message: EmailMessage, base_url: str) -> list[str]:
    """The links of a mail that a scanner may open, each once."""
    text = " ".join(unescape(_text(part)) for part in message.walk() if part.get_content_maintype() == "text")
    links = dict.fromkeys(localised(link, base_url) for link in _LINK.findall(text))
    return [link for link in links if is_loopback(link)][:_MOST_LINKS]


def unsubscribe_links(message: EmailMessage) -> set[str]:
    """The links in ``List-Unsubscribe`` (RFC 2369)."""
    return set(re.findall(r"<(https?://[^>]+)>", str(message.get("List-Unsubscribe", ""))))


def _text(part: EmailMessage) -> str:
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):
        return ""
