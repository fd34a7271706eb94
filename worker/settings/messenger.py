"""The setting of the messenger channel: the company's own service for SMS, WhatsApp, a CRM or chat."""

from typing import Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from worker.settings.urls import endpoint_url


class MessengerSettings(BaseModel):
    """A part of :class:`worker.settings.Settings`."""

    messenger_url: SecretStr | None = Field(
        None,
        description="Where messages go to your own messenger (SMS, WhatsApp, a CRM), each as one POST signed with "
        "EVENTS_SECRETS. Needs PUBLIC_BASE_URL. https, unless it is loopback. Unset: no messenger.",
    )

    @field_validator("messenger_url")
    @classmethod
    def _endpoint(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        return SecretStr(endpoint_url(value.get_secret_value(), "https://messenger.example.com/reconnections"))

    @model_validator(mode="after")
    def _messenger_is_whole(self) -> Self:
        if self.messenger_url is not None:
            if getattr(self, "public_base_url", None) is None:
                raise ValueError(
                    "PUBLIC_BASE_URL is missing: MESSENGER_URL is set, and its messages carry our own link"
                )
            if not getattr(self, "events_secrets", ()):
                raise ValueError("EVENTS_SECRETS is missing: MESSENGER_URL is set, and its requests are signed")
        return self
