"""On which channel, and to which address?"""

from collections.abc import Collection, Sequence

import msgspec

EMAIL = "email"
#: The company's own messenger, which finds the address by the user's GUID.
MESSENGER = "messenger"
#: Channels on which a user has one address. On the others they have devices.
ONE_ADDRESS = (EMAIL, MESSENGER)
#: The values of ``devices.device_kind``. A new kind of device is added here, and its synonyms in ``policy/columns.py``. Both belong to
#: the meaning of the database's columns.
DEVICE_CHANNELS = ("fcm", "apns", "webpush")
#: What ``users.channel`` may hold: a preference, or ``none`` for users who want no messages.
CHOICES = (EMAIL, "push", *DEVICE_CHANNELS, MESSENGER, "none")

#: At most so many devices of a kind are tried for a user within a day; then the next kind is tried.
MOST_DEVICES = 5


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """How a user can be reached."""

    preferred: str | None = None
    email: str | None = None
    #: The address that a mail server refused for good. Another mail to it would only harm the sender's reputation.
    refused_email: str | None = None
    opted_out: bool = False
    #: (kind, address) of the devices that take push messages, the newest first.
    devices: Sequence[tuple[str, str]] = ()
    #: The GUID by which the company's messenger finds the user; ``None``: the application has no row for them.
    messenger: str | None = None
    #: The messenger answered within the last 30 days that it cannot reach the user.
    messenger_refused: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A channel and an address on it."""

    channel: str
    address: str

    def __repr__(self) -> str:
        return f"Route({self.channel})"


class Nobody(msgspec.Struct, frozen=True, kw_only=True):
    """This user cannot be reached; ``code`` says why.

    ``every_channel_failed`` is stored nowhere: if it is the answer, the stages choose again without ``failed`` and ``tried``, because a
    channel that failed is better than none.
    """

    code: str


def choose(
    contact: Contact,
    *,
    configured: Collection[str],
    failed: Collection[str] = (),
    tried: Collection[tuple[str, str]] = (),
) -> Route | Nobody:
    """The preferred channel if it can be used, else the first usable one. Of several devices of one kind, the newest.

    ``configured``: the channels; kinds of devices are tried in this order. ``failed``: channels that refused for good. ``tried``:
    devices, as (kind, address), that refused for good. After :data:`MOST_DEVICES` devices of a kind no other of that kind is tried.

    The order, by what the user prefers:

    - nothing, or ``email``: email, devices, messenger
    - ``push``: devices, email, messenger
    - a kind of device: that kind, the other kinds, email, messenger
    - ``messenger``: messenger, email, devices
    """
    if contact.opted_out or contact.preferred == "none":
        return Nobody(code="opted_out")
    worn_out = {kind for kind in configured if sum(tried_kind == kind for tried_kind, _ in tried) >= MOST_DEVICES}
    usable_devices = [
        (kind, address) for kind, address in contact.devices if (kind, address) not in tried and kind not in worn_out
    ]
    addresses = dict(reversed(usable_devices))
    if contact.email and contact.email != contact.refused_email:
        addresses[EMAIL] = contact.email
    if (
        contact.messenger
        and not contact.messenger_refused
        and (MESSENGER in configured or contact.preferred == MESSENGER)
    ):
        addresses[MESSENGER] = contact.messenger
    if not addresses and not contact.devices:
        return Nobody(code="address_refused" if contact.email else "no_address")
    of_devices = [channel for channel in configured if channel not in ONE_ADDRESS]
    if contact.preferred == EMAIL or not contact.preferred:
        order = [EMAIL, *of_devices]
    elif contact.preferred == "push":
        order = [*of_devices, EMAIL]
    elif contact.preferred == MESSENGER:
        order = [MESSENGER, EMAIL, *of_devices]
    else:
        order = [str(contact.preferred), *of_devices, EMAIL]
    for channel in dict.fromkeys([*order, MESSENGER]):
        if channel in addresses and channel in configured and channel not in failed:
            return Route(channel=channel, address=addresses[channel])
    return Nobody(code="every_channel_failed" if failed or tried else "channel_not_configured")
