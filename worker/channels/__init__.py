"""Channels: how messages are sent. Each channel is one folder, and all of them have the same interface.

A channel takes a :class:`Message` and returns an outcome, which the deliver stage stores. It raises nothing for a failed message.
To add a channel, add a folder with a :class:`Channel` and a :class:`ChannelKind`, and list the kind in ``registry``;
docs/developing.md has the steps.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Protocol

from worker.settings import Settings

#: A message names at most ten banks. It says how many more there are and where to find them.
MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Bank:
    """One broken connection in a message."""

    #: What the customer calls the institution.
    name: str
    #: When data stopped coming. In a message with ``ahead``: when it will stop.
    since: datetime
    #: Where the customer reconnects. A secret if it is MX's own URI.
    link: str

    def __repr__(self) -> str:
        return "Bank(…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableLink:
    """Our own link, one for the whole message: it leads to all of its banks."""

    #: The customer's page. A secret: anyone who has it can get a window for the bank.
    page: str
    #: Where the customer asks for no more messages.
    unsubscribe: str
    #: When the link expires.
    until: datetime

    def __repr__(self) -> str:
        return "DurableLink(…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message to one user. It holds everything that a channel needs, so sending reads no database."""

    #: Identifies the message to mail servers and push services. Every attempt to send it has the same key.
    key: str
    address: str
    #: BCP 47, as the user's row has it; ``None`` if unknown.
    locale: str | None
    #: The zone of the dates in the message.
    time_zone: tzinfo
    #: 0 for the first message of a reconnection, then 1, 2, … for its reminders.
    step: int
    banks: tuple[Bank, ...]
    #: How many further banks the message is about. It says only this number, not their names.
    more: int = 0
    #: Nothing is broken yet. The customer's consent expires soon and can be renewed before that.
    ahead: bool = False
    #: The message was refused before while others were accepted. If it is refused again with 421 or 429, only this message waits.
    only_this_message: bool = False
    #: ``None``: each bank's ``link`` is MX's own URI. Otherwise each bank's ``link`` is the page of this link.
    link: DurableLink | None = None

    @property
    def count(self) -> int:
        """How many banks the message is about."""
        return len(self.banks) + self.more

    @property
    def named(self) -> tuple[Bank, ...]:
        """The banks that the message names."""
        return self.banks[:MOST_NAMED]

    def __repr__(self) -> str:
        return f"Message({self.key})"


class Doubt(StrEnum):
    """What may be the cause of a refusal. It decides after how many equal refusals the channel stops (``policy/streaks.py``)."""

    #: The server cannot be reached, or it takes no messages from us. No message can be sent.
    UNREACHABLE = "unreachable"
    #: The cause may be ours: our sender, our relay, a quota. Then every message is refused in the same way.
    US = "us"
    #: The cause is this recipient or this message, unless nearly all messages are refused in the same way.
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a message was refused. The failure streak counts refusals with the same ``what``."""

    #: A phrase for operators, made of our own words and the reply's numbers: ``554 5.7.1 at RCPT``.
    what: str
    doubt: Doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The mail server or push service accepted the message."""

    code: str = "sent"


@dataclass(frozen=True, kw_only=True, slots=True)
class TryLater:
    """The message was certainly not sent, and a retry may succeed."""

    code: str
    #: Seconds to wait before the retry, if the service named them.
    after: float | None = None
    #: Whether the whole channel must slow down (421, 454, 429), not only this message.
    whole_channel: bool = False
    #: ``None``: the failure does not count towards a failure streak.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadAddress:
    """The address does not exist, or no longer. It is suppressed; another address or channel may be tried."""

    code: str
    #: Our settings may be the cause instead. The address is suppressed all the same, and the worker logs a warning.
    doubtful: bool = False
    #: ``None``: the failure does not count towards a failure streak.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """This message was refused permanently, but not because of its address."""

    code: str
    #: ``None``: the failure does not count towards a failure streak.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelDown:
    """Our credentials or configuration are refused. Nothing can be sent on this channel until an operator corrects them."""

    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """The answer was lost after dispatch began. The message may have been delivered, so it is not sent again unless
    ``AMBIGUOUS_SENDS`` is ``resend``.
    """

    code: str
    #: ``None``: the failure does not count towards a failure streak.
    refusal: Refusal | None = field(default=None, compare=False)


Outcome = Sent | TryLater | BadAddress | Failed | ChannelDown | Unknown

#: Commits "dispatch began". A channel awaits it right before the message can leave.
Dispatching = Callable[[], Awaitable[None]]


class Channel(Protocol):
    """A way to reach users."""

    @property
    def kind(self) -> str:
        """The name of its :class:`ChannelKind`."""

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """Send one message. Returns an outcome also if the service fails.

        Awaits ``dispatching`` right before the message can leave, and lets its exceptions pass: after one of them the message must not
        leave, because it was not recorded that it may have.
        """

    async def check(self) -> Outcome:
        """Whether the service would take messages from us: ``Sent`` with the code ``ready`` if so. Sends no message."""

    async def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelKind:
    """What the rest of the worker knows about a channel. Making one imports none of the channel's packages."""

    #: The value of ``notifications.channel``, such as ``fcm``; for push also of ``devices.device_kind``.
    name: str
    #: The field of :class:`~worker.settings.Settings` that switches the channel on if it has a value.
    setting: str
    #: Makes the channel. Takes the settings, and the seconds that a server may take to accept one message. Nothing connects yet.
    open: Callable[[Settings, float], Channel]

    @property
    def switch(self) -> str:
        """The setting's name in the environment: ``FCM_SERVICE_ACCOUNT_FILE``."""
        return self.setting.upper()

    def is_configured(self, settings: Settings) -> bool:
        """Whether the settings switch it on."""
        return getattr(settings, self.setting, None) is not None
