"""The registry's entry for APNs."""

from worker.channels import Channel, ChannelKind
from worker.channels.wording.languages import checked_default
from worker.settings import Settings


def _open(settings: Settings, _data_patience: float) -> Channel:
    from worker.channels.push.apns.channel import ApnsChannel
    from worker.channels.push.apns.config import ApnsConfig

    assert settings.apns_key_file is not None  # noqa: S101 - the caller checked it
    return ApnsChannel(
        ApnsConfig(
            key_file=settings.apns_key_file,
            key_id=settings.apns_key_id or "",
            team_id=settings.apns_team_id or "",
            topic=settings.apns_topic or "",
            app_name=settings.sender_name,
            default_locale=checked_default(settings.default_locale),
            sandbox=settings.apns_sandbox,
            include_link=settings.push_link,
            ttl=int(settings.push_ttl.total_seconds()),
            base_url=settings.apns_base_url,
        )
    )


APNS = ChannelKind(name="apns", setting="apns_key_file", open=_open)
