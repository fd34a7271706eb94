"""The message that one user would be sent, built as the deliver stage builds it, and not sent.

MX is not asked. With ``PUBLIC_BASE_URL`` the message has a sample of our link. Without it, a bank without a stored window has a
placeholder link. A note says so. For a user with nothing broken, the preview is an example about all their banks.
"""

import email
import email.policy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from worker.channels import Bank, DurableLink, Message
from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.channels.email.message import Composer, Mail
from worker.channels.messenger.request import content as request_content
from worker.channels.push.text import word
from worker.cli.meaning import nearest_guid
from worker.cli.session import when
from worker.errors import WorkerError
from worker.mx.uris import check_uri
from worker.policy.channel_choice import EMAIL, MESSENGER, Nobody, Route, choose
from worker.policy.links import page_address, unsubscribe_address
from worker.policy.notices import is_near
from worker.policy.selection import Reason, classify
from worker.runtime import Runtime
from worker.stages.planning import SOON, zone_of_message
from worker.store.queries.previewing import KnownMember, OpenReconnection, Picture, PreviewStore
from worker.store.transactions.deliver import DeliverStore
from worker.store.users import User

#: The link of a bank without a stored window. The domain never resolves (RFC 6761), and the path says why.
PLACEHOLDER = "https://placeholder.invalid/the-link-is-asked-of-MX-when-the-message-is-sent"
#: Replaces the token of our own link, and says so. There is no page under it.
_SAMPLE = "this-is-a-sample-and-each-message-gets-its-own"
_OUR_SAMPLE = "The link is a sample that leads nowhere: each message gets its own when it is sent. `reconnect link` makes one now."
_NOBODY = "nobody@placeholder.invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A message and notes about it."""

    channel: str
    #: The subject of a mail, the title of a push message. The fields that are ``None`` by default are those of a mail.
    #: For the messenger ``text`` is the request's body.
    subject: str
    text: str
    sender: str | None = None
    recipient: str | None = None
    language: str
    html: str | None = None
    #: Sentences for the operator.
    notes: tuple[str, ...]

    def __repr__(self) -> str:  # addresses and links are in it
        return f"Preview({self.channel})"


async def preview(runtime: Runtime, user_guid: str, channel: str | None) -> Preview:
    """The message that this user would be sent, on ``channel``, by default the one that the worker would use. Raises :class:`WorkerError`."""
    now = await runtime.set_clock()
    picture = await PreviewStore(runtime.database).picture(user_guid)
    if picture is None:
        suggestion = await nearest_guid(runtime.database, user_guid)
        raise WorkerError(
            f"{user_guid} is not in the database: import it, or let your application write it{suggestion}"
        )
    user = (await DeliverStore(runtime.database).users({user_guid}, since=now))[user_guid]
    channel = channel or _channel(runtime, picture, user)
    unmuted = tuple(each for each in picture.open_reconnections if not each.muted)
    muted = len(picture.open_reconnections) - len(unmuted)
    # If every open reconnection is muted, the preview shows the message that they would get without that.
    content = _content(runtime, replace(picture, open_reconnections=unmuted) if unmuted else picture, now)
    notes = content.notes
    if muted:
        notes.append(
            f"Of {muted} broken banks the user wants no messages (members.muted_at): "
            + ("they are left out." if unmuted else "nothing would be sent.")
        )
    route = choose(user.contact, configured={channel})
    if not isinstance(route, Route):
        notes.append(f"Nothing would be sent by {channel} now: {route.code}.")
    elif channel not in runtime.channels:
        notes.append(f"Nothing would be sent by {channel} now: it is not configured.")
    message = Message(
        key=picture.pending.message_key if picture.pending else "preview",
        address=_address(route, user, channel),
        locale=user.locale,
        time_zone=zone_of_message(user, runtime.settings),
        step=content.step,
        banks=tuple(content.banks),
        ahead=content.ahead,
    )
    if (link := _sample_link(runtime, now)) is not None:
        banks = tuple(replace(bank, link=link.page) for bank in message.banks)
        message = replace(message, banks=banks, link=link)
    if channel == MESSENGER:
        return _request(runtime, message, notes)
    return _mail(runtime, message, notes) if channel == EMAIL else _push(runtime, message, channel, notes)


def _channel(runtime: Runtime, picture: Picture, user: User) -> str:
    if picture.pending is not None:
        return picture.pending.channel
    route = choose(
        user.contact, configured=runtime.channels.keys(), failed=user.failed_channels, tried=user.failed_devices
    )
    return route.channel if isinstance(route, Route) else EMAIL


def _address(route: Route | Nobody, user: User, channel: str) -> str:
    if isinstance(route, Route):
        return route.address
    return user.user_guid if channel == MESSENGER else user.contact.email or _NOBODY


def _sample_link(runtime: Runtime, now: datetime) -> DurableLink | None:
    """Our own link as a message would carry it, with a sample instead of a token. Nothing is stored."""
    base = runtime.settings.public_base_url
    if base is None:
        return None
    return DurableLink(
        page=page_address(base, _SAMPLE),
        unsubscribe=unsubscribe_address(base, _SAMPLE),
        until=now + timedelta(days=runtime.settings.link_days),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Content:
    """What a message is about, and notes for the operator."""

    banks: list[Bank]
    notes: list[str]
    step: int = 0
    ahead: bool = False

    def __repr__(self) -> str:
        return f"_Content({self.step})"


def _content(runtime: Runtime, picture: Picture, now: datetime) -> _Content:
    """The content of the pending message, else of the next one, else of an example."""
    if picture.pending is not None:
        waiting = [
            reconnection for reconnection in picture.open_reconnections if reconnection.notification_id is not None
        ]
        if waiting:
            banks, notes = _banks(runtime, waiting)
            notes = ["This message waits to be delivered.", *notes]
            return _Content(banks=banks, notes=notes, step=picture.pending.step, ahead=_are_notices(waiting))
    if together := _next_together(picture.open_reconnections, now):
        banks, notes = _banks(runtime, together)
        dates = [reconnection.next_attempt_at for reconnection in together if reconnection.next_attempt_at]
        earliest = f", {when(min(dates))} at the earliest" if dates and min(dates) > now else ""
        notes = [f"No message waits to be delivered; this is the next one{earliest}.", *notes]
        return _Content(banks=banks, notes=notes, step=_step(together), ahead=_are_notices(together))
    return _example(runtime, picture.members, now)


def _are_notices(open_reconnections: Sequence[OpenReconnection]) -> bool:
    return all(reconnection.reason == Reason.EXPIRES_SOON for reconnection in open_reconnections)


def _next_together(open_reconnections: Sequence[OpenReconnection], now: datetime) -> list[OpenReconnection]:
    """The reconnections that the fetch stage will put into one message: the first that is due, and those due within ``SOON`` of it.
    Broken members go before notices."""
    open_reconnections = [
        reconnection
        for reconnection in open_reconnections
        if reconnection.next_attempt_at is not None or reconnection.reason != Reason.EXPIRES_SOON
    ]
    dates = [
        reconnection.next_attempt_at for reconnection in open_reconnections if reconnection.next_attempt_at is not None
    ]
    until = max(min(dates, default=now), now) + SOON
    soon = [
        reconnection
        for reconnection in open_reconnections
        if reconnection.next_attempt_at is None or reconnection.next_attempt_at <= until
    ]
    return [reconnection for reconnection in soon if reconnection.reason != Reason.EXPIRES_SOON] or soon


def _step(open_reconnections: Sequence[OpenReconnection]) -> int:
    """The step, as the fetch stage counts it. A message is a first message if it is the first about one of its banks."""
    if any(reconnection.first_notified_at is None for reconnection in open_reconnections):
        return 0
    return min(reconnection.step - reconnection.base_step for reconnection in open_reconnections)


def _banks(runtime: Runtime, open_reconnections: Sequence[OpenReconnection]) -> tuple[list[Bank], list[str]]:
    if runtime.settings.public_base_url is not None:
        banks = [_bank(each, since=each.broken_since, link=PLACEHOLDER) for each in open_reconnections]
        return banks, [_OUR_SAMPLE]
    banks, problems, stored = [], [], []
    for reconnection in open_reconnections:
        link = PLACEHOLDER
        if reconnection.encrypted_uri is not None:
            link = runtime.vault.decrypt(reconnection.encrypted_uri)
            problem = check_uri(link, host_is_allowed=runtime.settings.uri_host_is_allowed)
            if problem is None:
                stored.append(reconnection.fetched_at)
            else:
                problems.append(f"A stored link would be refused ({problem}), and the message would not be sent.")
                link = PLACEHOLDER
        banks.append(_bank(reconnection, since=reconnection.broken_since, link=link))
    notes = []
    if stored:
        oldest = min((at for at in stored if at is not None), default=None)
        notes.append(f"The link is real, stored {when(oldest)}: whoever opens it uses it up.")
    if any(bank.link == PLACEHOLDER for bank in banks):
        notes.append("Links that are not stored are placeholders; nothing was asked of MX.")
    return banks, [*notes, *problems]


def _example(runtime: Runtime, members: Sequence[KnownMember], now: datetime) -> _Content:
    statuses, days = runtime.settings.reconnect_statuses, runtime.settings.expiry_notice_days
    link_note = "The links are placeholders; nothing was asked of MX."
    if runtime.settings.public_base_url is not None:
        link_note = _OUR_SAMPLE
    selections = [(member, classify(member.facts, statuses=statuses, now=now)) for member in members]
    broken = [
        _bank(member, since=selection.since or now, link=PLACEHOLDER)
        for member, selection in selections
        if selection.broken
    ]
    if broken:
        note = "No reconnection is open yet; the next sweep opens it."
        return _Content(banks=broken, notes=[note, link_note])
    expiring = [
        _bank(member, since=member.facts.token_expires_at or now, link=PLACEHOLDER)
        for member in members
        if is_near(member.facts, statuses=statuses, days=days, now=now)
    ]
    if expiring:
        note = "No member of this user is broken; this is the notice ahead of an expiry (EXPIRY_NOTICE_DAYS)."
        return _Content(banks=expiring, notes=[note, link_note], ahead=True)
    if members:
        banks = [_bank(member, since=now, link=PLACEHOLDER) for member in members]
        note = "No member of this user is broken; this is how a message about all their banks would look."
        return _Content(banks=banks, notes=[note, link_note])
    example = Bank(name="Example Bank", since=now, link=PLACEHOLDER)
    note = "This user has no members; this is how a message would look."
    return _Content(banks=[example], notes=[note, link_note])


def _bank(source: OpenReconnection | KnownMember, *, since: datetime, link: str) -> Bank:
    return Bank(name=source.institution_name or source.institution_code or "", since=since, link=link)


def _mail(runtime: Runtime, message: Message, notes: list[str]) -> Preview:
    composer = Composer(runtime.settings)
    try:
        parse_mailbox(message.address)
    except NotAMailbox:
        notes.append(f"No mail can be sent to the user's e-mail address; the preview shows {_NOBODY} instead.")
        message = replace(message, address=_NOBODY)
    mail = composer.build(message)
    if not isinstance(mail, Mail):
        raise WorkerError(f"preview: the mail cannot be built ({mail.code})")
    parsed = email.message_from_bytes(mail.content, policy=email.policy.SMTPUTF8)
    parts = {}
    for kind in ("plain", "html"):
        part = parsed.get_body((kind,))
        parts[kind] = str(part.get_content()).replace("\r\n", "\n") if part is not None else ""
    return Preview(
        channel=EMAIL,
        sender=str(parsed["From"]),
        recipient=str(parsed["To"]),
        subject=str(parsed["Subject"]),
        text=parts["plain"],
        html=parts["html"],
        language=str(parsed["Content-Language"]),
        notes=tuple(notes),
    )


def _push(runtime: Runtime, message: Message, channel: str, notes: list[str]) -> Preview:
    text = word(message, app=runtime.settings.sender_name, default_locale=runtime.settings.default_locale)
    return Preview(channel=channel, subject=text.title, text=text.body, language=text.language, notes=tuple(notes))


def _request(runtime: Runtime, message: Message, notes: list[str]) -> Preview:
    if message.link is None:
        raise WorkerError("preview: a message to your messenger carries our own link: set PUBLIC_BASE_URL")
    settings = runtime.settings
    fields = request_content(message, message.link, app=settings.sender_name, default_locale=settings.default_locale)
    return Preview(
        channel=MESSENGER,
        subject=fields["text"]["title"],
        text=json.dumps(fields, ensure_ascii=False, indent=2),
        language=fields["text"]["language"],
        notes=tuple(notes),
    )
