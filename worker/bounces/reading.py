"""Reads one mail of the bounce mailbox: what kind it is, and what it reports. In this order:

1. The fields of RFC 3464, in any part. If they give no reason, the report's text is used too.
2. A complaint (RFC 5965).
3. Plain text, if the mail looks like a bounce.

Automatic replies (out of office, RFC 3834) are not reports. Anyone can send a mail here. So a mail is read only up to a limit, and the
worst result of a hostile mail is :class:`~worker.bounces.report.Unreadable`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import Message
from enum import StrEnum

from worker.bounces.dsn import has_fields, message_fields, recipients
from worker.bounces.evidence import Classified, classify
from worker.bounces.feedback import complainants
from worker.bounces.parts import before_copy, children, headers_in, text_of, texts
from worker.bounces.plain import blocks, is_delay
from worker.bounces.report import BounceOutcome, Report, Unreadable, address_in, spec_of
from worker.bounces.tracing import addresses_in, tokens_of_original, tokens_of_report, tokens_of_text

#: Octets of a mail that are read. The report comes before the copy of our mail.
LIMIT = 512 * 1024
#: A report has three parts. A mail with more than 64 parts, or more than 2000 possible boundaries, is an attack: it is slow to parse.
_MOST_PARTS = 64
_MOST_ENDS = 2000

#: A boundary has at most 70 characters (RFC 2046, 5.1.1). The standard library takes seconds to parse one of 400,000.
_LONG_BOUNDARY = re.compile(rb"boundary[^\n]{1000}", re.IGNORECASE)

#: Types that are replaced by a text type before parsing, because the standard library parses them wrongly or does not decode them.
_STATUS_TYPES = re.compile(rb"message/(?:global-)?delivery-status\b", re.IGNORECASE)
_FEEDBACK_TYPES = re.compile(rb"message/feedback-report\b", re.IGNORECASE)
_STATUS, _FEEDBACK = "text/x-delivery-status", "text/x-feedback-report"

_BOUNCER = re.compile(
    r"mailer-?daemon|post_?master|mail[ ._]?(?:delivery|deliver)[ ._]?(?:sub)?system|mail administrator|bounce|mmsc|delivery (?:report|status)",
    re.IGNORECASE,
)
_ABOUT_DELIVERY = re.compile(
    r"undeliver|non[- ]?deliver|delivery (?:status|failure|report|notification|has failed|problem)|returned mail|returned to sender|returning message"
    r"|failure notice|mail(?:er)? (?:delivery )?(?:fail|error|system error)|could not (?:be )?deliver|delivery .{0,20}fail|mail failed|error sending your mail",
    re.IGNORECASE,
)  # fmt: skip
_ANSWERED_BY_MACHINE = re.compile(
    r"auto[-_ ]?(?:reply|replied|response|respond)|out of (?:the )?office|vacation|automatic reply|abwesen|absence du bureau|fuera de la oficina",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """What a mail is."""

    #: A delivery report or a complaint.
    REPORT = "report"
    #: It looks like a bounce, but in an unknown form.
    NOT_UNDERSTOOD = "not_understood"
    #: An automatic reply, such as "out of office".
    AUTO_REPLY = "auto_reply"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Reading:
    """The kind of one mail, and its reports."""

    kind: Kind
    reports: tuple[Report, ...] = ()


def read(content: bytes) -> Reading:
    """The kind of a mail and its reports; raises :class:`~worker.bounces.report.Unreadable`."""
    content = _FEEDBACK_TYPES.sub(_FEEDBACK.encode(), _STATUS_TYPES.sub(_STATUS.encode(), content[:LIMIT]))
    if content.lower().count(b"content-type:") > _MOST_PARTS or content.count(b"\n--") > _MOST_ENDS:
        raise Unreadable("too many parts")
    if _LONG_BOUNDARY.search(content):
        raise Unreadable("boundary too long")
    try:
        return _read(message_from_bytes(content, policy=policy.compat32))
    except Exception as error:  # noqa: BLE001 - a hostile mail can make the standard library raise any error
        raise Unreadable(type(error).__name__) from None


def parse(content: bytes) -> list[Report]:
    """The reports in a mail, perhaps none; raises :class:`~worker.bounces.report.Unreadable`."""
    return list(read(content).reports)


def _read(mail: Message) -> Reading:
    reports = list(_structured(mail))
    if reports:
        return Reading(Kind.REPORT, tuple(reports))
    if not _looks_like_bounce(mail):
        return Reading(Kind.AUTO_REPLY if _is_auto_reply(mail) else Kind.OTHER)
    reports = list(_prose(mail))
    return Reading(Kind.REPORT, tuple(reports)) if reports else Reading(Kind.NOT_UNDERSTOOD)


def _structured(mail: Message) -> Iterator[Report]:
    """The reports of every part that has fields of RFC 3464 or RFC 5965."""
    if mail.get_content_type() == _STATUS:
        yield from _statuses(mail, text_of(mail), None, mail, "")
    waiting = [mail]
    while waiting:
        part = waiting.pop()
        parts = children(part)
        kinds = {child.get_content_type() for child in parts}
        if not kinds & {
            _STATUS,
            _FEEDBACK,
        }:  # the other parts of a report are not searched: the returned mail may itself be a report
            waiting += reversed(parts)
            continue
        original = _original(parts)
        for child in parts:
            kind = child.get_content_type()
            if kind == _STATUS:
                prose = "\n".join(
                    before_copy(text)
                    for each in parts
                    if each.get_content_maintype() in {"text", "multipart"}
                    and each.get_content_type() not in {_STATUS, _FEEDBACK}
                    for text in texts(each)
                )
                yield from _statuses(mail, text_of(child), original, part, prose)
            elif kind == _FEEDBACK:
                yield from _complaint(mail, text_of(child), original)


def _statuses(mail: Message, text: str, original: Message | None, container: Message, prose: str) -> Iterator[Report]:
    fields = message_fields(text)
    tokens = (
        *tokens_of_original(original),
        *(
            token
            for value in (fields.get_all("X-Original-Message-ID") or ())
            for token in tokens_of_original(headers_in(f"Message-ID: {value}"))
        ),
        *tokens_of_report(mail),
        *tokens_of_report(container),
    )
    text_by_address = {block.address: block.text for block in blocks(prose)} if prose else {}
    all_recipients = list(recipients(text))
    for recipient in all_recipients:
        context = next((text_by_address[address] for address in recipient.addresses if address in text_by_address), "")
        if len(all_recipients) == 1 or not context:
            context = prose
        classified = classify(
            status=recipient.status, answer=recipient.answer, action=recipient.action, context=context
        )
        if not recipient.answer and classified.outcome is BounceOutcome.REFUSED and context:
            classified = classify(
                status=recipient.status, answer=" ".join(context.split()), action=recipient.action, context=prose
            )
        yield _report(classified, tokens, recipient.addresses, original)


def _complaint(mail: Message, text: str, original: Message | None) -> Iterator[Report]:
    addresses = complainants(text, original)
    if addresses is not None:
        tokens = (*tokens_of_original(original), *tokens_of_report(mail))
        yield _report(Classified(outcome=BounceOutcome.COMPLAINT, evidence="complaint"), tokens, addresses, original)


def _prose(mail: Message) -> Iterator[Report]:
    original = _original(children(mail))
    for text in texts(mail):
        own_text = before_copy(text)
        tokens = (*tokens_of_original(original), *tokens_of_text(text), *tokens_of_report(mail))
        reports = list(
            _from_fields(own_text, tokens, original)
            if has_fields(own_text)
            else _from_words(own_text, tokens, original)
        )
        if reports:
            yield from reports
            return


def _from_fields(text: str, tokens: tuple[str, ...], original: Message | None) -> Iterator[Report]:
    for recipient in recipients(text):
        yield _report(
            classify(status=recipient.status, answer=recipient.answer, action=recipient.action, context=text),
            tokens,
            recipient.addresses,
            original,
        )


def _from_words(text: str, tokens: tuple[str, ...], original: Message | None) -> Iterator[Report]:
    delayed = is_delay(text)
    all_blocks = list(blocks(text))
    for block in all_blocks:
        context = text if len(all_blocks) == 1 else ""
        classified = classify(answer=block.text, action="delayed" if delayed else "failed", context=context)
        yield _report(classified, tokens, (block.address,) if block.address else (), original)


def _report(
    classified: Classified, tokens: tuple[str, ...], addresses: tuple[str, ...], original: Message | None
) -> Report:
    if not addresses and original is not None:
        addresses = tuple(spec for each in addresses_in(original.get("To")) if (spec := spec_of(each)))
    sender = next(iter(addresses_in(original.get("From"))), None) if original is not None else None
    return Report(
        outcome=classified.outcome,
        code=classified.code,
        evidence=classified.evidence,
        tokens=tuple(dict.fromkeys(tokens)),
        addresses=addresses,
        sender=address_in(sender),
    )


def _original(parts: list[Message]) -> Message | None:
    """The header of our mail, if the report returns it."""
    for child in parts:
        inner = child.get_payload()
        kind = child.get_content_type()
        if kind == "text/rfc822-headers":
            return headers_in(text_of(child))
        if child.get_content_maintype() == "message" and isinstance(inner, list) and isinstance(inner[0], Message):
            return inner[0]
    return None


def _looks_like_bounce(mail: Message) -> bool:
    sender, subject = _decoded(mail, "From"), _decoded(mail, "Subject")
    if _is_auto_reply(mail) and not _BOUNCER.search(sender):
        return False
    no_sender = [str(mail.get(name, "x")).strip(" <>") == "" for name in ("Return-Path", "From")]
    return bool(_BOUNCER.search(sender) or _ABOUT_DELIVERY.search(subject) or any(no_sender))


def _is_auto_reply(mail: Message) -> bool:
    """Whether the mail has the field of RFC 3834, an older field, or the subject of an automatic reply."""
    if str(mail.get("Auto-Submitted") or "").strip().lower().startswith("auto-replied"):
        return True
    older = any(mail.get(name) for name in ("X-Autoreply", "X-Autorespond", "X-Auto-Response", "X-Autoresponder"))
    precedence = str(mail.get("Precedence") or "").strip().lower()
    return older or precedence == "auto_reply" or bool(_ANSWERED_BY_MACHINE.search(_decoded(mail, "Subject")))


def _decoded(mail: Message, name: str) -> str:
    value = str(mail.get(name) or "")[:1000]
    try:
        return str(make_header(decode_header(value)))
    except (ValueError, LookupError, UnicodeError):  # HeaderParseError is a ValueError
        return value
