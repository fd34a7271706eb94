"""Which addresses can be written to, and in what form they go on the wire.

A customer's address comes from somewhere else and may hold anything. What is not exactly one mailbox is refused rather than
repaired: mail about a person's bank must not go to an address that somebody guessed.
"""

import re
from dataclasses import dataclass
from email.headerregistry import Address

import idna

#: RFC 5321, 4.5.3.1: octets of a local part, of a domain, and of a path without its angle brackets.
_LOCAL_LIMIT, _DOMAIN_LIMIT, _PATH_LIMIT = 64, 255, 254

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
#: RFC 5321's Dot-string with the letters of RFC 6531: nearly every local part there is.
_DOT_STRING = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*"
)


class NotAMailbox(ValueError):  # noqa: N818 - it names what the text is
    """The text is not one mailbox that SMTP can address. Its text never quotes the address."""


class NotEncodable(NotAMailbox):
    """It may be a mailbox, but we cannot write its domain in ASCII: IDNA 2008 and our tables of it know less than all registries."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """``local@domain``; the domain is in ASCII (IDNA), the local part may need SMTPUTF8."""

    local: str
    domain: str

    @property
    def spec(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 (RFC 6531) can take it; a domain alone never needs that."""
        return not self.local.isascii()

    def __repr__(self) -> str:
        return "Mailbox(…)"


def parse_mailbox(text: str) -> Mailbox:
    """The one mailbox that ``text`` is; raises :class:`NotAMailbox`."""
    text = text.strip()
    local, at, domain = text.rpartition("@")
    if not at or not text.isprintable() or not (_DOT_STRING.fullmatch(local) or _is_quoted(local)):
        raise NotAMailbox("not a mailbox")
    mailbox = Mailbox(local, _ascii_domain(domain))
    if len(local.encode()) > _LOCAL_LIMIT or len(mailbox.spec.encode()) > _PATH_LIMIT:
        raise NotAMailbox("longer than SMTP allows")
    return mailbox


def _is_quoted(local: str) -> bool:
    """Whether it is a quoted string that has to be one, such as ``"two words"``, by the standard library's grammar."""
    spec = f"{local}@localhost"
    try:
        return str(Address(addr_spec=spec)) == spec  # not so with a comment, or quotes that are not needed
    except Exception:  # noqa: BLE001 - the parser raises defects of many classes, and IndexError; each quotes the address
        return False


def _ascii_domain(domain: str) -> str:
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except UnicodeError:  # IDNAError is one
            raise NotEncodable("no such domain can exist") from None
    if len(domain) > _DOMAIN_LIMIT or not _HOST.fullmatch(domain):
        raise NotAMailbox("no such domain can exist")
    return domain
