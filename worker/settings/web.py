"""The settings of the web process: the public address of our links, and where it listens."""

import ipaddress
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from worker.settings.urls import service_url
from worker.settings.values import parse_words, parsed

_PORTS = 65_535
_LONGEST = 200


def _keys(value: object) -> object:
    return tuple(SecretStr(word) for word in parse_words(value)) if isinstance(value, str) else value


class WebSettings(BaseModel):
    """A part of :class:`worker.settings.Settings`."""

    public_base_url: str | None = Field(
        None,
        description="The public address of `reconnect web`, such as https://reconnect.example.com. Set: messages carry our "
        "durable link. Unset: they carry MX's URI itself, which works once. https, unless it is loopback.",
    )
    web_listen: str = Field(
        "127.0.0.1:8080", description="Where `reconnect web` listens: host:port. A proxy with TLS stands before it."
    )
    link_days: int = Field(
        40,
        ge=1,
        le=400,
        description="How many days a link works: its page shows how each of its banks stands, and leads to those that are broken.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)] = Field(
        (),
        description="Keys of /api/v1, comma-separated, of which a request carries one (Authorization: Bearer KEY). Make one with: "
        "openssl rand -base64 32. Unset: these addresses answer 404.",
    )
    forwarded_allow_ips: Annotated[tuple[str, ...], *parsed(parse_words)] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8.",
    )
    mx_webhook_auth: SecretStr | None = Field(
        None,
        description="What MX sends with its webhooks to PUBLIC_BASE_URL/webhooks/mx: user:password (Basic), or bearer TOKEN. "
        "Unset: that address answers 404.",
    )

    @field_validator("public_base_url")
    @classmethod
    def _public_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = service_url(value, "https://reconnect.example.com")
        if "#" in value or "%" in value or not value.isascii():
            raise ValueError("expected a URL such as https://reconnect.example.com")
        if len(value) > _LONGEST:
            raise ValueError(f"is too long: a header of each mail holds it, so it has at most {_LONGEST} characters")
        return value

    @field_validator("web_listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):(\d{1,5})", value)
        if match is None or not 0 <= int(match[2]) <= _PORTS:
            raise ValueError("expected host:port, such as 127.0.0.1:8080")
        return value

    @field_validator("mx_webhook_auth")
    @classmethod
    def _name_and_password_or_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            scheme, space, token = value.get_secret_value().partition(" ")
            is_bearer = bool(space) and scheme.lower() == "bearer"
            if not re.fullmatch(
                r"[!-~]+" if is_bearer else r"[^:]+:.+", token.strip() if is_bearer else f"{scheme}{space}{token}"
            ):
                raise ValueError("expected user:password, or bearer TOKEN")
        return value

    @field_validator("api_keys")
    @classmethod
    def _fit_a_header(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for place, key in enumerate(value, start=1):
            if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
                raise ValueError(f"key {place} has characters that no bearer token can hold")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            try:
                ipaddress.ip_network(word)
            except ValueError:
                raise ValueError(f"{word[:40]!r} is no address or network such as 10.0.0.0/8") from None
        return value
