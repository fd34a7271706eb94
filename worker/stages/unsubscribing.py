"""Opting out by a link: of all messages, or of those about one member; and taking that back.

Anyone who has the link can do this, without login (RFC 8058). It works as long as the link is stored, also after the link expired and
after all its reconnections ended. The link of a user who opted out still leads to the bank.
"""

import msgspec

from worker.policy.links import hash_of
from worker.runtime import Runtime
from worker.store.addresses import AddressStore
from worker.store.transactions.opt_out import SubscribedMember, Subscriber, SubscriptionStore


class MutableMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member about which its user may want no messages."""

    member_guid: str
    #: Of its institution, as the application wrote it; ``""`` where unknown.
    name: str
    muted: bool


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages the user of a link gets now."""

    #: As the application wrote it; ``None``: unknown.
    locale: str | None
    #: The user opted out of all messages.
    opted_out: bool
    #: The members of the link's message; without a message, those that its user has to reconnect.
    members: tuple[MutableMember, ...]


async def subscription(runtime: Runtime, token: str) -> Subscription | None:
    """Which messages the user of a link gets; ``None`` for an unknown token. Changes nothing."""
    subscriber_and_members = await _read(runtime, token)
    if subscriber_and_members is None:
        return None
    subscriber, members = subscriber_and_members
    return Subscription(
        locale=subscriber.locale,
        opted_out=subscriber.opted_out,
        members=tuple(
            MutableMember(member_guid=member.member_guid, name=member.name, muted=member.muted) for member in members
        ),
    )


async def unsubscribe(runtime: Runtime, token: str, *, member_guid: str | None = None) -> bool:
    """Send the user of a link no more messages, as `reconnect optout` does, or none about one of their members.

    ``False``: the token is unknown, the link is not about this member, or the application deleted the user. Repeating it is harmless.
    """
    subscriber_and_members = await _read(runtime, token)
    if subscriber_and_members is None:
        return False
    subscriber, members = subscriber_and_members
    now = await runtime.set_clock()
    if member_guid is None:
        return bool(await AddressStore(runtime.database).opt_out([subscriber.user_guid], now=now))
    if all(member.member_guid != member_guid for member in members):
        return False
    await SubscriptionStore(runtime.database).mute(member_guid, now=now)
    return True


async def resubscribe(runtime: Runtime, token: str, *, member_guid: str | None = None) -> bool:
    """Undo :func:`unsubscribe`: messages follow by the usual rules. Returns ``False`` in the same cases."""
    subscriber_and_members = await _read(runtime, token)
    if subscriber_and_members is None:
        return False
    subscriber, members = subscriber_and_members
    if member_guid is None:
        return bool(await AddressStore(runtime.database).opt_in([subscriber.user_guid]))
    if all(member.member_guid != member_guid for member in members):
        return False
    await SubscriptionStore(runtime.database).unmute(member_guid, now=await runtime.set_clock())
    return True


async def _read(runtime: Runtime, token: str) -> tuple[Subscriber, list[SubscribedMember]] | None:
    return await SubscriptionStore(runtime.database).read(hash_of(token))
