"""All kinds of channels, and which of them are configured. A channel's packages are imported only if it is configured."""

from worker.channels import Channel, ChannelKind
from worker.channels.email.kind import EMAIL
from worker.channels.messenger.kind import MESSENGER
from worker.channels.push.apns.kind import APNS
from worker.channels.push.fcm.kind import FCM
from worker.channels.push.webpush.kind import WEBPUSH
from worker.settings import Settings

#: In the order in which they are tried for a user without a preferred channel.
KINDS: tuple[ChannelKind, ...] = (EMAIL, FCM, APNS, WEBPUSH, MESSENGER)


def names() -> tuple[str, ...]:
    """The names of all kinds."""
    return tuple(kind.name for kind in KINDS)


def configured(settings: Settings) -> tuple[ChannelKind, ...]:
    """The kinds that these settings switch on, without opening them."""
    return tuple(kind for kind in KINDS if kind.is_configured(settings))


def switches() -> dict[str, str]:
    """The setting that switches each kind on, by the kind's name: ``{"email": "SMTP_URL", …}``."""
    return {kind.name: kind.switch for kind in KINDS}


def open_channels(settings: Settings, *, data_patience: float) -> dict[str, Channel]:
    """Make every configured channel for the running event loop; nothing connects yet.

    ``data_patience`` is how many seconds to wait for a mail server's reply to a mail's content. Raises :class:`WorkerError`, in
    one line, if a channel's packages or keys are missing.
    """
    return {kind.name: kind.open(settings, data_patience) for kind in configured(settings)}


def check_channels(settings: Settings) -> None:
    """Read what sending needs: the sender's address, the templates, the push services' key files.

    Raises :class:`WorkerError`, in one line, if a setting, file or package is missing or unusable.
    """
    if settings.templates_dir is not None:  # checked even if no mail server is set yet
        from worker.channels.email.texts import texts_for

        texts_for(settings)
    open_channels(settings, data_patience=0)  # making a channel connects to nothing, so there is nothing to close
