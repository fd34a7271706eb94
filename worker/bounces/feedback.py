"""Parses complaints (RFC 5965): a mailbox provider reports that a recipient marked our mail as spam."""

from collections.abc import Iterable
from email.message import Message

from worker.bounces.parts import headers_in
from worker.bounces.report import address_in

#: Types that come from a recipient. The others (``fraud``, ``virus``, ``auth-failure`` of RFC 6591) come from the provider.
_BY_RECIPIENT = frozenset({"abuse", "opt-out", "opt-out-list", "complaint", "not-spam-request", ""})
_NO_COMPLAINT = "not-spam"


def complainants(text: str, original: Message | None) -> tuple[str, ...] | None:
    """The addresses in a ``message/feedback-report``, perhaps none; ``None`` if the report is not a recipient's complaint."""
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
