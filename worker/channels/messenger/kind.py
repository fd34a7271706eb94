"""The registry's entry for the company's own messenger."""

from worker.channels import Channel, ChannelKind
from worker.channels.wording.languages import checked_default
from worker.settings import Settings


def _open(settings: Settings, _data_patience: float) -> Channel:
    from worker.channels.messenger.channel import MessengerChannel
    from worker.channels.messenger.config import MessengerConfig

    assert settings.messenger_url is not None  # noqa: S101 - the caller checked it
    return MessengerChannel(
        MessengerConfig(
            url=settings.messenger_url,
            secrets=settings.events_secrets,
            app_name=settings.sender_name,
            default_locale=checked_default(settings.default_locale),
        )
    )


MESSENGER = ChannelKind(name="messenger", setting="messenger_url", open=_open)
