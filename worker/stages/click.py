"""A press of a link's button: what the customer gets."""

from datetime import datetime, timedelta

import msgspec

from worker.runtime import Runtime


class LeadsTo(msgspec.Struct, frozen=True):
    """The customer is led to their bank."""

    #: A secret.
    uri: str

    def __repr__(self) -> str:
        return "LeadsTo()"


class Back(msgspec.Struct, frozen=True):
    """The bank is connected already."""

    name: str


class TryAgain(msgspec.Struct, frozen=True):
    """MX or the bank failed, or all is paused: the link stays alive. ``after``: how long MX asked to wait, if it did."""

    after: timedelta | None = None


class TooMany(msgspec.Struct, frozen=True):
    """So many windows were asked for by this link that no more are before ``until``."""

    until: datetime


class Ended(msgspec.Struct, frozen=True):
    """Nothing can be done by this link any more. ``why``: the state that the reconnection ended in."""

    why: str


class Choose(msgspec.Struct, frozen=True):
    """The link is about several banks, and none was named."""


class NoLink(msgspec.Struct, frozen=True):
    """The token is unknown, or expired."""


Answer = LeadsTo | Back | TryAgain | TooMany | Ended | Choose | NoLink


async def click(runtime: Runtime, token: str, *, reconnection_id: int | None, nonce: str) -> Answer:  # noqa: ARG001
    """Answer one press of a link's button."""
    return NoLink()
