"""The settings: type, default, reason and validation of each.

Those of push, of the web process, of events and of the messenger are in :mod:`worker.settings.push`, :mod:`~worker.settings.web`,
:mod:`~worker.settings.events` and :mod:`~worker.settings.messenger`.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from cryptography.fernet import Fernet
from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.settings.env_file import misread, read_env_file, under_honcho
from worker.settings.events import EventsSettings
from worker.settings.messenger import MessengerSettings
from worker.settings.push import PushSettings
from worker.settings.urls import database_url, redis_url, service_url
from worker.settings.values import (
    CONNECTION_STATUSES,
    MX_BASE_URLS,
    MX_OWN_IDS,
    Cap,
    QuietHours,
    SmtpServer,
    parse_caps,
    parse_days,
    parse_duration,
    parse_notice_days,
    parse_quiet_hours,
    parse_smtp_url,
    parse_words,
    parsed,
)
from worker.settings.web import WebSettings

#: Statuses of a healthy member. Selecting one would send messages about connections that work.
_HEALTHY = frozenset({"CONNECTED", "RECONNECTED", "UPDATED", "RESUMED"})

_URI_KEY_HELP = "make one with `reconnect init`"


def _fernet_keys(value: object) -> object:
    return tuple(SecretStr(word) for word in parse_words(value)) if isinstance(value, str) else value


Duration = Annotated[timedelta, *parsed(parse_duration)]
Days = Annotated[tuple[int, ...], *parsed(parse_days)]
NoticeDays = Annotated[tuple[int, ...], *parsed(parse_notice_days)]
Caps = Annotated[tuple[Cap, ...], *parsed(parse_caps)]
Quiet = Annotated[QuietHours | None, *parsed(parse_quiet_hours)]
Words = Annotated[tuple[str, ...], *parsed(parse_words)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_fernet_keys)]


class _EnvFile(DotEnvSettingsSource):
    """``.env`` as :mod:`worker.settings.env_file` reads it. ``only_misread``: only the values that a Procfile runner read wrongly."""

    def __init__(self, settings_cls: type[BaseSettings], file: Any, *, only_misread: bool) -> None:
        self._only_misread = only_misread
        super().__init__(settings_cls, env_file=file)

    def _read_env_files(self) -> Mapping[str, str | None]:
        if self.env_file is None:
            return {}
        path = Path(str(self.env_file))
        values = misread(path, self.settings_cls.model_fields) if self._only_misread else read_env_file(path)
        return {name.lower(): value for name, value in values.items()}


class Settings(EventsSettings, WebSettings, PushSettings, MessengerSettings, BaseSettings):
    """All settings. ``reconnect init`` writes a field's description above it."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True, case_sensitive=False
    )

    database_url: SecretStr = Field(
        SecretStr("sqlite:///reconnect.db"),
        description="Where members and all work are kept: sqlite:///file, or postgresql://user:password@host/name in "
        "production. libpq's options pass through: ?sslmode=verify-full&sslrootcert=…",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Broker and pacing; rediss:// for TLS. `reconnect up` brings its own when this is unset.",
    )

    mx_api: Literal["atrium", "platform"] = Field(
        "atrium", description="The flavour of MX's API for which you have credentials: atrium or platform."
    )
    mx_base_url: str = Field(
        MX_BASE_URLS["atrium"][0],
        description="MX's integration environment, the default; https://atrium.mx.com in production. With platform they are "
        "https://int-api.mx.com and https://api.mx.com. https, unless it is loopback.",
    )
    mx_api_key: SecretStr = Field(description="From MX's dashboard. Required.")
    mx_client_id: SecretStr = Field(description="From MX's dashboard. Required.")
    mx_referral_source: Literal["BROWSER", "APP"] = Field(
        "BROWSER", description="APP only if OAuth starts from your mobile app; APP from a browser breaks the flow."
    )
    mx_client_redirect_url: str | None = Field(
        None,
        description="Where MX sends the customer at the end of OAuth. Only with APP. Unset: PUBLIC_BASE_URL/done, if that is set.",
    )
    mx_ui_message_webview_url_scheme: str | None = Field(
        None, description="The scheme that leads back into your app. Only with APP."
    )
    mx_enable_app2app: bool = Field(
        True,
        description="false: no URI leads into a bank's own app (at present Chase's). Only with platform.",
    )
    mx_skip_aggregation: bool = Field(
        False, description="true: MX does not aggregate by itself after the customer comes back."
    )
    mx_max_connections: int = Field(
        200, ge=1, le=2000, description="Requests in flight per process. MX allows 2,000 connections per address."
    )
    mx_requests_per_second: Annotated[float | None, BeforeValidator(lambda v: v or None)] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Requests a second by all processes together, web included; unset for no limit.",
    )
    mx_allowed_uri_hosts: Words = Field(
        (),
        description="Host patterns such as *.mx.com,*.moneydesktop.com; a URI to another host is quarantined. "
        "Unset: every host, since banks use their own.",
    )

    reconnect_statuses: Words = Field(
        ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED"),
        description="The connection_status values that mean: OAuth again.",
    )
    sweep_schedule: str = Field("*/5 * * * *", description="When beat sweeps, as in a crontab, UTC.")
    sync_schedule: str | None = Field(
        None,
        description="When all users and members are listed at MX, as in a crontab, UTC, such as 0 3 * * *. Unset: MX is not listed.",
    )
    sync_emails: bool = Field(
        False, description="Whether a sync takes over addresses that MX knows, where yours are empty."
    )
    batch_size: int = Field(200, ge=1, le=5000, description="Rows claimed and settled at once.")
    run_seconds: int = Field(
        30, ge=1, le=200, description="How long one task works; then it ends and queues another for what is left."
    )
    lease_seconds: int = Field(
        120,
        ge=10,
        le=86_400,
        description="How long a lease lasts. Working processes renew it; after that the worker counts as dead.",
    )
    max_attempts: int = Field(
        8, ge=1, le=100, description="Failed fetches in a row before a reconnection is exhausted."
    )
    retention_days: Annotated[int | None, BeforeValidator(lambda v: None if v == "" else v)] = Field(
        400,
        ge=1,
        le=36_500,
        description="Ended reconnections, with their messages, links and clicks, are deleted so many days after their end; empty for never.",
    )
    uri_keys: Secrets = Field(
        description="Fernet keys, comma-separated: the first encrypts, all decrypt. Required; make one with `reconnect init`."
    )

    notify_after: Duration = Field(
        timedelta(minutes=15), description="Grace between the break and the first message; 0 for none."
    )
    reminder_days: Days = Field(
        (0, 3, 7, 14, 30),
        description="Days after the first message on which a customer who is not back is written to; then exhausted.",
    )
    expiry_notice_days: NoticeDays = Field(
        (),
        description="Days before a token expires on which its user is asked to renew it, such as 7,2. Needs token_expires_at, "
        "kept up to date by your application or reckoned from institutions.consent_days. Unset: no message is sent before something broke.",
    )
    quiet_hours: Quiet = Field(
        parse_quiet_hours("21:00-08:00"),
        description="No message is sent in these hours of the user's own clock; empty for none.",
    )
    time_zone: str = Field("UTC", description="For users without a time zone of their own.")
    fallback_time_zones: Words = Field(
        (
            "America/St_Johns", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles",
            "America/Anchorage", "Pacific/Honolulu",
        ),
        description="Where a user's time zone is not understood and their locale names no country: they are written to "
        "only when it is outside QUIET_HOURS in TIME_ZONE and in all of these, so far as there is such an hour; the last "
        "are left out first. The default is North America, where MX's institutions are. Empty: TIME_ZONE alone.",
    )  # fmt: skip
    message_caps: Caps = Field(
        parse_caps("1/24h,3/7d"),
        description="The most messages to one user within a time: 1 in 24 hours and 3 in 7 days; empty for no cap.",
    )
    uri_max_age: Duration = Field(
        timedelta(minutes=15), description="An older URI is fetched anew before it is sent; 0 for never."
    )
    ambiguous_sends: Literal["hold", "resend"] = Field(
        "hold",
        description="A message whose answer was lost may have arrived. hold: not sent again; after a first message another follows a day later. resend: sent again.",
    )

    smtp_url: SecretStr | None = Field(
        None,
        description="smtp://user:password@host:587?tls=required, or smtps://…; tls=none only on loopback. Unset: no email.",
    )
    smtp_connections: int = Field(10, ge=1, le=500, description="Connections to the mail server per process.")
    email_from: str | None = Field(
        None, validate_default=True, description="Sender: name@example.com or Name <name@example.com>."
    )
    email_reply_to: str | None = Field(None, description="A mailbox that somebody reads.")
    bounce_address: str | None = Field(
        None,
        description="Where delivery reports go; the envelope's sender becomes bounces+TOKEN@… (VERP), so + must be delivered. Unset: EMAIL_FROM.",
    )
    complaints: Literal["count", "optout"] = Field(
        "count",
        description="What `reconnect bounces` does with users who called a mail spam: count them, or opt them out.",
    )
    app_name: str | None = Field(None, description="What customers call your product; default: the sender's name.")
    templates_dir: Path | None = Field(
        None, description="A folder with mail templates of your own. Templates that it lacks are taken from ours."
    )
    default_locale: str | None = Field(
        None, description="The locale of users who have none, or whose language has no catalogue: en, es or fr."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no folder of secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = getattr(dotenv_settings, "env_file", None)
        repaired = (_EnvFile(settings_cls, file, only_misread=True),) if under_honcho() else ()
        return init_settings, *repaired, env_settings, _EnvFile(settings_cls, file, only_misread=False)

    @field_validator("*", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object, info: Any) -> object:
        """``NAME=`` in a ``.env`` means "not set", except for the settings that an empty value switches off."""
        if isinstance(value, str) and not value.strip():
            field = cls.model_fields[info.field_name]
            if info.field_name in _EMPTY_SWITCHES_OFF:
                return ""
            if field.is_required():
                raise ValueError("is missing")
            return field.default
        return value

    @model_validator(mode="before")
    @classmethod
    def _base_url_by_flavour(cls, raw: dict[str, Any]) -> dict[str, Any]:
        bases = MX_BASE_URLS.get(str(raw.get("mx_api")))
        if bases is not None and not str(raw.get("mx_base_url") or "").strip():
            return raw | {"mx_base_url": bases[0]}
        return raw

    @field_validator("mx_base_url")
    @classmethod
    def _https_or_loopback(cls, value: str, info: ValidationInfo) -> str:
        api = info.data.get("mx_api", "atrium")
        url = service_url(value, MX_BASE_URLS[api][1])
        for other, bases in MX_BASE_URLS.items():
            if other != api and f"{url.lower()}/".startswith(tuple(f"{base}/" for base in bases)):
                raise ValueError(f"speaks {other}, and MX_API is {api}; set MX_API={other}, or unset this")
        return url

    @field_validator("mx_enable_app2app")
    @classmethod
    def _only_with_platform(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("mx_api") == "atrium":
            raise ValueError("can be false only with MX_API=platform; Atrium has no such parameter")
        return value

    @field_validator("mx_client_id")
    @classmethod
    def _fits_basic(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if ":" in value.get_secret_value() and info.data.get("mx_api") == "platform":
            raise ValueError("holds a colon, which HTTP Basic does not allow there (RFC 7617)")
        return value

    @field_validator("mx_client_redirect_url", "mx_ui_message_webview_url_scheme")
    @classmethod
    def _only_from_an_app(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("mx_referral_source") == "BROWSER":
            raise ValueError("works only with MX_REFERRAL_SOURCE=APP; set that, or unset this")
        return value

    @field_validator("mx_client_redirect_url")
    @classmethod
    def _leads_somewhere(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+", value):
            raise ValueError("expected a URL such as https://app.example.com/back or myapp://back")
        return value

    @field_validator("mx_ui_message_webview_url_scheme")
    @classmethod
    def _is_a_scheme(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*(:(//[!-~]*)?)?", value):
            raise ValueError("expected a scheme such as myapp")
        return value

    @field_validator("mx_allowed_uri_hosts", "webpush_hosts")
    @classmethod
    def _host_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[\w.*?-]+", pattern) for pattern in value):
            raise ValueError(
                "expected host names or patterns such as *.example.com, without https:// and without a path"
            )
        return value

    @field_validator("mx_api_key", "mx_client_id")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().isprintable() or not value.get_secret_value().isascii():
            raise ValueError("has characters that no HTTP header can carry")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr) -> SecretStr:
        return SecretStr(database_url(value.get_secret_value()))

    @field_validator("redis_url")
    @classmethod
    def _known_broker(cls, value: SecretStr) -> SecretStr:
        return SecretStr(redis_url(value.get_secret_value()))

    @field_validator("reconnect_statuses")
    @classmethod
    def _known_statuses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        value = tuple(dict.fromkeys(status.upper() for status in value))
        if not value:
            raise ValueError("names no status; name those that mean OAuth again, or leave it unset")
        for status in value:
            if status not in CONNECTION_STATUSES:
                raise ValueError(
                    f"{status[:40]!r} is no connection_status of MX; known are {', '.join(CONNECTION_STATUSES)}"
                )
            if status in _HEALTHY:
                raise ValueError(f"{status} means that the member is fine")
        return value

    @field_validator("sweep_schedule", "sync_schedule")
    @classmethod
    def _crontab(cls, value: str | None) -> str | None:
        from celery.schedules import ParseException, crontab

        if value is None:
            return None
        try:
            crontab.from_string(value)
        except (ParseException, ValueError):
            raise ValueError("expected a crontab line of five fields such as */5 * * * *") from None
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("expected a time zone such as Europe/Madrid") from None
        return value

    @field_validator("fallback_time_zones")
    @classmethod
    def _known_zones(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError):
                raise ValueError(
                    f"{name[:40]!r} is no time zone; expected a list such as America/New_York,Pacific/Honolulu"
                ) from None
        return value

    @field_validator("uri_keys")
    @classmethod
    def _valid_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not value:
            raise ValueError(f"is missing; {_URI_KEY_HELP}")
        for place, key in enumerate(value, start=1):
            try:
                Fernet(key.get_secret_value())
            except ValueError:
                raise ValueError(
                    f"key {place} is not a Fernet key (32 bytes, url-safe base64); {_URI_KEY_HELP}"
                ) from None
        return value

    @field_validator("smtp_url")
    @classmethod
    def _valid_smtp(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_smtp_url(value.get_secret_value())
        return value

    @field_validator("email_from", "email_reply_to")
    @classmethod
    def _one_mailbox(cls, value: str | None) -> str | None:
        from email.utils import getaddresses

        if value is not None:
            addresses = [address for _, address in getaddresses([value])]
            if not value.isprintable() or len(addresses) != 1 or not re.fullmatch(r"[^@]+@[^@]+", addresses[0]):
                raise ValueError("expected name@example.com or Name <name@example.com>")
        return value

    @field_validator("bounce_address")
    @classmethod
    def _room_for_a_token(cls, value: str | None) -> str | None:
        # RFC 5321, 4.5.3.1.1: 64 octets before the @; "+" and the token take 33.
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._=-]{1,31}@[A-Za-z0-9.-]{1,200}", value):
            raise ValueError(
                "expected an address such as bounces@example.com, with at most 31 characters before the @ and no +"
            )
        return value

    @field_validator("email_from")
    @classmethod
    def _every_mail_needs_a_sender(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("smtp_url") is not None:
            raise ValueError("is missing: SMTP_URL is set, and every mail needs a sender")
        return value

    @field_validator("*")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Refuse control characters, which come from a damaged file, and lone surrogates, which represent bytes that are not UTF-8."""
        for item in value if isinstance(value, tuple) else (value,):
            text = item.get_secret_value() if isinstance(item, SecretStr) else item
            if isinstance(text, str | Path) and any(
                unicodedata.category(letter) in {"Cc", "Cs"} for letter in str(text)
            ):
                raise ValueError("holds a control character, or bytes that are not UTF-8")
        return value

    @property
    def own_ids(self) -> bool:
        """Whether users and members may be named by own ids; depends on ``MX_API``."""
        return self.mx_api in MX_OWN_IDS

    @property
    def smtp_server(self) -> SmtpServer | None:
        """``SMTP_URL``, parsed."""
        return parse_smtp_url(self.smtp_url.get_secret_value()) if self.smtp_url else None

    @property
    def sender_name(self) -> str:
        """What customers call the product."""
        from email.utils import parseaddr

        name, address = parseaddr(self.email_from or "")
        return self.app_name or name or address.partition("@")[2] or "our app"

    @property
    def client_redirect_url(self) -> str | None:
        """Where MX sends the customer at the end of OAuth: ``MX_CLIENT_REDIRECT_URL``; without it, for an app, our page ``/done``."""
        if (
            self.mx_client_redirect_url is None
            and self.mx_referral_source == "APP"
            and self.public_base_url is not None
        ):
            return f"{self.public_base_url}/done"
        return self.mx_client_redirect_url

    def uri_host_is_allowed(self, host: str) -> bool:
        """Whether ``MX_ALLOWED_URI_HOSTS`` allows a URI to this host."""
        patterns = self.mx_allowed_uri_hosts
        return not patterns or any(fnmatch.fnmatchcase(host.lower(), pattern.lower()) for pattern in patterns)


_EMPTY_SWITCHES_OFF = {
    "retention_days",
    "notify_after",
    "reminder_days",
    "quiet_hours",
    "fallback_time_zones",
    "message_caps",
    "uri_max_age",
}
