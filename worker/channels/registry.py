"""Every kind of channel there is, and those of them that are configured. A channel's own packages are imported only when it is."""

from worker.channels import Channel, ChannelKind
from worker.channels.email.kind import EMAIL
from worker.channels.push.apns.kind import APNS
from worker.channels.push.fcm.kind import FCM
from worker.channels.push.webpush.kind import WEBPUSH
from worker.settings import Settings

#: In the order in which they are tried for a customer who prefers none of them.
KINDS: tuple[ChannelKind, ...] = (EMAIL, FCM, APNS, WEBPUSH)


def names() -> tuple[str, ...]:
    """The names of all kinds."""
    return tuple(kind.name for kind in KINDS)


def configured(settings: Settings) -> tuple[ChannelKind, ...]:
    """The kinds that these settings switch on, without opening them."""
    return tuple(kind for kind in KINDS if kind.is_configured(settings))


def switches() -> dict[str, str]:
    """For each kind's name the setting that switches it on."""
    return {kind.name: kind.switch for kind in KINDS}


def open_channels(settings: Settings, *, data_patience: float) -> dict[str, Channel]:
    """Make every configured channel for the running loop; nothing connects yet.

    ``data_patience`` is how long a mail server may take over a mail, in seconds. Raises :class:`WorkerError` in one line where a
    channel's packages or keys are missing.
    """
    return {kind.name: kind.open(settings, data_patience) for kind in configured(settings)}


def check_channels(settings: Settings) -> None:
    """Read all that sending will need: the sender's address, templates, and the push services' key files.

    Raises :class:`WorkerError` in one line where something is missing or cannot be used, also where a package is not installed.
    """
    if settings.templates_dir is not None:  # also where no mail server is set yet
        from worker.channels.email.texts import texts_for

        texts_for(settings)
    open_channels(settings, data_patience=0)  # making a channel connects to nothing, so there is nothing to close
