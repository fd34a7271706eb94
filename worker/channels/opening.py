"""The channels that are configured, by their kind; a channel's own packages are imported only when it is."""

from worker.channels import Channel
from worker.channels.wording.languages import checked_default
from worker.settings import Settings


def open_channels(settings: Settings, *, data_patience: float) -> dict[str, Channel]:
    """Make every configured channel for the running loop; nothing connects yet.

    ``data_patience`` is how long a mail server may take over a mail, in seconds. Raises :class:`WorkerError` in one line where a
    channel's packages or keys are missing.
    """
    channels: list[Channel] = []
    if settings.smtp_url is not None:
        from worker.channels.email.channel import EmailChannel

        channels.append(EmailChannel(settings, data_patience=data_patience))
    if settings.fcm_service_account_file is not None:
        channels.append(_fcm(settings))
    if settings.apns_key_file is not None:
        channels.append(_apns(settings))
    if settings.webpush_vapid_key_file is not None:
        channels.append(_webpush(settings))
    return {channel.kind: channel for channel in channels}


def check_channels(settings: Settings) -> None:
    """Read all that sending will need: the sender's address, templates, and the push services' key files.

    Raises :class:`WorkerError` in one line where something is missing or cannot be used, also where a package is not installed.
    """
    if settings.templates_dir is not None:  # also where no mail server is set yet
        from worker.channels.email.texts import texts_for

        texts_for(settings)
    open_channels(settings, data_patience=0)  # making a channel connects to nothing, so there is nothing to close


def _fcm(settings: Settings) -> Channel:
    from worker.channels.push.fcm.channel import FcmChannel
    from worker.channels.push.fcm.config import FcmConfig

    assert settings.fcm_service_account_file is not None  # noqa: S101 - the caller has looked
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


def _apns(settings: Settings) -> Channel:
    from worker.channels.push.apns.channel import ApnsChannel
    from worker.channels.push.apns.config import ApnsConfig

    assert settings.apns_key_file is not None  # noqa: S101 - the caller has looked
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


def _webpush(settings: Settings) -> Channel:
    from worker.channels.push.webpush.channel import WebPushChannel
    from worker.channels.push.webpush.config import WebPushConfig

    assert settings.webpush_vapid_key_file is not None  # noqa: S101 - the caller has looked
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


def configured_kinds(settings: Settings) -> tuple[str, ...]:
    """The channels that :func:`open_channels` would make, without making them."""
    switches = {
        "email": settings.smtp_url,
        "fcm": settings.fcm_service_account_file,
        "apns": settings.apns_key_file,
        "webpush": settings.webpush_vapid_key_file,
    }
    return tuple(kind for kind, switch in switches.items() if switch is not None)
