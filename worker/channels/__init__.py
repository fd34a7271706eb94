"""How a customer is told: one folder per channel behind one seam.

A channel takes a :class:`Message` and answers with an outcome, never with an exception: what happened to the message is a
value that the deliver stage stores. Adding a channel is adding a folder with a :class:`Channel` and a :class:`ChannelKind`, which
``registry`` lists; docs/developing.md has the steps.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from worker.settings import Settings

#: A message names no more banks than this, and says how many more there are and where to find them.
MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Bank:
    """One broken connection in a message."""

    #: What the customer calls the institution.
    name: str
    #: Since when data has not come through; in a message ahead of that, when it will stop.
    since: datetime
    #: Where the customer reconnects. A secret where it is MX's own URI.
    link: str

    def __repr__(self) -> str:
        return "Bank(…)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message to one person: everything a channel needs, so that sending needs no database."""

    #: The same for every try to send this message, and for no other; identifies it towards mail servers and push services.
    key: str
    address: str
    #: BCP 47, as the user's row has it; ``None`` where unknown.
    locale: str | None
    time_zone: str
    #: 0 for the first message of a reconnection, then 1, 2, … for its reminders.
    step: int
    banks: tuple[Bank, ...]
    #: Further banks that it is about; they are told of by their number alone.
    more: int = 0
    #: Nothing is broken yet: the permission runs out soon, and the customer may renew it before.
    ahead: bool = False

    @property
    def count(self) -> int:
        """How many banks it is about."""
        return len(self.banks) + self.more

    @property
    def named(self) -> tuple[Bank, ...]:
        """The banks that it names."""
        return self.banks[:MOST_NAMED]

    def __repr__(self) -> str:
        return f"Message({self.key})"


class Doubt(StrEnum):
    """Who may be refused besides this one message: it decides how many alike stop the channel (``policy/streaks.py``)."""

    #: Nobody answered, or nobody who takes mail from us: no message can go.
    UNREACHABLE = "unreachable"
    #: It may be us: our sender, our relay, a quota. A server that does not know us says so for each message.
    US = "us"
    #: It speaks of this recipient or message. Only where nearly all are refused so is it not about them.
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What makes refusals alike."""

    #: A phrase for people, made of our own words and a reply's numbers: ``554 5.7.1 at RCPT``.
    what: str
    doubt: Doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The other side took responsibility for the message."""

    code: str = "sent"


@dataclass(frozen=True, kw_only=True, slots=True)
class TryLater:
    """It was certainly not sent, and may be later."""

    code: str
    #: Seconds to wait, where the other side said so.
    after: float | None = None
    #: The whole channel is to slow down (421, 454, 429), not this message alone.
    whole_channel: bool = False
    #: ``None``: it says nothing of other messages.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadAddress:
    """The address does not exist (any more): it is suppressed, and another address or channel may be tried."""

    code: str
    #: Our settings may be to blame instead: it is suppressed all the same, and somebody is told.
    doubtful: bool = False
    #: ``None``: it says nothing of other messages.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """This message was refused for good; the address is not to blame."""

    code: str
    #: ``None``: it says nothing of other messages.
    refusal: Refusal | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelDown:
    """Our credentials or configuration are refused: nothing can be sent on this channel until somebody mends it."""

    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """The answer was lost after dispatch began: it may or may not have been delivered. Never sent again by guesswork."""

    code: str
    #: ``None``: it says nothing of other messages.
    refusal: Refusal | None = field(default=None, compare=False)


Outcome = Sent | TryLater | BadAddress | Failed | ChannelDown | Unknown

#: Awaited by a channel right before the point of no return; returns once "dispatch began" is on record.
Dispatching = Callable[[], Awaitable[None]]


class Channel(Protocol):
    """A way to reach people."""

    @property
    def kind(self) -> str:
        """The name of its :class:`ChannelKind`."""

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """Send one message; awaits ``dispatching`` before anything that cannot be undone. Never raises for the other side's doing."""

    async def check(self) -> Outcome:
        """Whether the other side would take messages from us, without sending one: ``Sent`` with the code ``ready`` if so."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelKind:
    """What the rest of the worker has to know of a channel; making one imports none of the channel's packages."""

    #: Such as ``fcm``: what ``notifications.channel`` holds, and ``devices.device_kind`` for all but email.
    name: str
    #: The field of :class:`~worker.settings.Settings` that switches it on by having a value.
    setting: str
    #: Makes the channel from the settings and the seconds that a server may take over one message. Nothing connects yet.
    open: Callable[[Settings, float], Channel]

    @property
    def switch(self) -> str:
        """The setting as people write it: ``FCM_SERVICE_ACCOUNT_FILE``."""
        return self.setting.upper()

    def is_configured(self, settings: Settings) -> bool:
        """Whether the settings switch it on."""
        return getattr(settings, self.setting, None) is not None
