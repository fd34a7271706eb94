"""The settings of events: where they are posted to, and the keys that sign them."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from worker.settings.urls import endpoint_url
from worker.settings.values import parse_words
from worker.signing import is_key


def _keys(value: object) -> object:
    return tuple(SecretStr(word) for word in parse_words(value)) if isinstance(value, str) else value


class EventsSettings(BaseModel):
    """A part of :class:`worker.settings.Settings`."""

    #: A secret, because path and query may contain a credential.
    events_url: SecretStr | None = Field(
        None,
        description="Where events are posted to: one address of your application. https, unless it is loopback. Unset: no events.",
    )
    events_secrets: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)] = Field(
        (),
        description="whsec_… keys (Standard Webhooks), comma-separated, that sign what is posted; the first two sign. "
        'Make one with: echo "whsec_$(openssl rand -base64 32)"',
    )

    @field_validator("events_url")
    @classmethod
    def _an_endpoint(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        return SecretStr(endpoint_url(value.get_secret_value(), "https://app.example.com/reconnections"))

    @field_validator("events_secrets")
    @classmethod
    def _signing_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for place, key in enumerate(value, start=1):
            if not is_key(key.get_secret_value()):
                raise ValueError(
                    f"key {place} is no key of Standard Webhooks: whsec_ and 24 to 64 bytes in base64; "
                    'make one with: echo "whsec_$(openssl rand -base64 32)"'
                )
        return value

    @model_validator(mode="after")
    def _events_are_signed(self) -> Self:
        if self.events_url is not None and not self.events_secrets:
            raise ValueError("EVENTS_SECRETS is missing: EVENTS_URL is set, and every event is signed")
        return self
