"""Parses an address, and gives the form in which SMTP sends it.

A user's address comes from another system and may be any text. A text that is not exactly one mailbox is refused, not corrected:
mail about a user's bank must not go to a guessed address.
"""

import re
from dataclasses import dataclass
from email.headerregistry import Address

import idna

#: RFC 5321, 4.5.3.1: octets of a local part, of a domain, and of a path without its angle brackets.
_LOCAL_LIMIT, _DOMAIN_LIMIT, _PATH_LIMIT = 64, 255, 254

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
#: RFC 5321's Dot-string with the letters of RFC 6531. Nearly all local parts match it.
_DOT_STRING = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*"
)


class NotAMailbox(ValueError):  # noqa: N818 - it names what the text is
    """The text is not one mailbox that SMTP can address. Its text never quotes the address."""


class NotEncodable(NotAMailbox):
    """It may be a mailbox, but its domain cannot be written in ASCII. Some registries allow names that IDNA 2008 does not."""


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
        """Whether only a server with SMTPUTF8 (RFC 6531) accepts it. A domain never needs that, because it is sent in ASCII."""
        return not self.local.isascii()

    def __repr__(self) -> str:
        return "Mailbox(…)"


def parse_mailbox(text: str) -> Mailbox:
    """The mailbox in ``text``; raises :class:`NotAMailbox` if it is not exactly one."""
    text = text.strip()
    local, at, domain = text.rpartition("@")
    if not at or not text.isprintable() or not (_DOT_STRING.fullmatch(local) or _is_quoted(local)):
        raise NotAMailbox("not a mailbox")
    mailbox = Mailbox(local, _ascii_domain(domain))
    if len(local.encode()) > _LOCAL_LIMIT or len(mailbox.spec.encode()) > _PATH_LIMIT:
        raise NotAMailbox("longer than SMTP allows")
    return mailbox


def _is_quoted(local: str) -> bool:
    """Whether it is a quoted string that needs its quotes, such as ``"two words"``, by the standard library's grammar."""
    spec = f"{local}@localhost"
    try:
        return str(Address(addr_spec=spec)) == spec  # differs if it has a comment, or quotes that are not needed
    except Exception:  # noqa: BLE001 - the parser raises many classes of error, IndexError among them; each quotes the address
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
