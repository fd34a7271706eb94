"""The registry's entry for FCM."""

from worker.channels import Channel, ChannelKind
from worker.channels.wording.languages import checked_default
from worker.settings import Settings


def _open(settings: Settings, _data_patience: float) -> Channel:
    from worker.channels.push.fcm.channel import FcmChannel
    from worker.channels.push.fcm.config import FcmConfig

    assert settings.fcm_service_account_file is not None  # noqa: S101 - the caller checked it
    return FcmChannel(
        FcmConfig(
            service_account_file=settings.fcm_service_account_file,
            app_name=settings.sender_name,
            default_locale=checked_default(settings.default_locale),
            include_link=settings.push_link,
            ttl=int(settings.push_ttl.total_seconds()),
            base_url=settings.fcm_base_url,
            token_uri=settings.fcm_token_uri,
        )
    )


FCM = ChannelKind(name="fcm", setting="fcm_service_account_file", open=_open)
