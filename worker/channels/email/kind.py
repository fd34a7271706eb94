"""The registry's entry for email."""

from worker.channels import Channel, ChannelKind
from worker.settings import Settings


def _open(settings: Settings, data_patience: float) -> Channel:
    from worker.channels.email.channel import EmailChannel

    return EmailChannel(settings, data_patience=data_patience)


EMAIL = ChannelKind(name="email", setting="smtp_url", open=_open)
