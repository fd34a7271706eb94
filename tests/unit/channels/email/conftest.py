"""Settings and messages for tests that make mails."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography.fernet import Fernet

from worker.channels import Bank, Message
from worker.settings import Settings, load_settings

URI = (
    "https://mxbank.mx.com/oauth/authorize?client_id=b8OikQ4Ep3NuSUrQ13DdvFuwpNx-qqoAsJDVAQCyLkQ"
    "&redirect_uri=https%3A%2F%2Fint-app.moneydesktop.com%2Foauth%2Fredirect_from&response_type=code"
    "&scope=openid&state=d273e4f71bc095cf16c4acbee011caf4"
)


@pytest.fixture
def uri() -> str:
    return URI


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(**overrides: Any) -> Settings:
        values = {
            "mx_api_key": "k",
            "mx_client_id": "c",
            "uri_keys": Fernet.generate_key().decode(),
            "smtp_url": "smtp://127.0.0.1:25?tls=none",
            "email_from": "Acme Money <no-reply@acme.example>",
            "email_reply_to": "help@acme.example",
            "app_name": "Acme",
        }
        return load_settings(_env_file=None, **{**values, **overrides})

    return make


@pytest.fixture
def make_message() -> Callable[..., Message]:
    def make(*, bank: str = "First Bank", link: str = URI, **overrides: Any) -> Message:
        values = {
            "key": "episode-7/0/email",
            "address": "customer@example.com",
            "locale": "en-US",
            "time_zone": ZoneInfo("Europe/Madrid"),
            "step": 0,
            "banks": (Bank(name=bank, since=datetime(2026, 3, 3, 23, 30, tzinfo=UTC), link=link),),
        }
        return Message(**{**values, **overrides})

    return make
