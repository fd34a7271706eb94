"""The registry's entry for Web Push."""

from worker.channels import Channel, ChannelKind
from worker.channels.wording.languages import checked_default
from worker.settings import Settings


def _open(settings: Settings, _data_patience: float) -> Channel:
    from worker.channels.push.webpush.channel import WebPushChannel
    from worker.channels.push.webpush.config import WebPushConfig

    assert settings.webpush_vapid_key_file is not None  # noqa: S101 - the caller checked it
    return WebPushChannel(
        WebPushConfig(
            vapid_key_file=settings.webpush_vapid_key_file,
            contact=settings.webpush_contact or "",
            app_name=settings.sender_name,
            default_locale=checked_default(settings.default_locale),
            include_link=settings.push_link,
            ttl=int(settings.push_ttl.total_seconds()),
            hosts=settings.webpush_hosts,
            allow_loopback=settings.webpush_allow_loopback,
        )
    )


WEBPUSH = ChannelKind(name="webpush", setting="webpush_vapid_key_file", open=_open)
