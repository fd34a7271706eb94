"""From a :class:`~worker.channels.Message` to the bytes that go on the wire.

``email.message.EmailMessage`` is not used: it takes about 1 ms a mail and folds lines by its own rules. Both bodies are
quoted-printable. So no line is longer than 76 octets, even with a long URI, and every decoder restores the URI exactly
(RFC 2045, 6.7).
"""

import binascii
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.header import Header
from email.headerregistry import Address
from email.utils import format_datetime, parseaddr
from urllib.parse import quote

from worker.channels import BadAddress, DurableLink, Failed, Message
from worker.channels.email.addresses import Mailbox, NotAMailbox, NotEncodable, parse_mailbox
from worker.channels.email.texts import Texts, texts_for
from worker.channels.email.wording import Wording, word
from worker.display_names import shown
from worker.errors import SettingsError
from worker.settings import Settings

#: RFC 5322, 2.1.1: characters that a line should not exceed, without its CRLF.
_LINE = 78

#: ``=_`` cannot occur in quoted-printable text, so no part can contain this (RFC 2045, 6.7).
_BOUNDARY = "=_reconnect"

#: Our own header. Amazon SES and Outlook.com replace the Message-ID, but their delivery reports return this header.
ID_HEADER = "X-Reconnect-Id"

#: A link that a mail can show. The text part has it on a line of its own, and a mail client reads it up to the first space. It must
#: match every URI that :func:`worker.mx.uris.check_uri` accepts; otherwise one bank's URI fails a message about several banks.
_LINK = re.compile(r"https?://[^\s\x00-\x1f\x7f-\x9f<>\"\ud800-\udfff]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """The envelope and the content of a mail; lines end with CRLF and are not yet dot-stuffed."""

    sender: Mailbox
    recipient: Mailbox
    content: bytes

    def __repr__(self) -> str:  # the content holds a secret link, the envelope an address
        return f"Mail({len(self.content)} bytes)"


class Composer:
    """Builds mails. The headers that all mails share are made once, from the settings."""

    def __init__(self, settings: Settings, *, texts: Texts | None = None) -> None:
        """``texts`` are the templates, by default those of the settings.

        Raises :class:`~worker.errors.SettingsError` if ``EMAIL_FROM``, ``EMAIL_REPLY_TO`` or a template is invalid.
        """
        self._texts = texts or texts_for(settings)
        self.sender = _own_mailbox("EMAIL_FROM", settings.email_from)
        self._app = shown(settings.sender_name)
        head = [_mailbox_header("From", self._app, self.sender)]
        reply_to = self.sender
        if settings.email_reply_to:
            reply_to = _own_mailbox("EMAIL_REPLY_TO", settings.email_reply_to)
            head.append(_mailbox_header("Reply-To", shown(parseaddr(settings.email_reply_to)[0]), reply_to))
        self._shared_headers = "".join(head)
        self._unsubscribe_by_mail = f"<mailto:{quote(reply_to.local)}@{reply_to.domain}?subject=unsubscribe>"
        self._bounce_address = (
            _own_mailbox("BOUNCE_ADDRESS", settings.bounce_address) if settings.bounce_address else None
        )

    def build(self, message: Message, *, now: datetime | None = None) -> Mail | BadAddress | Failed:
        """The mail, or why it cannot be built. The same message gives the same bytes, except for ``Date``, which is ``now``."""
        if not message.banks:
            return Failed(code="no_banks")
        if not all(_LINK.fullmatch(bank.link) for bank in message.named):
            return Failed(code="link_unusable")
        try:
            recipient = parse_mailbox(message.address)
        except NotEncodable:
            return Failed(code="address_not_encodable")
        except NotAMailbox:
            return BadAddress(code="address_syntax")
        token = message_token(message.key)
        wording = word(message, app=self._app, texts=self._texts)
        headers = (
            f"{self._shared_headers}"
            f"{_list_unsubscribe(self._unsubscribe_by_mail, message.link)}"
            f"To: {recipient.spec}\r\n"
            f"Subject: {_unstructured('Subject', wording.subject)}\r\n"
            f"Date: {format_datetime(now or datetime.now(UTC))}\r\n"
            f"Message-ID: {message_id(message.key, self.sender.domain)}\r\n"
            f"{ID_HEADER}: {token}\r\n"
            "Auto-Submitted: auto-generated\r\n"
            "MIME-Version: 1.0\r\n"
            f"Content-Language: {wording.language}\r\n"
            f'Content-Type: multipart/alternative; boundary="{_BOUNDARY}"\r\n'
        )
        return Mail(
            sender=self._envelope_sender(token), recipient=recipient, content=headers.encode() + _alternatives(wording)
        )

    def _envelope_sender(self, token: str) -> Mailbox:
        """Where delivery reports go: ``EMAIL_FROM``, or ``BOUNCE_ADDRESS`` with the token (VERP), ``bounces+3f2a…@example.com``."""
        own = self._bounce_address
        return replace(own, local=f"{own.local}+{token}") if own else self.sender


def message_id(key: str, domain: str) -> str:
    """The Message-ID for a key. Every attempt has the same one, so a mail server can recognise a duplicate (RFC 5322, 3.6.4)."""
    return f"<{message_token(key)}@{domain}>"


def message_token(key: str) -> str:
    """The local part of the Message-ID: 32 hexadecimal digits. A delivery report is traced to its mail by this token."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _alternatives(wording: Wording) -> bytes:
    """The two bodies. Plain text comes first, because clients prefer the last part that they can show (RFC 2046, 5.1.4)."""
    return (
        _part("plain", wording.text)
        + _part("html", wording.html)
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
    )  # fmt: skip


def _part(subtype: str, text: str) -> bytes:
    head = (
        f"\r\n--{_BOUNDARY}\r\n"
        f"Content-Type: text/{subtype}; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
    )
    return head.encode() + binascii.b2a_qp(text.encode())


def _unstructured(name: str, text: str) -> str:
    """A header's value: unchanged if it is ASCII and fits in the line, else in encoded words (RFC 2047)."""
    if _is_plain(text) and len(f"{name}: {text}") <= _LINE:
        return text
    return Header(text, "utf-8", header_name=name).encode(linesep="\r\n")


def _is_plain(text: str) -> bool:
    """Whether a header can hold ``text`` unchanged, without a client reading it as an encoded word."""
    return text.isascii() and "=?" not in text


def _own_mailbox(setting: str, text: str | None) -> Mailbox:
    if not text:
        raise SettingsError(f"settings: {setting} is missing: every mail needs a sender")
    try:
        mailbox = parse_mailbox(parseaddr(text)[1])
    except NotAMailbox:
        raise SettingsError(f"settings: {setting}: expected name@example.com or Name <name@example.com>") from None
    if mailbox.needs_smtputf8:
        raise SettingsError(f"settings: {setting}: the part before the @ must be ASCII; most servers refuse any other")
    return mailbox


def _mailbox_header(name: str, display_name: str, mailbox: Mailbox) -> str:
    """A header with one mailbox. Only the name may be in encoded words. A long line is folded before the address."""
    if not display_name:
        return f"{name}: {mailbox.spec}\r\n"
    if _is_plain(display_name):
        phrase = str(Address(display_name=display_name)).removesuffix(" <>")  # ``Address`` quotes the name if needed
    else:
        phrase = Header(display_name, "utf-8", header_name=name).encode(linesep="\r\n")
    header = f"{name}: {phrase}"
    last_line = header.rpartition("\r\n")[2]
    fold = " " if len(f"{last_line} <{mailbox.spec}>") <= _LINE else "\r\n "
    return f"{header}{fold}<{mailbox.spec}>\r\n"


def _list_unsubscribe(by_mail: str, link: DurableLink | None) -> str:
    """The headers that say how to unsubscribe. A URL must not be in encoded words.

    With our own link: by one POST (RFC 8058) or by mail. Each header is one unfolded line, because a relay's DKIM signature must cover
    both unchanged. RFC 5322 permits 998 octets; the longest address and the longest ``PUBLIC_BASE_URL`` need 750.
    Without our link: by mail alone (RFC 2369). A long line is folded.
    """
    if link is not None:
        return (
            f"List-Unsubscribe: <{link.unsubscribe}>, {by_mail}\r\n"
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        )
    header = f"List-Unsubscribe: {by_mail}"
    return f"{header}\r\n" if len(header) <= _LINE else f"List-Unsubscribe:\r\n {by_mail}\r\n"
