"""Complaints: a mailbox provider's feedback loop says that a recipient called a mail spam (RFC 5965)."""

from collections.abc import Iterable
from email.message import Message

from worker.bounces.parts import headers_in
from worker.bounces.report import address_in

#: What recipients themselves say. The other types are ``fraud``, ``virus``, ``auth-failure`` (RFC 6591): not about a wish of theirs.
_BY_RECIPIENT = frozenset({"abuse", "opt-out", "opt-out-list", "complaint", "not-spam-request", ""})
_NO_COMPLAINT = "not-spam"


def complainants(text: str, original: Message | None) -> tuple[str, ...] | None:
    """The addresses that a ``message/feedback-report`` speaks of, maybe none; ``None`` if it is no complaint of a recipient."""
    fields = headers_in(text)
    kind = str(fields.get("Feedback-Type") or "").strip().lower()
    if kind == _NO_COMPLAINT or kind not in _BY_RECIPIENT:
        return None
    values: Iterable[object] = [
        *(fields.get_all("Original-Rcpt-To") or ()),
        *(fields.get_all("Removal-Recipient") or ()),
        *([original.get("To")] if original is not None else ()),
    ]
    return tuple(dict.fromkeys(address for value in values if (address := address_in(value))))
