"""The settings of push: FCM for Android, APNs for Apple, Web Push for browsers. Each is off until its key file is named."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from worker.settings.urls import service_url
from worker.settings.values import parse_contact, parse_duration, parse_words, parsed


class PushSettings(BaseModel):
    """A part of :class:`worker.settings.Settings`."""

    fcm_service_account_file: Path | None = Field(
        None,
        description="Google's JSON key of a service account that may send; it names the project too. Unset: no FCM.",
    )
    fcm_base_url: str = Field("https://fcm.googleapis.com", description="FCM's URL; change it only for a look-alike.")
    fcm_token_uri: str | None = Field(
        None, description="Where access tokens for FCM come from; unset: as the key file says."
    )
    apns_key_file: Path | None = Field(None, description="Apple's .p8 key. Unset: no APNs.")
    apns_key_id: str | None = Field(None, description="The ten characters by which Apple knows the key.")
    apns_team_id: str | None = Field(None, description="The ten characters of the developer team.")
    apns_topic: str | None = Field(None, description="The app's bundle identifier.")
    apns_sandbox: bool = Field(
        False, description="true: Apple's development environment, which has device tokens of its own."
    )
    apns_base_url: str | None = Field(None, description="APNs' URL; set it only for a look-alike.")
    webpush_vapid_key_file: Path | None = Field(
        None, description="The private VAPID key on P-256, PEM or base64url. Unset: no Web Push."
    )
    webpush_contact: str | None = Field(
        None, description="mailto: or https: on a real domain, with which a push service's operator can reach you."
    )
    webpush_hosts: Annotated[tuple[str, ...], *parsed(parse_words)] = Field(
        ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com"),
        description="The only hosts that push messages are sent to. Endpoints come from browsers, so anybody can make them up.",
    )
    webpush_allow_loopback: bool = Field(
        False, description="true: endpoints on this machine are allowed, for development."
    )
    push_link: bool = Field(
        False,
        description="Without PUBLIC_BASE_URL only. true: the payload carries MX's URI, so MX's secret passes through Google's "
        "or Apple's hands. With PUBLIC_BASE_URL the payload always carries our own link.",
    )
    push_ttl: Annotated[timedelta, *parsed(parse_duration)] = Field(
        timedelta(days=3), description="How long a push service keeps a message for a device that is offline."
    )

    @field_validator("fcm_base_url", "fcm_token_uri", "apns_base_url")
    @classmethod
    def _service_urls(cls, value: str | None) -> str | None:
        return None if value is None else service_url(value, "https://push.example.com")

    @field_validator("webpush_contact")
    @classmethod
    def _somebody_to_ask(cls, value: str | None) -> str | None:
        return None if value is None else parse_contact(value)

    @model_validator(mode="after")
    def _push_is_whole(self) -> Self:
        if self.apns_key_file is not None:
            for name in ("apns_key_id", "apns_team_id", "apns_topic"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name.upper()} is missing: APNS_KEY_FILE is set")
        if self.webpush_vapid_key_file is not None and self.webpush_contact is None:
            raise ValueError("WEBPUSH_CONTACT is missing: WEBPUSH_VAPID_KEY_FILE is set")
        return self
