"""The mailbox: arrived mails as files, and an index of them in memory."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_MESSAGE_ID = re.compile(rb"^message-id:\s*(<[^>\r\n]+>)", re.IGNORECASE | re.MULTILINE)
_FILE = re.compile(r"(\d{8,})-[0-9a-f]{12}\.eml")


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail that the sandbox accepted."""

    #: 1 for the first mail; in a folder with mails, the next free number.
    number: int
    message_id: str | None
    #: The recipients of the envelope, not of the header.
    recipients: tuple[str, ...]
    arrived_at: datetime
    #: The file with its bytes; ``None`` if bodies are not kept.
    path: Path | None

    def __repr__(self) -> str:
        return f"Mail({self.number})"


class Mailbox:
    """All mail of this run. Without a ``folder`` only the index is kept, for load tests."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._mails: list[Mail] = []
        self._before = 0
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            numbers = (int(match[1]) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name)))
            self._before = max(numbers, default=0)

    def keep(self, content: bytes, recipients: Sequence[str]) -> Mail:
        """Store a mail, whole or not at all. Raises ``OSError`` if it cannot be written."""
        number = self._before + len(self._mails) + 1
        path = None
        if self.folder is not None:
            path = self.folder / f"{number:08d}-{hashlib.sha256(content).hexdigest()[:12]}.eml"
            unfinished = path.with_suffix(".tmp")
            unfinished.write_bytes(content)
            unfinished.replace(path)
        head, _, _ = content.partition(b"\r\n\r\n")
        found = _MESSAGE_ID.search(head)
        message_id = found[1].decode("ascii", "replace") if found else None
        mail = Mail(number, message_id, tuple(recipients), datetime.now(UTC), path)
        self._mails.append(mail)
        return mail

    def mails(self, *, recipient: str | None = None, after: int = 0) -> list[Mail]:
        """Mails with a number above ``after``, in order of arrival; those to ``recipient``, if given. Case does not matter."""
        mails = self._mails[max(0, after - self._before) :]
        if recipient is None:
            return mails
        wanted = recipient.lower()
        return [mail for mail in mails if any(one.lower() == wanted for one in mail.recipients)]

    def find(self, number: int) -> Mail | None:
        """The mail with this number, if it arrived in this run."""
        place = number - self._before - 1
        return self._mails[place] if 0 <= place < len(self._mails) else None

    def counts(self) -> Counter[str]:
        """Mails by recipient."""
        return Counter(recipient for mail in self._mails for recipient in mail.recipients)

    def repeated(self) -> dict[str, int]:
        """Message-IDs that arrived more than once, and how often."""
        seen = Counter(mail.message_id for mail in self._mails if mail.message_id is not None)
        return {message_id: times for message_id, times in seen.items() if times > 1}
